"""One radiograph as a DICOM image: Digital X-Ray For Presentation, or Secondary Capture.

Sections are those of DICOM PS3.3. The grey values are ready for presentation, so the header has
only a window over their whole range (C.8.11.3, C.11.2).
"""

import hashlib
import uuid
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from jaxtyping import UInt16
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    UID,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    SecondaryCaptureImageStorage,
)

from femur_jax.data.records import RadiographEntry
from femur_jax.dicom_values import code, decimal

_NAMESPACE = uuid.UUID("3b0c5e0e-8f0f-5d0c-9a55-7c1d0a4b6a61")
"""Namespace of the UIDs derived here, an arbitrary constant."""
_VIEWS = {
    "AP": ("399348003", "SCT", "antero-posterior"),
    "lateral": ("399067008", "SCT", "lateral"),
}
"""View codes of PS3.16 CID 4010."""
_SHORT_TEXT = 1024
"""Largest length in characters of a value of the representation ST (PS3.5 6.2)."""


def header(patient_id: str, patient_name: str) -> Dataset:
    """A header of a Secondary Capture image that states nothing except that it shows a femur.

    Dates and times stay empty: they are unknown, and the same radiograph must give the same file.
    """
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.SOPClassUID = SecondaryCaptureImageStorage
    ds.ConversionType = "WSD"  # C.8.6.1: workstation
    ds.ImageType = ["DERIVED", "PRIMARY"]
    ds.PatientID, ds.PatientName = patient_id, patient_name
    for empty in (
        *("PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "AccessionNumber"),
        *("ReferringPhysicianName", "PatientOrientation", "Laterality"),
    ):
        setattr(ds, empty, "")
    ds.StudyID, ds.SeriesNumber, ds.InstanceNumber = "1", 1, 1
    ds.Modality, ds.BodyPartExamined = "DX", "FEMUR"
    ds.Manufacturer = "femur_jax"
    ds.PresentationLUTShape = "IDENTITY"
    return ds


def describe_examination(ds: Dataset, entry: RadiographEntry, number: int) -> None:
    """Adds class, name, view, side and pixel spacing, as far as they are known.

    Args:
        ds: A header from `header`.
        entry: The radiograph's entry.
        number: Number of the radiograph among those of its patient, counted from 1.
    """
    ds.SeriesNumber = number
    ds.SeriesDescription = f"{entry.label} {entry.name}"
    if entry.view in _VIEWS:
        ds.ViewCodeSequence = [code(*_VIEWS[entry.view])]
    if entry.laterality != "unknown":
        ds.Laterality = entry.laterality
    # The dataset's spacing is either at the detector or in the patient (10.7.1).
    if entry.spacing_source == "detector":
        ds.ImagerPixelSpacing = [decimal(entry.spacing_mm)] * 2
    elif entry.spacing_mm:
        ds.PixelSpacing = [decimal(entry.spacing_mm)] * 2
    if entry.spacing_source == "calibrated":
        ds.PixelSpacingCalibrationType = "GEOMETRY"
        ds.PixelSpacingCalibrationDescription = "Patient plane"


def make_digital_x_ray(ds: Dataset, entry: RadiographEntry) -> None:
    """Turns a Secondary Capture image into a Digital X-Ray image (A.26, C.8.11).

    Such an image requires the detector's spacing (C.8.11.4). A radiograph that is calibrated to
    the patient's plane gets a detector in that plane, without magnification.

    Args:
        ds: A header completed by `describe_examination`.
        entry: The radiograph's entry, with a known source of the spacing.
    """
    ds.SOPClassUID = DigitalXRayImageStorageForPresentation
    del ds.ConversionType, ds.Laterality
    ds.PresentationIntentType = "FOR PRESENTATION"
    if entry.spacing_source == "calibrated":
        ds.ImagerPixelSpacing = ds.PixelSpacing
        ds.EstimatedRadiographicMagnificationFactor = "1"
    # Columns run from hip to foot. The direction of rows is unknown and may be empty (PS3.5 7.4).
    ds.PatientOrientation = ["", "F"]
    # C.8.11.2 has no value for an unknown side; U (unpaired) names neither side.
    ds.ImageLaterality = "U" if entry.laterality == "unknown" else entry.laterality
    ds.AnatomicRegionSequence = [code("71341001", "SCT", "Femur")]
    ds.DetectorType = ds.PositionerType = ""
    ds.PixelIntensityRelationship, ds.PixelIntensityRelationshipSign = "LOG", -1
    ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = "0", "1", "US"
    ds.LossyImageCompression = "00"
    ds.BurnedInAnnotation = "YES"  # required; "NO" would need somebody to check the image
    ds.AcquisitionContextSequence = []


def mark_synthetic(ds: Dataset, provenance: Mapping[str, Any]) -> None:
    """States that the image is synthetic and where it comes from (C.12.1, C.7.6.1.1.3)."""
    ds.SyntheticData = "YES"
    ds.BurnedInAnnotation = "NO"
    origin = ", ".join(f"{name} {value}" for name, value in provenance.items() if name != "kind")
    ds.DerivationDescription = f"Synthetic, of no patient; {origin}"[:_SHORT_TEXT]
    equipment = Dataset()
    equipment.PurposeOfReferenceCodeSequence = [code("109100", "DCM", "Synthesizing Equipment")]
    equipment.Manufacturer = "femur_jax"
    equipment.ManufacturerModelName = str(provenance.get("model", ""))
    ds.ContributingEquipmentSequence = [equipment]
    if "ConversionType" in ds:
        ds.ConversionType = "SYN"


def mark_deidentified(ds: Dataset) -> None:
    """States how a patient's header was de-identified (C.7.1.1, C.7.6.1.1.3)."""
    ds.PatientIdentityRemoved = "YES"
    ds.DeidentificationMethod = "New header; identifiers are keyed pseudonyms"
    ds.DerivationDescription = "Grey values for presentation, cropped to the collimated field"


def set_pixels(ds: Dataset, pixels: UInt16[np.ndarray, "height width"], bits: int) -> None:
    """Adds the pixels and a window that shows 0 black and the largest value white.

    Args:
        ds: A header from `header`.
        pixels: Grey values over the full range 0..65535, bone bright.
        bits: Bits to store, 12 to 16; 16 bits need no rounding.
    """
    greatest = (1 << bits) - 1
    # Rounding to nearest restores the exact values of a radiograph recorded with these bits.
    table = np.rint(np.arange(1 << 16) * (greatest / 65535)).astype(np.uint16)
    # C.11.2.1.2.1: the window runs from c - 0.5 - (w - 1) / 2 to c - 0.5 + (w - 1) / 2.
    ds.WindowCenter, ds.WindowWidth = str(1 << (bits - 1)), str(1 << bits)
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.set_pixel_data(table[pixels], "MONOCHROME2", bits, generate_instance_uid=False)


def set_uids(ds: Dataset, key: Callable[[str, str], str]) -> None:
    """Derives the UIDs from the image's content (PS3.5 B.2), and the study's from its patient.

    So equal images always have equal UIDs, and different images have different ones.

    Args:
        ds: A complete image.
        key: A function of the kind and the value of an identifier that replaces it. With a keyed
            hash such as `cohort.Pseudonyms`, nobody can derive the UIDs from the radiographs.
    """
    digest = hashlib.sha256(ds.PixelData)
    digest.update(ds[: tag_for_keyword("PixelData")].to_json().encode())
    ds.SOPInstanceUID = _uid("instance", key("instance", digest.hexdigest()))
    ds.SeriesInstanceUID = _uid("series", key("series", digest.hexdigest()))
    ds.StudyInstanceUID = _uid("study", key("study", ds.PatientID))
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID


def _uid(kind: str, name: str) -> UID:
    return UID(f"2.25.{uuid.uuid5(_NAMESPACE, f'{kind} {name}').int}")
