"""A radiograph as every stage knows it."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt16

LABELS = ("NFF", "AFF")
"""Classes in the order of their ids: 0 normal, 1 atypical femur fracture (the positive class)."""

VIEWS = ("unknown", "AP", "lateral")
LATERALITIES = ("unknown", "L", "R")
SPACING_SOURCES = ("unknown", "detector", "calibrated")


@dataclass(frozen=True)
class Radiograph:
    """One radiograph with what may be known of it; nothing else of a file is kept.

    Attributes:
        pixels: Grey values for presentation over the full range 0..65535, bone bright.
        label: One of LABELS.
        patient: Pseudonym; radiographs of one patient share it.
        hospital: Pseudonym.
        spacing_mm: Side of a pixel in mm, 0.0 where unknown.
        spacing_source: One of SPACING_SOURCES: calibrated to the patient's plane, measured
            at the detector (uncorrected for magnification, DICOM PS3.3 10.7), or unknown.
        view: One of VIEWS.
        laterality: One of LATERALITIES.
    """

    pixels: UInt16[np.ndarray, "height width"]
    label: str
    patient: str
    hospital: str
    spacing_mm: float = 0.0
    spacing_source: str = "unknown"
    view: str = "unknown"
    laterality: str = "unknown"
