"""Fixtures of the phantom's tests."""

import warnings

import numpy as np
import pytest
from pydicom.pixels import apply_modality_lut, apply_voi_lut


@pytest.fixture(scope="session")
def displayed():
    """pydicom's display pipeline: a function from a dataset to grey values 0 to 1, bone bright."""
    return _display


def _display(ds):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom warns of a LUT after a floating-point rescale
        shown = apply_voi_lut(apply_modality_lut(ds.pixel_array, ds), ds).astype(float)
    signed = 2 ** (ds.BitsStored - 1) * ds.PixelRepresentation
    ends = np.array([0, 2**ds.BitsStored - 1]) - signed
    ends = ends * float(ds.RescaleSlope) + float(ds.RescaleIntercept)
    low, high = (0.0, 65535.0) if "VOILUTSequence" in ds else ends
    shown = (shown - low) / (high - low)
    return 1.0 - shown if ds.PhotometricInterpretation == "MONOCHROME1" else shown
