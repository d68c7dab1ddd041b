"""From a patient before the camera to the grey values that a hospital shows."""

import numpy as np
from jaxtyping import Bool, Float, Float32

from femur_jax.phantom.anatomy import Femur
from femur_jax.phantom.fracture import Fracture
from femur_jax.phantom.hospital import Hospital
from femur_jax.phantom.xray import (
    Camera,
    add_texture,
    broad_blur,
    detect,
    project,
    transmission,
)

GLYPHS = {
    "L": ("1....", "1....", "1....", "1....", "1....", "1....", "11111"),
    "R": ("1111.", "1...1", "1...1", "1111.", "1.1..", "1..1.", "1...1"),
}


def radiograph(
    rng: np.random.Generator,
    femur: Femur,
    fracture: Fracture,
    hospital: Hospital,
    camera: Camera,
    shape: tuple[int, int],
    spacing: float,
    laterality: str,
) -> Float[np.ndarray, "height width"]:
    """Takes and processes one radiograph: grey values 0 to 1, bone bright."""
    # Cortices thinner than a pixel alias unless several rays share it.
    supersample = 2 if spacing > 0.5 else 1
    lengths = project(femur, fracture, camera, *shape, spacing, supersample)
    signal = detect(
        rng,
        transmission(add_texture(rng, lengths)),
        spacing=spacing,
        photons=hospital.photons,
        scatter=hospital.scatter,
        blur=hospital.blur,
    )
    return present(rng, hospital, signal, spacing=spacing, laterality=laterality)


def collimated_field(
    rng: np.random.Generator, hospital: Hospital, shape: tuple[int, int]
) -> Bool[np.ndarray, "height width"]:
    """Where the beam falls: all but a margin of up to 8% at each edge."""
    field = np.zeros(shape, bool)
    margin = np.zeros(4) if hospital.border == "none" else rng.uniform(0.0, 0.08, 4)
    top, bottom, left, right = np.round(margin * np.repeat(shape, 2)).astype(int)
    field[top : shape[0] - bottom, left : shape[1] - right] = True
    return field


def present(
    rng: np.random.Generator,
    hospital: Hospital,
    signal: Float32[np.ndarray, "height width"],
    *,
    spacing: float,
    laterality: str,
) -> Float[np.ndarray, "height width"]:
    """Processes a detector's signal for the viewer.

    Args:
        rng: Source of randomness.
        hospital: Its habits.
        signal: Log attenuation.
        spacing: Side of a pixel, mm.
        laterality: 'L' or 'R', for the marker.

    Returns:
        Grey values from 0 (black) to 1 (white), bone bright.
    """
    field = collimated_field(rng, hospital, signal.shape)
    coarse = broad_blur(signal, 30.0 / spacing)
    detail = signal - hospital.detail * coarse
    black, white = np.percentile(detail[field], [hospital.black, hospital.white])
    image = np.clip((detail - black) / (white - black), 0.0, 1.0) ** hospital.gamma
    if hospital.marker:
        _place_marker(rng, image, field, laterality)
    if hospital.border != "none":
        image[~field] = 1.0 if hospital.border == "bright" else 0.0
    return image


def _place_marker(
    rng: np.random.Generator,
    image: Float[np.ndarray, "height width"],
    field: Bool[np.ndarray, "height width"],
    laterality: str,
) -> None:
    """Draws the side's letter into a corner of the field."""
    glyph = np.array([[c == "1" for c in row] for row in GLYPHS[laterality]])
    scale = max(1, round(max(image.shape) / 140))
    letter = np.kron(glyph, np.ones((scale, scale), bool))
    rows, columns = np.flatnonzero(field.any(1)), np.flatnonzero(field.any(0))
    inset = 2 * scale
    top = rng.choice([rows[0] + inset, rows[-1] - inset - letter.shape[0]])
    left = rng.choice([columns[0] + inset, columns[-1] - inset - letter.shape[1]])
    corner = image[top : top + letter.shape[0], left : left + letter.shape[1]]
    corner[letter] = 1.0
