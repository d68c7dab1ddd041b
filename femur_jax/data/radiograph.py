"""A radiograph with its metadata."""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Float32, UInt16

LABELS = ("NFF", "AFF")
"""Classes in the order of their ids: 0 normal, 1 atypical femur fracture (the positive class)."""

VIEWS = ("unknown", "AP", "lateral")
LATERALITIES = ("unknown", "L", "R")
SPACING_SOURCES = ("unknown", "detector", "calibrated")
SEXES = ("unknown", "F", "M")
INTENTS = ("unknown", "presentation", "processing")
GREATEST_AGE = 90


def to_unit(pixels: UInt16[Any, "*shape"]) -> Float32[Any, "*shape"]:
    """Maps grey values 0..65535 to -1..1, as models see them; an array of NumPy or JAX."""
    return pixels.astype(np.float32) / 32767.5 - 1


def to_grey(values: Float[Any, "*shape"]) -> UInt16[Any, "*shape"]:
    """Maps -1..1 to grey values 0..65535, clipped; an array of NumPy or JAX."""
    return ((values.clip(-1, 1) + 1) * 32767.5).round().astype(np.uint16)


class Box(NamedTuple):
    """A rectangle of pixels: first row and column, number of rows and columns."""

    top: int
    left: int
    height: int
    width: int

    @property
    def slices(self) -> tuple[slice, slice]:
        """Index of the box's pixels in an image."""
        return (
            slice(self.top, self.top + self.height),
            slice(self.left, self.left + self.width),
        )


@dataclass(frozen=True)
class Source:
    """Facts about a file's origin: an allow-list, without any free text of the header.

    Attributes:
        syntax: Name of the transfer syntax, or of the image format.
        bits: Stored bits of a pixel.
        photometric: MONOCHROME1 or MONOCHROME2.
        voi: Origin of the grey values: 'lut', 'window', 'range' of the pixels themselves, or
            'stored' where an exported picture's values are shown as they are.
        limits: Four values (modality units, from dark to bright) that became grey 0, 2048, 63487
            and 65535 of a 'range', linear between them: one end, two limits, the other end. A
            limit that equals its end became 0 or 65535. Empty for all other origins.
        clipped: Number of pixels that lossy compression had moved beyond the stored range.
        intent: One of INTENTS (Presentation Intent Type).
        vendor: A name from `dicom.VENDORS`, a keyed pseudonym for any other maker, or unknown.
        sex: One of SEXES.
        age: Age in years, at most GREATEST_AGE, 0 where unknown.
    """

    syntax: str = "unknown"
    bits: int = 16
    photometric: str = "MONOCHROME2"
    voi: str = "range"
    limits: tuple[float, ...] = ()
    clipped: int = 0
    intent: str = "unknown"
    vendor: str = "unknown"
    sex: str = "unknown"
    age: int = 0


@dataclass(frozen=True)
class Radiograph:
    """One radiograph with the metadata that is kept; nothing else of its file is.

    Attributes:
        pixels: Grey values for presentation over the full range 0..65535, bone bright, of the
            whole recorded image, also outside the collimated field.
        name: Unique name within the dataset, a pseudonym.
        label: One of LABELS.
        patient: Pseudonym that all radiographs of a patient share.
        hospital: Pseudonym of the hospital.
        spacing_mm: Side of a pixel in mm, 0.0 where unknown.
        spacing_source: One of SPACING_SOURCES: calibrated to the patient's plane, measured
            at the detector (uncorrected for magnification, DICOM PS3.3 10.7), or unknown.
        view: One of VIEWS.
        laterality: One of LATERALITIES.
        crop: The area of `pixels` that shows the patient, None for all of it.
        source: Facts about the file's origin.
        columns: Further columns of the label table as numbers, None where unknown.
    """

    pixels: UInt16[np.ndarray, "height width"]
    name: str
    label: str
    patient: str
    hospital: str
    spacing_mm: float = 0.0
    spacing_source: str = "unknown"
    view: str = "unknown"
    laterality: str = "unknown"
    crop: Box | None = None
    source: Source = field(default_factory=Source)
    columns: dict[str, float | None] = field(default_factory=dict)
