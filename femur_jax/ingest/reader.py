"""Everything that the ingest does to one file, from its bytes to encoded tiles."""

from collections.abc import Callable
from pathlib import Path

from femur_jax.data.cohort import LabelRow
from femur_jax.data.radiograph import Radiograph
from femur_jax.data.records import Encoded, encode
from femur_jax.data.spool import FileFacts
from femur_jax.errors import UserError
from femur_jax.ingest.dicom import Picture, read_dicom
from femur_jax.ingest.duplicates import perceptual_hash
from femur_jax.ingest.image_file import SUFFIXES, read_image_file
from femur_jax.ingest.polarity import polarity


def files_in(folder: Path) -> list[Path]:
    """All files in a folder and below, in the order of their paths.

    Raises:
        UserError: There is no such folder.
    """
    if not folder.is_dir():
        raise UserError("There is no folder of radiographs at the given path; correct the path.")
    return sorted(path for path in folder.rglob("*") if path.is_file())


def is_picture(path: Path) -> bool:
    """Whether a file is read as an exported picture and not as DICOM, by its suffix."""
    return path.suffix.lower() in SUFFIXES


def read_picture(path: Path, pseudonym: Callable[[str, str], str]) -> Picture:
    """Reads a DICOM file or an exported picture.

    Args:
        path: Path of the file.
        pseudonym: Function that replaces an identifier of a kind; see `cohort.Pseudonyms`.

    Raises:
        RejectedFileError: The file is not an intact grey-scale radiograph.
    """
    return read_image_file(path) if is_picture(path) else read_dicom(path, pseudonym)


def read_radiograph(
    path: Path, row: LabelRow, pseudonym: Callable[[str, str], str], patch: int
) -> tuple[FileFacts, Encoded]:
    """Reads a file and encodes its pyramid.

    Args:
        path: Path of the file.
        row: Line of the label table.
        pseudonym: Function that replaces an identifier of a kind; see `cohort.Pseudonyms`.
        patch: Side of a tile in pixels.

    Raises:
        RejectedFileError: The file is not an intact grey-scale radiograph.
    """
    picture = read_picture(path, pseudonym)
    radiograph = Radiograph(
        pixels=picture.pixels,
        crop=picture.crop,
        name=pseudonym("file", row.path),
        label=row.label,
        patient=pseudonym("patient", row.patient_id),
        hospital=pseudonym("hospital", row.hospital),
        spacing_mm=picture.spacing_mm,
        spacing_source=picture.spacing_source,
        view=row.view,
        laterality=row.laterality,
        source=picture.source,
        columns=row.columns,
    )
    encoded = encode(radiograph, patch)
    facts = FileFacts(
        encoded.entry,
        picture.instance,
        picture.made_from,
        perceptual_hash(picture.pixels),
        polarity(picture.pixels),
    )
    return facts, encoded
