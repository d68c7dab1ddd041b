"""Tests of the UIDs of single images."""

import numpy as np
import pytest
from pydicom.uid import UID

from femur_jax.export import image

PIXELS = np.arange(35, dtype=np.uint16).reshape(5, 7) * 1800


def _image(patient="p", name="n", pixels=PIXELS, bits=16, key=lambda kind, identifier: identifier):
    ds = image.header(patient, name)
    image.set_pixels(ds, pixels, bits)
    image.set_uids(ds, key)
    return ds


CHANGED = PIXELS.copy()
CHANGED[3, 4] += 1


@pytest.mark.parametrize(
    ("change", "same_study"),
    [
        ({"pixels": CHANGED}, True),
        ({"pixels": PIXELS.reshape(7, 5)}, True),
        ({"bits": 15}, True),
        ({"name": "other"}, True),
        ({"patient": "other"}, False),
        ({"key": lambda kind, identifier: f"secret {identifier}"}, False),
    ],
)
def test_uids_change_with_any_content_of_the_image(change, same_study):
    first, second = _image(), _image(**change)
    for name in ("SOPInstanceUID", "SeriesInstanceUID"):
        assert first[name].value != second[name].value
    assert (first.StudyInstanceUID == second.StudyInstanceUID) == same_study


def test_uids_are_derived_uuids():
    """A UID is 2.25 and a UUID as a number (PS3.5 B.2) of version 5, variant 10 (RFC 9562 5.5)."""
    ds = _image()
    uids = {ds.SOPInstanceUID, ds.SeriesInstanceUID, ds.StudyInstanceUID}
    assert len(uids) == 3
    for uid in uids:
        root, number = str(uid).rsplit(".", 1)
        assert root == "2.25" and UID(uid).is_valid
        assert (int(number) >> 76 & 15, int(number) >> 62 & 3) == (5, 2)
    assert ds.file_meta.MediaStorageSOPInstanceUID == ds.SOPInstanceUID
