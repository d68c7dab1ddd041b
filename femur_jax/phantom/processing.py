"""Takes a patient's radiograph and processes it to the grey values that a hospital displays."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Int

from femur_jax.phantom.anatomy import Femur
from femur_jax.phantom.camera import Camera
from femur_jax.phantom.detector import BLOCK, detect
from femur_jax.phantom.fracture import Fracture
from femur_jax.phantom.hospital import Hospital
from femur_jax.phantom.interpolate import gaussian
from femur_jax.phantom.scene import Implant, Scene
from femur_jax.phantom.spectrum import ATTENUATION, WEIGHTS
from femur_jax.phantom.texture import draw_texture
from femur_jax.phantom.xray import expose

GLYPHS = {
    "L": ("1....", "1....", "1....", "1....", "1....", "1....", "11111"),
    "R": ("1111.", "1...1", "1...1", "1111.", "1.1..", "1..1.", "1...1"),
}


LEAD = np.float32(-np.log(WEIGHTS @ np.exp(-ATTENUATION["lead"])))
"""Attenuation by a marker of 1 mm lead."""

CURVE = 2**14
"""Number of entries of a display curve."""


class Marker(NamedTuple):
    """A lead letter on the detector.

    Attributes:
        top, left: Upper left corner of the letter, pixels.
        attenuation: Logarithm of the open beam over the transmitted beam.
    """

    top: int
    left: int
    attenuation: Float32[np.ndarray, "height width"]

    def shade(self, signal: Float32[np.ndarray, "rows width"], first: int) -> None:
        """Adds the letter to rows of an image, from row number `first`."""
        height, width = self.attenuation.shape
        top, bottom = max(self.top, first), min(self.top + height, first + len(signal))
        if top < bottom:
            rows = self.attenuation[top - self.top : bottom - self.top]
            signal[top - first : bottom - first, self.left : self.left + width] += rows

    def covers(
        self, row: Int[np.ndarray, "points"], column: Int[np.ndarray, "points"]
    ) -> Bool[np.ndarray, "points"]:
        """Whether pixels lie in the letter's rectangle."""
        height, width = self.attenuation.shape
        inside = (row >= self.top) & (row < self.top + height)
        return inside & (column >= self.left) & (column < self.left + width)


def draw_marker(
    rng: np.random.Generator, shape: tuple[int, int], field: tuple[slice, slice], laterality: str
) -> Marker:
    """Draws the position of a letter for the side, 1 mm thick, in a corner of the field."""
    glyph = np.array([[c == "1" for c in row] for row in GLYPHS[laterality]])
    scale = max(1, round(max(shape) / 140))
    letter = np.kron(glyph, np.ones((scale, scale), bool))
    rows, columns = field
    inset = 2 * scale
    top = rng.choice([rows.start + inset, rows.stop - 1 - inset - letter.shape[0]])
    left = rng.choice([columns.start + inset, columns.stop - 1 - inset - letter.shape[1]])
    return Marker(int(top), int(left), np.where(letter, LEAD, np.float32(0.0)))


def radiograph(
    rng: np.random.Generator,
    femur: Femur,
    fracture: Fracture,
    hospital: Hospital,
    camera: Camera,
    shape: tuple[int, int],
    spacing: float,
    laterality: str,
    implants: Sequence[Implant] = (),
) -> Float32[np.ndarray, "height width"]:
    """Takes and processes one radiograph; returns grey values 0 to 1, bone bright."""
    muscle = draw_texture(rng, extent=200.0, pitch=2.0, exponent=3.0, deviation=0.015)
    bone = draw_texture(rng, extent=64.0, pitch=spacing, exponent=1.5, deviation=0.04)
    size = (shape[0] * spacing, shape[1] * spacing)
    scene = Scene(femur, fracture, camera, size, implants)
    exposure = expose(
        scene, shape, spacing, muscle=muscle, scatter=hospital.scatter, heel=hospital.heel
    )
    field = collimated_field(rng, hospital, shape)
    shadows = grid_lines(hospital, shape[1], spacing)
    lead = draw_marker(rng, shape, field, laterality) if hospital.marker else None

    def rows(top: int, bottom: int) -> Float32[np.ndarray, "2 rows width"]:
        block = exposure.rows(top, bottom)
        block[0] += shadows
        if lead:
            lead.shade(block[0], top)
        return block

    signal = detect(rng, rows, shape, bone.values, photons=hospital.photons, blur=hospital.blur)
    return present(hospital, signal, field, lead, spacing=spacing)


