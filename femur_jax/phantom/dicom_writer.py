"""Writes a grey image as the DICOM file that a hospital's machine would send."""

from dataclasses import dataclass
from pathlib import Path

import imagecodecs
import numpy as np
from jaxtyping import Float, UInt16
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    UID,
    ComputedRadiographyImageStorage,
    DigitalXRayImageStorageForPresentation,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    generate_uid,
)

from femur_jax.phantom.hospital import Hospital

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
    """What a header says of an invented patient and the examination."""

    name: str
    patient_id: str
    sex: str
    age: int
    birth_date: str
    study_date: str
    accession: str
    uid_root: str


def draw_identity(rng: np.random.Generator, uid_root: str) -> Identity:
    """Invents a patient: elderly, mostly a woman, with a number in the Swedish form."""
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
        # After the birthday, so that age and dates agree.
        study_date=f"{year}12{rng.integers(29, 32)}",
        accession=f"RX{rng.integers(10**7, 10**8)}",
        uid_root=uid_root,
    )


def stored_range(hospital: Hospital) -> tuple[int, int]:
    """Stored values at the ends of the displayed range."""
    top = 2**hospital.bits - 1
    return round(hospital.range[0] * top), round(hospital.range[1] * top)


def to_stored(
    hospital: Hospital, image: Float[np.ndarray, "height width"]
) -> UInt16[np.ndarray, "height width"]:
    """Stored values that a viewer turns back into the image.

    The inverse of the display pipeline of PS3.4 N.2: photometric inversion, VOI, and no change
    by the rescale, which the window takes into account.

    Args:
        hospital: Its habits.
        image: Grey values 0 to 1, bone bright.
    """
    low, high = stored_range(hospital)
    shown = 1.0 - image if hospital.photometric == "MONOCHROME1" else image
    if hospital.voi == "lut":
        shown = np.sqrt(shown)  # the LUT squares
    return np.round(low + shown * (high - low)).astype(np.uint16)


def write_radiograph(
    path: Path,
    image: Float[np.ndarray, "height width"],
    hospital: Hospital,
    identity: Identity,
    *,
    instance: int,
    view: str,
    laterality: str,
    spacing: float,
    magnification: float,
) -> None:
    """Writes a DX or CR file.

    Args:
        path: Of the new file.
        image: Grey values 0 to 1, bone bright.
        hospital: Its habits.
        identity: Whose it is.
        instance: Number of the image in its examination, from 1.
        view: 'AP' or 'lateral'.
        laterality: 'L' or 'R'.
        spacing: Side of a pixel at the detector, mm.
        magnification: Of the bone on the detector.
    """
    digital = hospital.modality == "DX"
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.SOPClassUID = (
        DigitalXRayImageStorageForPresentation if digital else ComputedRadiographyImageStorage
    )
    ds.SOPInstanceUID = _uid(identity, f"image {instance}")
    ds.StudyInstanceUID = _uid(identity, "study")
    ds.SeriesInstanceUID = _uid(identity, f"series {instance}")
    ds.ImageType = ["ORIGINAL", "PRIMARY"]
    ds.SyntheticData = "YES"
    _describe_examination(ds, hospital, identity, instance, view, laterality)

    low, high = stored_range(hospital)
    _describe_grey_values(ds, hospital, low, high)
    if hospital.spacing != "none":
        ds.ImagerPixelSpacing = [_decimal(spacing)] * 2
    if hospital.spacing == "calibrated":
        ds.PixelSpacing = [_decimal(spacing / magnification)] * 2
        ds.PixelSpacingCalibrationType = "GEOMETRY"
        ds.PixelSpacingCalibrationDescription = "Patient plane"
        ds.EstimatedRadiographicMagnificationFactor = _decimal(magnification)

    ds.file_meta = FileMetaDataset()
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    set_pixels(ds, to_stored(hospital, image), hospital)
    ds.save_as(path, enforce_file_format=True)


def _uid(identity: Identity, what: str) -> UID:
    return generate_uid(entropy_srcs=[identity.uid_root, what])


