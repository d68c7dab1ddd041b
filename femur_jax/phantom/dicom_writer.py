"""Writes a grey image as a DICOM file like those that a hospital's machine sends."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Integer
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    UID,
    ComputedRadiographyImageStorage,
    DigitalXRayImageStorageForPresentation,
    DigitalXRayImageStorageForProcessing,
    generate_uid,
)
from scipy.special import logit

from femur_jax.dicom_values import code, decimal
from femur_jax.phantom.encoding import set_pixels
from femur_jax.phantom.hospital import Hospital
from femur_jax.phantom.outline import Outline, declare_shutter

SIGMOID_EDGE = 0.005
"""Grey value at the lower end of a sigmoid window; a sigmoid reaches neither 0 nor 1."""

FAMILY_NAMES = [
    "Andersson",
    "Berg",
    "Dahl",
    "Ek",
    "Forsberg",
    "Holm",
    "Lind",
    "Nyström",
    "Sandberg",
    "Wallin",
]
GIVEN_NAMES = {
    "F": ["Anna", "Birgitta", "Elsa", "Greta", "Ingrid", "Karin", "Maj", "Rut", "Siv", "Ulla"],
    "M": ["Arne", "Bengt", "Erik", "Gunnar", "Karl", "Lars", "Nils", "Olof", "Per", "Sven"],
}


@dataclass(frozen=True)
class Identity:
    """Identifiers of an invented patient and the examination, as in a DICOM header."""

    name: str
    patient_id: str
    sex: str
    age: int
    birth_date: str
    study_date: str
    accession: str
    uid_root: str


def draw_identity(rng: np.random.Generator, uid_root: str) -> Identity:
    """Draws an elderly patient, more often a woman, with an identity number of Swedish form."""
    sex = str(rng.choice(["F", "M"], p=[0.7, 0.3]))
    age, year = int(rng.integers(55, 96)), int(rng.integers(2008, 2021))
    month, day = int(rng.integers(1, 13)), int(rng.integers(1, 29))
    born = f"{year - age}{month:02d}{day:02d}"
    return Identity(
        name=f"{rng.choice(FAMILY_NAMES)}^{rng.choice(GIVEN_NAMES[sex])}",
        patient_id=f"{born}-{rng.integers(1000, 10000)}",
        sex=sex,
        age=age,
        birth_date=born,
        # The study is after the birthday, so that age and dates agree.
        study_date=f"{year}12{rng.integers(29, 32)}",
        accession=f"RX{rng.integers(10**7, 10**8)}",
        uid_root=uid_root,
    )


@dataclass(frozen=True)
class Acquisition:
    """One radiograph of an examination.

    Attributes:
        instance: Number of the radiograph in the examination, counted from 1.
        view: Direction of the beam, 'AP' or 'lateral'.
        laterality: Side of the leg, 'L' or 'R'.
        spacing: Side of a pixel at the detector, mm.
        magnification: Magnification of the bone on the detector.
        outline: The region that the header declares valid, None for the whole image.
        copy: Name that distinguishes instances with the same pixels.
        burned_in: Whether a name is drawn into the pixels.
        processed: Whether the image is processed FOR PRESENTATION; otherwise it holds the
            detector's values, FOR PROCESSING.
        source: Name (`copy`) of the unprocessed instance, None if it is not sent.
    """

    instance: int
    view: str
    laterality: str
    spacing: float
    magnification: float
    outline: Outline | None = None
    copy: str = ""
    burned_in: bool = False
    processed: bool = True
    source: str | None = None


def stored_range(hospital: Hospital) -> tuple[int, int]:
    """Stored values at the ends of the displayed range, as unsigned values."""
    top = 2**hospital.bits - 1
    return round(hospital.range[0] * top), round(hospital.range[1] * top)


def sign_offset(hospital: Hospital) -> int:
    """The number subtracted from unsigned values to store them signed; 0 if they are unsigned."""
    return 2 ** (hospital.bits - 1) if hospital.signed else 0


def padding_value(hospital: Hospital) -> int:
    """The stored value of padding, shown black, as an unsigned value."""
    return 2**hospital.bits - 1 if hospital.photometric == "MONOCHROME1" else 0


def to_stored(
    hospital: Hospital,
    image: Float[np.ndarray, "height width"],
    outline: Outline | None = None,
) -> Integer[np.ndarray, "height width"]:
    """The stored values that a viewer displays as the image.

    This is the inverse of the display pipeline of PS3.4 N.2: photometric inversion and VOI. The
    rescale needs no inverse because the window takes it into account.

    Args:
        hospital: The hospital that stores the image.
        image: Grey values 0 to 1, bone bright.
        outline: The valid region, None for the whole image. Pixels outside become padding or,
            under a shutter, the brightest value.
    """
    low, high = stored_range(hospital)
    shown = np.array(image, np.float32)
    if outline is not None:
        shown[~outline.inside] = 1.0
    if hospital.photometric == "MONOCHROME1":
        shown = np.subtract(1.0, shown, out=shown)
    if hospital.voi == "lut":
        np.sqrt(shown, out=shown)  # the LUT squares the values
    elif hospital.voi == "sigmoid":
        np.clip(shown, SIGMOID_EDGE, 1.0 - SIGMOID_EDGE, out=shown)
        shown = 0.5 - 0.5 * logit(shown) / np.float32(logit(SIGMOID_EDGE))
    shown *= high - low
    shown += low
    values = np.rint(shown, out=shown).astype(np.uint8 if hospital.bits == 8 else np.uint16)
    if outline is not None and outline.kind == "PADDING":
        values[~outline.inside] = padding_value(hospital)
    if hospital.signed:
        signed = values.astype(np.int32) - sign_offset(hospital)
        return signed.astype(np.int8 if hospital.bits == 8 else np.int16)
    return values


def write_radiograph(
    path: Path,
    image: Float[np.ndarray, "height width"],
    hospital: Hospital,
    identity: Identity,
    acquisition: Acquisition,
) -> None:
    """Writes a DX or CR file.

    Args:
        path: Path of the new file.
        image: Grey values 0 to 1, bone bright.
        hospital: The hospital that writes the file.
        identity: The patient's identifiers.
        acquisition: The radiograph's view, spacing and kind.
    """
    outline = acquisition.outline
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.SOPClassUID = _sop_class(hospital, acquisition.processed)
    ds.SOPInstanceUID = _image_uid(identity, hospital, acquisition.instance, acquisition.copy)
    ds.StudyInstanceUID = _uid(identity, hospital.name, "study")
    ds.SeriesInstanceUID = _uid(identity, hospital.name, "series", acquisition.instance)
    ds.ImageType = ["ORIGINAL" if acquisition.source is None else "DERIVED", "PRIMARY"]
    ds.SyntheticData = "YES"
    _describe_examination(ds, hospital, identity, acquisition)
    if acquisition.source is not None:
        ds.SourceImageSequence = [_source(identity, hospital, acquisition)]
    _describe_grey_values(ds, hospital, acquisition)
    _describe_spacing(ds, hospital, acquisition)
    if outline is not None and outline.kind != "PADDING":
        declare_shutter(ds, outline)
    elif outline is not None:
        padding = padding_value(hospital) - sign_offset(hospital)
        ds.add_new("PixelPaddingValue", "SS" if hospital.signed else "US", padding)

    ds.file_meta = FileMetaDataset()
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    ds.file_meta.TransferSyntaxUID = UID(hospital.transfer_syntax)
    set_pixels(ds, to_stored(hospital, image, outline), hospital.bits)
    ds.save_as(path, enforce_file_format=True)


def _sop_class(hospital: Hospital, processed: bool) -> UID:
    if hospital.modality == "CR":
        return ComputedRadiographyImageStorage
    if processed:
        return DigitalXRayImageStorageForPresentation
    return DigitalXRayImageStorageForProcessing


def _uid(identity: Identity, *names: object) -> UID:
    return generate_uid(entropy_srcs=[identity.uid_root, *map(str, names)])


def _image_uid(identity: Identity, hospital: Hospital, instance: int, copy: str) -> UID:
    return _uid(identity, hospital.name, "image", instance, copy)


def _source(identity: Identity, hospital: Hospital, acquisition: Acquisition) -> Dataset:
    """A reference to the unprocessed image (PS3.3 C.12.4)."""
    item = Dataset()
    item.ReferencedSOPClassUID = _sop_class(hospital, processed=False)
    item.ReferencedSOPInstanceUID = _image_uid(
        identity, hospital, acquisition.instance, acquisition.source or ""
    )
    item.PurposeOfReferenceCodeSequence = [code("121358", "DCM", "For Processing predecessor")]
    return item


def _describe_examination(
    ds: Dataset, hospital: Hospital, identity: Identity, acquisition: Acquisition
) -> None:
    instance, laterality = acquisition.instance, acquisition.laterality
    ds.PatientName, ds.PatientID = identity.name, identity.patient_id
    ds.PatientBirthDate, ds.PatientSex = identity.birth_date, identity.sex
    ds.PatientAge = f"{identity.age:03d}Y"
    ds.StudyDate = ds.SeriesDate = ds.ContentDate = ds.AcquisitionDate = identity.study_date
    ds.StudyTime = ds.ContentTime = ds.AcquisitionTime = f"1030{instance:02d}"
    ds.AccessionNumber = identity.accession
    ds.ReferringPhysicianName = "Lindqvist^Maria^^Dr"
    ds.InstitutionName = f"Hospital {hospital.name}"
    ds.StudyID, ds.SeriesNumber, ds.InstanceNumber = "1", instance, instance
    ds.StudyDescription = f"Femur {laterality}, {identity.name.replace('^', ' ')}"
    ds.Modality = hospital.modality
    ds.Manufacturer, ds.ManufacturerModelName = hospital.device
    ds.BodyPartExamined = "FEMUR"
    lateral = "LL" if laterality == "L" else "RL"
    ds.ViewPosition = "AP" if acquisition.view == "AP" else lateral
    row_direction = "L" if acquisition.view == "AP" else {"L": "P", "R": "A"}[laterality]
    ds.PatientOrientation = [row_direction, "F"]
    ds.KVP = str(hospital.kvp)
    ds.IrradiationEventUID = _uid(identity, hospital.name, "exposure", instance)
    ds.BurnedInAnnotation = "YES" if acquisition.burned_in else "NO"
    if hospital.modality == "DX":
        ds.PresentationIntentType = (
            "FOR PRESENTATION" if acquisition.processed else "FOR PROCESSING"
        )
        ds.ImageLaterality, ds.PositionerType = laterality, ""
        ds.AnatomicRegionSequence = [code("71341001", "SCT", "Femur")]
        ds.DetectorType = "SCINTILLATOR"
        ds.PixelIntensityRelationship, ds.PixelIntensityRelationshipSign = "LOG", -1
        ds.AcquisitionContextSequence = []
    else:
        ds.Laterality, ds.PlateType = laterality, "IP"


def _describe_grey_values(ds: Dataset, hospital: Hospital, acquisition: Acquisition) -> None:
    """Adds modality transform, VOI and polarity to a header."""
    low, high = stored_range(hospital)
    ds.PhotometricInterpretation = hospital.photometric
    slope, intercept = hospital.rescale
    ds.RescaleSlope, ds.RescaleType = decimal(slope), "US"
    ds.RescaleIntercept = decimal(intercept + slope * sign_offset(hospital))
    if hospital.modality == "DX":
        inverse = hospital.photometric == "MONOCHROME1"
        ds.PresentationLUTShape = "INVERSE" if inverse else "IDENTITY"
    first, last = slope * low + intercept, slope * high + intercept
    # PS3.3 C.11.2.1.2.1: the window runs from c - 0.5 - (w - 1) / 2 to c - 0.5 + (w - 1) / 2.
    center, width = 0.5 * (first + last) + 0.5, last - first + 1.0
    if not acquisition.processed:
        return  # an unprocessed image has no VOI (PS3.3 C.8.11.3)
    if hospital.voi == "window":
        ds.WindowCenter, ds.WindowWidth = decimal(center), decimal(width)
    elif hospital.voi == "windows":
        ds.WindowCenter = [decimal(center), decimal(center)]
        ds.WindowWidth = [decimal(width), decimal(0.6 * width)]
        ds.WindowCenterWidthExplanation = ["NORMAL", "HARDER"]
    elif hospital.voi == "sigmoid":
        # PS3.3 C.11.2.1.3.1: 1 / (1 + exp(-4 (x - c) / w)).
        ds.WindowCenter = decimal(0.5 * (first + last))
        ds.WindowWidth = decimal(2.0 * (last - first) / -float(logit(SIGMOID_EDGE)))
        ds.VOILUTFunction = "SIGMOID"
    elif hospital.voi == "lut":
        order = "<" if UID(hospital.transfer_syntax).is_little_endian else ">"
        entries = np.round(np.linspace(0.0, 1.0, high - low + 1) ** 2 * 65535.0)
        lut = Dataset()
        lut.LUTDescriptor = [len(entries), low, 16]
        lut.add_new("LUTData", "OW", entries.astype(f"{order}u2").tobytes())
        ds.VOILUTSequence = [lut]


def _describe_spacing(ds: Dataset, hospital: Hospital, acquisition: Acquisition) -> None:
    if hospital.spacing in ("detector", "calibrated"):
        ds.ImagerPixelSpacing = [decimal(acquisition.spacing)] * 2
    if hospital.spacing == "zero":
        ds.PixelSpacing = ["0.000", "0.000"]
    elif hospital.spacing == "calibrated":
        ds.PixelSpacing = [decimal(acquisition.spacing / acquisition.magnification)] * 2
        ds.PixelSpacingCalibrationType = "GEOMETRY"
        ds.PixelSpacingCalibrationDescription = "Patient plane"
        if hospital.modality == "DX":
            ds.EstimatedRadiographicMagnificationFactor = decimal(acquisition.magnification)
