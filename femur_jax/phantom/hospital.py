"""What differs between hospitals: detector, processing, format, and the look of their images."""

from dataclasses import dataclass

import numpy as np
from pydicom.uid import ExplicitVRLittleEndian as ExplicitVR
from pydicom.uid import ImplicitVRLittleEndian as ImplicitVR
from pydicom.uid import (
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

TRANSFER_SYNTAXES = (
    ExplicitVR,
    JPEGLosslessSV1,
    JPEGLSLossless,
    ImplicitVR,
    RLELossless,
    JPEG2000Lossless,
)

DEVICES = (
    ("Nordlys Imaging", "Aurora 35"),
    ("Kestrel Medical", "K-View DR"),
    ("Lumen Radiography", "Flat 4000"),
    ("Ostra Systems", "Plate Reader II"),
)
"""Makers and models that do not exist."""


@dataclass(frozen=True)
class Hospital:
    """A hospital's habits.

    Attributes:
        name: Code in labels.csv.
        device: Maker and model.
        modality: 'DX' (flat detector) or 'CR' (image plate), which also sets the SOP class.
        transfer_syntax: UID of the pixel encoding.
        photometric: 'MONOCHROME2', or 'MONOCHROME1' where low values are shown bright.
        bits: Bits stored, 10 to 16.
        spacing: 'detector' (at the detector only), 'calibrated' (also in the patient) or 'none'.
        voi: 'window', 'lut' or 'none'.
        rescale: Slope and intercept of the modality transform.
        range: Part of the stored range that the image fills, 0 to 1.
        long_side: Of its images, pixels.
        aspect: Least and greatest ratio of width to height.
        border: What lies outside the collimated field: 'none', 'dark' or 'bright'.
        marker: Whether a lead letter marks the side.
        photons: Mean count in an open pixel.
        scatter: Scattered over primary photons behind the grid.
        blur: Standard deviation of the detector's blur, pixels.
        detail: How much of the coarse structure the processing removes, 0 to 1.
        gamma: Exponent of the display curve.
        heel: Relative rise of the beam's intensity per radian downwards and to the right.
        grid: Amplitude of a stationary grid's shadow in the logarithm of the signal, 0 for a
            moving grid, and its lines per mm.
        black, white: Percentiles of the signal shown black and white.
    """

    name: str
    device: tuple[str, str]
    modality: str
    transfer_syntax: str
    photometric: str
    bits: int
    spacing: str
    voi: str
    rescale: tuple[float, float]
    range: tuple[float, float]
    long_side: int
    aspect: tuple[float, float]
    border: str
    marker: bool
    photons: float
    scatter: float
    blur: float
    detail: float
    gamma: float
    black: float
    white: float
    heel: tuple[float, float]
    grid: tuple[float, float]


def draw_hospitals(seed: int, number: int, long_side: tuple[int, int]) -> list[Hospital]:
    """Draws the hospitals of a cohort.

    Image sizes are spread evenly on a log scale. The hospital with the smallest images collimates
    to narrow fields and the one with the largest to wide ones, so with a factor 2 between the
    sides their areas differ by more than 4. Transfer syntaxes are dealt out in turn.

    Args:
        seed: Of the cohort.
        number: How many.
        long_side: Least and greatest length of an image's longer side, pixels.
    """
    rng = np.random.default_rng([seed, 0])
    sizes = np.round(np.geomspace(*long_side, number)).astype(int)
    ranks = rng.permutation(number)
    return [_draw_hospital(rng, i, int(sizes[ranks[i]]), ranks[i] / number) for i in range(number)]


def _draw_hospital(rng: np.random.Generator, number: int, size: int, rank: float) -> Hospital:
    modality = "DX" if rng.random() < 0.6 else "CR"
    # The DX IOD demands a VOI, an identity rescale and the detector's spacing (PS3.3 A.26, C.8.11).
    if modality == "DX":
        voi, spacing, rescale = rng.choice(["window", "lut"]), "detector", (1.0, 0.0)
        spacing = rng.choice(["detector", "calibrated"])
    else:
        voi = rng.choice(["window", "lut", "none"])
        spacing = rng.choice(["detector", "calibrated", "none"])
        rescale = (0.5, -64.0) if voi == "window" and rng.random() < 0.5 else (1.0, 0.0)
    narrowest = 0.42 + 0.16 * rank
    return Hospital(
        name=f"H{number + 1:02d}",
        device=DEVICES[rng.integers(len(DEVICES))],
        modality=modality,
        transfer_syntax=TRANSFER_SYNTAXES[number % len(TRANSFER_SYNTAXES)],
        photometric="MONOCHROME1" if rng.random() < 0.35 else "MONOCHROME2",
        bits=int(rng.integers(10, 13 if voi == "lut" else 17)),
        spacing=str(spacing),
        voi=str(voi),
        rescale=rescale,
        range=(0.0, 1.0) if voi == "none" else (rng.uniform(0.02, 0.1), rng.uniform(0.6, 0.98)),
        long_side=int(size),
        aspect=(narrowest, narrowest + 0.08 + 0.32 * rank),
        border=str(rng.choice(["none", "dark", "bright"], p=[0.5, 0.3, 0.2])),
        marker=bool(rng.random() < 0.7),
        photons=float(np.exp(rng.uniform(np.log(2e4), np.log(2e5)))),
        scatter=rng.uniform(0.15, 0.5),
        blur=rng.uniform(0.3, 0.7),
        detail=rng.uniform(0.35, 0.75),
        gamma=rng.uniform(0.8, 1.4),
        black=rng.uniform(1.0, 6.0),
        white=rng.uniform(99.3, 99.9),
        heel=_draw_heel(rng),
        grid=(rng.uniform(0.004, 0.015) if rng.random() < 0.2 else 0.0, rng.uniform(4.0, 7.0)),
    )


def _draw_heel(rng: np.random.Generator) -> tuple[float, float]:
    """Tubes mostly lie along the leg; the intensity varies by up to 30% over 400 mm."""
    rise = float(rng.choice([-1.0, 1.0]) * rng.uniform(0.3, 0.9))
    return (rise, 0.0) if rng.random() < 0.8 else (0.0, rise)
