"""Pictures with a radiograph's statistics, as DICOM files of any size and transfer syntax."""

from pathlib import Path

import imagecodecs
import numpy as np
from jaxtyping import UInt16
from pydicom import uid
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from scipy import ndimage

BITS = 12
SYNTAXES = {
    "uncompressed": uid.ExplicitVRLittleEndian,
    "RLE": uid.RLELossless,
    "JPEG lossless": uid.JPEGLosslessSV1,
    "JPEG-LS": uid.JPEGLSLossless,
    "JPEG 2000": uid.JPEG2000Lossless,
}


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
    """Writes a minimal file of 12 bits in 16."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.SOPClassUID = uid.DigitalXRayImageStorageForPresentation
    dataset.SOPInstanceUID = uid.generate_uid(entropy_srcs=[path.name])
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, BITS, BITS - 1
    dataset.PixelRepresentation = 0
    if syntax == uid.RLELossless:
        dataset.compress(syntax, pixels, encoding_plugin="pylibjpeg", generate_instance_uid=False)
    elif syntax.is_encapsulated:
        dataset.add_new("PixelData", "OB", encapsulate([_codestream(pixels, syntax)]))
        dataset["PixelData"].is_undefined_length = True
    else:
        dataset.add_new("PixelData", "OW", pixels.tobytes())
    dataset.save_as(path, enforce_file_format=True)


def _codestream(pixels: UInt16[np.ndarray, "height width"], syntax: uid.UID) -> bytes:
    if syntax == uid.JPEGLosslessSV1:
        return bytes(
            imagecodecs.jpeg8_encode(pixels, lossless=True, predictor=1, bitspersample=BITS)
        )
    if syntax == uid.JPEGLSLossless:
        return bytes(imagecodecs.jpegls_encode(pixels))
    return bytes(
        imagecodecs.jpeg2k_encode(
            pixels, codecformat="j2k", level=0, reversible=True, bitspersample=BITS
        )
    )