def grid_lines(hospital: Hospital, width: int, spacing: float) -> Float32[np.ndarray, "width"]:
    """Shadow of a stationary grid's lamellae along a row, averaged over each pixel.

    Pixels coarser than the lamellae show them at a lower frequency (aliasing).
    """
    amplitude, frequency = hospital.grid
    x = np.arange(width) * spacing
    seen = amplitude * np.sinc(frequency * spacing)
    return (seen * np.sin(2.0 * np.pi * frequency * x)).astype(np.float32)


def collimated_field(
    rng: np.random.Generator, hospital: Hospital, shape: tuple[int, int]
) -> tuple[slice, slice]:
    """Draws the rows and columns in the beam: all but up to 8% at each edge."""
    margin = np.zeros(4) if hospital.border == "none" else rng.uniform(0.0, 0.08, 4)
    top, bottom, left, right = np.round(margin * np.repeat(shape, 2)).astype(int)
    return slice(top, shape[0] - bottom), slice(left, shape[1] - right)


def present(
    hospital: Hospital,
    signal: Float32[np.ndarray, "height width"],
    field: tuple[slice, slice],
    lead: Marker | None,
    *,
    spacing: float,
) -> Float32[np.ndarray, "height width"]:
    """Processes a detector's signal for the viewer.

    Args:
        hospital: The hospital that processes the image.
        signal: Log attenuation, which is overwritten.
        field: Rows and columns within the collimation.
        lead: The marker, which does not influence the grey scale.
        spacing: Side of a pixel, mm.

    Returns:
        Grey values from 0 (black) to 1 (white), bone bright.
    """
    height, width = signal.shape
    coarse = gaussian(signal, 30.0 / spacing)
    lines = np.float32(hospital.detail) * coarse.widened(width)
    # A hundred thousand pixels are enough for the percentiles.
    stride = max(1, int(np.sqrt(signal.size / 1e5)))
    pixels = np.mgrid[tuple(slice(s.start, s.stop, stride) for s in field)].reshape(2, -1)
    if lead:
        pixels = pixels[:, ~lead.covers(*pixels)]
    detail = signal[*pixels] - np.float32(hospital.detail) * coarse.at(*pixels)
    black, white = np.percentile(detail, [hospital.black, hospital.white])
    curve = np.linspace(0.0, 1.0, CURVE, dtype=np.float32) ** np.float32(hospital.gamma)
    scale = np.float32((CURVE - 1) / (white - black))
    step = max(1, BLOCK // width)
    for top in range(0, height, step):
        block = signal[top : top + step]
        y = np.clip(np.arange(top, top + len(block)) / coarse.step, 0, len(lines) - 1)
        above = np.minimum(y.astype(int), max(len(lines) - 2, 0))
        share = (y - above).astype(np.float32)[:, None]
        below = np.minimum(above + 1, len(lines) - 1)
        block -= lines[above] + share * (lines[below] - lines[above])
        block -= np.float32(black)
        block *= scale
        np.clip(block, 0, CURVE - 1, out=block)
        np.take(curve, (block + np.float32(0.5)).astype(np.uint16), out=block, mode="clip")
    if hospital.border != "none":
        value = 1.0 if hospital.border == "bright" else 0.0
        rows, columns = field
        signal[: rows.start] = signal[rows.stop :] = value
        signal[:, : columns.start] = signal[:, columns.stop :] = value
    return signal
