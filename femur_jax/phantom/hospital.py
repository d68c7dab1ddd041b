"""Differences between hospitals: detector, processing, file format and layout of images."""

from dataclasses import dataclass

import numpy as np
from pydicom.uid import (
    JPEG2000,
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

COMMON_SYNTAXES = (
    ExplicitVRLittleEndian,
    JPEGLosslessSV1,
    JPEGLSLossless,
    ImplicitVRLittleEndian,
    RLELossless,
    JPEG2000Lossless,
)
RARE_SYNTAXES = (
    JPEG2000,
    JPEGLossless,
    JPEGLSNearLossless,
    JPEGExtended12Bit,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
    JPEGBaseline8Bit,
)
LOSSY_SYNTAXES = (JPEG2000, JPEGLSNearLossless, JPEGExtended12Bit, JPEGBaseline8Bit)
DECK = (
    *COMMON_SYNTAXES,
    *(ExplicitVRLittleEndian, JPEGLosslessSV1, ImplicitVRLittleEndian, JPEG2000Lossless) * 2,
    *RARE_SYNTAXES,
    *COMMON_SYNTAXES,
    *(ExplicitVRLittleEndian, JPEGLosslessSV1) * 4,
)
"""Transfer syntaxes in the order in which hospitals get them, common ones first and more often."""

DEVICES = (
    ("Nordlys Imaging", "Aurora 35"),
    ("Nordlys Imaging", "Aurora 43 W"),
    ("Kestrel Medical", "K-View DR"),
    ("Kestrel Medical", "K-Plate 3"),
    ("Lumen Radiography", "Flat 4000"),
    ("Lumen Radiography", "Portable 12"),
    ("Ostra Systems", "Plate Reader II"),
    ("Ostra Systems", "Bucky One"),
    ("Vireo", "DXR 17"),
    ("Halden X-Ray", "H2"),
)
"""Invented makers and models."""

NARROWEST, WIDEST = 0.42, 0.98
"""Ratios of width to height of the smallest and the largest images."""


@dataclass(frozen=True)
class Hospital:
    """Equipment and settings of a hospital.

    Attributes:
        name: Code in labels.csv.
        device: Maker and model.
        modality: Kind of detector, which also sets the SOP class: 'DX' (flat detector) or 'CR'
            (image plate).
        transfer_syntax: UID of the pixel encoding.
        photometric: Photometric interpretation, 'MONOCHROME2', or 'MONOCHROME1' if low values
            are displayed bright.
        bits: Bits stored, 8 (in one byte) or 10 to 16.
        signed: Whether stored values are two's complement; the rescale compensates for it.
        spacing: Recorded pixel spacing: 'detector' (at the detector only), 'calibrated' (also in
            the patient), 'zero' (in the patient, as 0.000) or 'none'.
        voi: VOI transform: 'window', 'windows' (two, the first one is correct), 'sigmoid', 'lut'
            or 'none'.
        rescale: Slope and intercept of the modality transform for unsigned values.
        range: Interval of the stored range that the image fills, 0 to 1.
        long_side: Longer side of the images, pixels.
        aspect: Least and greatest ratio of width to height.
        border: Grey outside the collimated field: 'none', 'dark' or 'bright'.
        outline: Declaration of invalid edges in the header: 'none', a shutter's shape
            ('RECTANGULAR', 'CIRCULAR' or 'POLYGONAL') or 'PADDING'.
        marker: Whether a lead letter marks the side.
        kvp: Peak voltage of the tube, kV.
        photons: Mean count in a pixel of the open beam.
        scatter: Ratio of scattered to primary photons behind the grid.
        blur: Standard deviation of the detector's blur, pixels.
        detail: Share of the coarse structure that the processing removes, 0 to 1.
        gamma: Exponent of the display curve.
        heel: Increase of the beam's intensity, as a share of it, per radian downwards and to the
            right.
        grid: Amplitude of a stationary grid's shadow in the logarithm of the signal, 0 for a
            moving grid, and the grid's lines per mm.
        black, white: Percentiles of the signal shown black and white.
    """

    name: str
    device: tuple[str, str]
    modality: str
    transfer_syntax: str
    photometric: str
    bits: int
    signed: bool
    spacing: str
    voi: str
    rescale: tuple[float, float]
    range: tuple[float, float]
    long_side: int
    aspect: tuple[float, float]
    border: str
    outline: str
    marker: bool
    kvp: int
    photons: float
    scatter: float
    blur: float
    detail: float
    gamma: float
    black: float
    white: float
    heel: tuple[float, float]
    grid: tuple[float, float]


def long_sides(megapixels: tuple[float, float]) -> tuple[int, int]:
    """Least and greatest longer side in pixels for areas of all images within given bounds."""
    least, greatest = megapixels
    return int(np.ceil(np.sqrt(least * 1e6 / NARROWEST))), int(np.sqrt(greatest * 1e6 / WIDEST))


def draw_hospitals(seed: int, number: int, long_side: tuple[int, int]) -> list[Hospital]:
    """Draws the hospitals of a cohort.

    Image sizes are spread evenly on a log scale. The hospital with the smallest images collimates
    to narrow fields and the one with the largest to wide fields. So the areas differ by a factor of
    more than 4 if the sides differ by a factor of 2. Hospitals get the syntaxes of DECK in turn.

    Args:
        seed: Seed of the cohort.
        number: Number of hospitals.
        long_side: Least and greatest length of an image's longer side, pixels.
    """
    sizes = np.geomspace(*long_side, number).round().astype(int)
    ranks = np.random.default_rng([seed, 0]).permutation(number)
    return [
        _draw_hospital(
            np.random.default_rng([seed, 1, i]),
            f"H{i + 1:02d}",
            DECK[i % len(DECK)],
            int(sizes[rank]),
            rank / max(number - 1, 1),
        )
        for i, rank in enumerate(ranks)
    ]


def _draw_hospital(
    rng: np.random.Generator, name: str, syntax: UID, long_side: int, rank: float
) -> Hospital:
    def choose(**shares: float) -> str:
        return str(rng.choice(list(shares), p=list(shares.values())))

    modality = choose(DX=0.6, CR=0.4)
    # The DX IOD requires a VOI, an identity rescale, unsigned values and the detector's spacing
    # (PS3.3 A.26, C.8.11).
    if modality == "DX":
        voi = choose(window=0.45, windows=0.2, sigmoid=0.15, lut=0.2)
        spacing = choose(detector=0.55, calibrated=0.45)
        rescale, signed = (1.0, 0.0), False
    else:
        voi = choose(window=0.35, windows=0.15, sigmoid=0.1, lut=0.15, none=0.25)
        spacing = choose(detector=0.4, calibrated=0.3, zero=0.1, none=0.2)
        rescale = (0.5, -64.0) if voi.startswith("window") and rng.random() < 0.4 else (1.0, 0.0)
        # Codestreams of signed values are too rare to simulate.
        signed = bool(rng.random() < 0.5) and not syntax.is_encapsulated
    bits = int(rng.integers(10, 13 if voi == "lut" else 17))
    if syntax == JPEGBaseline8Bit or (rng.random() < 0.05 and syntax != JPEGExtended12Bit):
        bits = 8
    elif syntax == JPEGExtended12Bit:
        bits = 12
    outline = choose(none=0.74, RECTANGULAR=0.08, CIRCULAR=0.05, POLYGONAL=0.05, PADDING=0.08)
    if outline == "PADDING" and (voi == "none" or syntax in LOSSY_SYNTAXES):
        outline = "none"  # no stored value is left for the padding
    narrowest = NARROWEST + 0.16 * rank
    return Hospital(
        name=name,
        device=DEVICES[rng.integers(len(DEVICES))],
        modality=modality,
        transfer_syntax=syntax,
        photometric=choose(MONOCHROME1=0.35, MONOCHROME2=0.65),
        bits=bits,
        signed=signed,
        spacing=spacing,
        voi=voi,
        rescale=rescale,
        range=(0.0, 1.0) if voi == "none" else (rng.uniform(0.02, 0.1), rng.uniform(0.6, 0.98)),
        long_side=long_side,
        aspect=(narrowest, narrowest + 0.08 + (WIDEST - NARROWEST - 0.24) * rank),
        border=choose(none=0.5, dark=0.3, bright=0.2),
        outline=outline,
        marker=bool(rng.random() < 0.7),
        kvp=int(rng.integers(65, 86)),
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
    """Draws the heel effect: mostly along the leg, and up to 30% over 400 mm."""
    rise = float(rng.choice([-1.0, 1.0]) * rng.uniform(0.3, 0.9))
    return (rise, 0.0) if rng.random() < 0.8 else (0.0, rise)
