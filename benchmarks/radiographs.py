"""Pictures with a radiograph's statistics, as DICOM files of any size and transfer syntax."""

from pathlib import Path

import numpy as np
from jaxtyping import UInt16
from pydicom import uid
from pydicom.dataset import Dataset, FileMetaDataset
from scipy import ndimage

from femur_jax.phantom.encoding import set_pixels

BITS = 12


def picture(megapixels: float, seed: int) -> UInt16[np.ndarray, "height width"]:
    """Soft structure with noise of 12 of 4096 grey values, 6 bits a pixel after compression."""
    height = round(float(np.sqrt(megapixels * 1.25e6)))
    width = round(megapixels * 1e6 / height)
    rng = np.random.default_rng(seed)
    coarse = ndimage.gaussian_filter(rng.normal(size=(height // 8 + 2, width // 8 + 2)), 12)
    soft = np.asarray(ndimage.zoom(coarse / abs(coarse).max(), 8, order=1))[:height, :width]
    noise = rng.standard_normal((height, width), np.float32)
    return np.clip(np.round(2048 + 1700 * soft + 12 * noise), 0, 4095).astype(np.uint16)


def write(path: Path, pixels: UInt16[np.ndarray, "height width"], syntax: uid.UID) -> None:
    """Writes a minimal file of 12 bits in 16; JPEG baseline keeps the upper 8 of the 12 bits."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.SOPClassUID = uid.DigitalXRayImageStorageForPresentation
    dataset.SOPInstanceUID = uid.generate_uid(entropy_srcs=[path.name])
    dataset.PhotometricInterpretation = "MONOCHROME2"
    if syntax == uid.JPEGBaseline8Bit:
        set_pixels(dataset, (pixels >> BITS - 8).astype(np.uint8), 8)
    else:
        set_pixels(dataset, pixels, BITS)
    dataset.save_as(path, enforce_file_format=True)
