"""Faults of a hospital's export.

Faults in DOUBLING add a file: `resent` (the same instance twice), `copied` (the same pixels as
another instance), `recoded` (a copy in another transfer syntax), `unprocessed` (the detector's
values FOR PROCESSING in addition to the image FOR PRESENTATION), `misfiled` (a copy under another
patient). Other faults spoil a file: `truncated`, `empty`, `untagged` (a tag that decoding needs is
missing), `high_bit` (High Bit contradicts Bits Stored). With `annotated`, a name is drawn into the
pixels.
"""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
from jaxtyping import Float
from PIL import Image, ImageDraw, ImageFont
from pydicom.uid import ExplicitVRLittleEndian, RLELossless

from femur_jax.phantom.dicom_writer import Acquisition, Identity, write_radiograph
from femur_jax.phantom.hospital import Hospital

DOUBLING = ("resent", "copied", "recoded", "unprocessed", "misfiled")
NEEDED_TAGS = ("Rows", "BitsStored", "PhotometricInterpretation", "PixelData")


def annotate(
    image: Float[np.ndarray, "height width"], identity: Identity
) -> Float[np.ndarray, "height width"]:
    """Draws the name and number of an invented patient into a corner, in white."""
    height, width = image.shape
    text = Image.new("1", (width, height))
    font = ImageFont.load_default(max(6.0, 0.03 * height))
    lines = f"{identity.name.replace('^', ' ')}\n{identity.patient_id}"
    ImageDraw.Draw(text).text((0.1 * width, 0.1 * height), lines, fill=1, font=font)
    return np.where(np.asarray(text), image.dtype.type(1.0), image)


def write_again(
    fault: str,
    first: Path,
    second: Path,
    image: Float[np.ndarray, "height width"],
    hospital: Hospital,
    identity: Identity,
    acquisition: Acquisition,
) -> None:
    """Writes the second file of a fault that adds a file.

    Args:
        fault: A fault in DOUBLING.
        first: The correct file.
        second: The file to write.
        image: Grey values of the image, 0 to 1.
        hospital: The hospital that writes the files.
        identity: The patient's identifiers.
        acquisition: The radiograph of the first file.
    """
    if fault == "resent":
        shutil.copyfile(first, second)
        return
    acquisition = replace(acquisition, copy=fault)
    if fault == "recoded":
        rle = hospital.transfer_syntax == RLELossless
        hospital = replace(hospital, transfer_syntax=ExplicitVRLittleEndian if rle else RLELossless)
    if fault == "unprocessed":
        # The values before the display curve, at lower contrast.
        image = 0.25 + 0.5 * image ** (1.0 / hospital.gamma)
        acquisition = replace(acquisition, processed=False, outline=None, source=None)
        hospital = replace(hospital, voi="none")
    write_radiograph(second, image, hospital, identity, acquisition)


def spoil(rng: np.random.Generator, fault: str, path: Path) -> None:
    """Spoils a file. For 'annotated' nothing changes: the pixels hold the name already."""
    if fault == "empty":
        path.write_bytes(b"")
    elif fault == "truncated":
        content = path.read_bytes()
        path.write_bytes(content[: int(rng.uniform(0.3, 0.9) * len(content))])
    elif fault in ("untagged", "high_bit"):
        ds = pydicom.dcmread(path)
        if fault == "untagged":
            delattr(ds, str(rng.choice(NEEDED_TAGS)))
        else:
            ds.HighBit = ds.BitsStored if ds.BitsStored < ds.BitsAllocated else ds.BitsStored - 2
        ds.save_as(path, enforce_file_format=True)
