"""Mishaps of a hospital's export.

Those in DOUBLING add a file: `resent` (the same instance twice), `copied` (the same picture as
another instance), `recoded` (that, in another transfer syntax), `unprocessed` (the detector's
values FOR PROCESSING beside the image FOR PRESENTATION), `misfiled` (a copy under another
patient). Others spoil a file: `truncated`, `empty`, `untagged` (a tag that decoding needs is
missing), `high_bit` (contradicts Bits Stored). `annotated`: a name is drawn into the pixels.
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
    """Draws name and number of an invented patient into a corner, in white."""
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
    """Adds the second file of a fault that makes two of one image.

    Args:
        fault: One of DOUBLING.
        first: The file as it should be.
        second: The new file.
        image: Its grey values, 0 to 1.
        hospital: Whose files these are.
        identity: Whose image it is.
        acquisition: Of the first file.
    """
    if fault == "resent":
        shutil.copyfile(first, second)
        return
    acquisition = replace(acquisition, copy=fault)
    if fault == "recoded":
        rle = hospital.transfer_syntax == RLELossless
        hospital = replace(hospital, transfer_syntax=ExplicitVRLittleEndian if rle else RLELossless)
    if fault == "unprocessed":
        # As before the display curve: linear and flat.
        image = 0.25 + 0.5 * image ** (1.0 / hospital.gamma)
        acquisition = replace(acquisition, processed=False, outline=None, source=None)
        hospital = replace(hospital, voi="none")
    write_radiograph(second, image, hospital, identity, acquisition)


def spoil(rng: np.random.Generator, fault: str, path: Path) -> None:
    """Spoils a file, unless the fault is 'annotated', which is in its pixels already."""
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
