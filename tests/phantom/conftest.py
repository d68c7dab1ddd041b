"""Shared by the tests of the phantom."""

import warnings

import numpy as np
import pytest
from pydicom.pixels import apply_modality_lut, apply_voi_lut


@pytest.fixture(scope="session")
def displayed():
    """The display pipeline by pydicom, of a dataset: 0 to 1, bone bright."""
    return _display


def _display(ds):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on a LUT after a rescale in floating point
        shown = apply_voi_lut(apply_modality_lut(ds.pixel_array, ds), ds).astype(float)
    signed = 2 ** (ds.BitsStored - 1) * ds.PixelRepresentation
    ends = np.array([0, 2**ds.BitsStored - 1]) - signed
    ends = ends * float(ds.RescaleSlope) + float(ds.RescaleIntercept)
    low, high = (0.0, 65535.0) if "VOILUTSequence" in ds else ends
    shown = (shown - low) / (high - low)
    return 1.0 - shown if ds.PhotometricInterpretation == "MONOCHROME1" else shown