def _decimal(value: float) -> str:
    """A number within the 16 characters of a decimal string."""
    return f"{value:.8g}"


def _describe_examination(
    ds: Dataset, hospital: Hospital, identity: Identity, instance: int, view: str, laterality: str
) -> None:
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
    ds.ViewPosition = "AP" if view == "AP" else ("LL" if laterality == "L" else "RL")
    ds.Laterality = laterality
    row_direction = "L" if view == "AP" else {"L": "P", "R": "A"}[laterality]
    ds.PatientOrientation = [row_direction, "F"]
    ds.KVP = "77"
    ds.BurnedInAnnotation = "NO"
    ds.LossyImageCompression = "00"
    if hospital.modality == "DX":
        ds.PresentationIntentType = "FOR PRESENTATION"
        ds.ImageLaterality = laterality
        ds.AnatomicRegionSequence = [_code("71341001", "SCT", "Femur")]
        ds.DetectorType = "SCINTILLATOR"
        ds.PixelIntensityRelationship, ds.PixelIntensityRelationshipSign = "LOG", -1
        ds.AcquisitionContextSequence = []
    else:
        ds.PlateType = "IP"


def _code(value: str, scheme: str, meaning: str) -> Dataset:
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = value, scheme, meaning
    return code


def _describe_grey_values(ds: Dataset, hospital: Hospital, low: int, high: int) -> None:
    """Modality transform, VOI and polarity."""
    ds.PhotometricInterpretation = hospital.photometric
    slope, intercept = hospital.rescale
    ds.RescaleSlope, ds.RescaleIntercept, ds.RescaleType = (
        _decimal(slope),
        _decimal(intercept),
        "US",
    )
    if hospital.modality == "DX":
        inverse = hospital.photometric == "MONOCHROME1"
        ds.PresentationLUTShape = "INVERSE" if inverse else "IDENTITY"
    if hospital.voi == "window":
        first, last = slope * low + intercept, slope * high + intercept
        # PS3.3 C.11.2.1.2.1: the window runs from c - 0.5 - (w - 1) / 2 to c - 0.5 + (w - 1) / 2.
        ds.WindowCenter = _decimal(0.5 * (first + last) + 0.5)
        ds.WindowWidth = _decimal(last - first + 1.0)
    elif hospital.voi == "lut":
        lut = Dataset()
        entries = np.linspace(0.0, 1.0, high - low + 1) ** 2 * 65535.0
        lut.LUTDescriptor = [len(entries), low, 16]
        lut.add_new("LUTData", "OW", np.round(entries).astype("<u2").tobytes())
        ds.VOILUTSequence = [lut]


def set_pixels(ds: Dataset, stored: UInt16[np.ndarray, "height width"], hospital: Hospital) -> None:
    """Puts pixels into a dataset, encoded in the hospital's transfer syntax."""
    ds.Rows, ds.Columns = stored.shape
    ds.SamplesPerPixel = 1
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, hospital.bits, hospital.bits - 1
    ds.PixelRepresentation = 0
    ds.file_meta.TransferSyntaxUID = UID(hospital.transfer_syntax)
    if hospital.transfer_syntax == JPEGLosslessSV1:
        # First-order prediction: selection value 1.
        frame = imagecodecs.jpeg8_encode(
            stored, lossless=True, predictor=1, bitspersample=hospital.bits
        )
    elif hospital.transfer_syntax == JPEG2000Lossless:
        # pydicom's encoder takes six wavelet levels, too many for sides under 32 pixels.
        frame = imagecodecs.jpeg2k_encode(
            stored,
            codecformat="j2k",
            level=0,
            reversible=True,
            resolutions=4,
            bitspersample=hospital.bits,
        )
    elif ds.file_meta.TransferSyntaxUID.is_encapsulated:
        ds.compress(hospital.transfer_syntax, stored, generate_instance_uid=False)
        return
    else:
        ds.add_new("PixelData", "OW", stored.astype("<u2").tobytes())
        return
    ds.add_new("PixelData", "OB", encapsulate([bytes(frame)]))
    ds["PixelData"].is_undefined_length = True
