"""Exports radiographs to a folder of DICOM files, identified or blinded, or of PNG files."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pydicom.dataset import Dataset

from femur_jax.data.cohort import Pseudonyms
from femur_jax.errors import UserError
from femur_jax.export import cases, image
from femur_jax.export.png import encode_png
from femur_jax.files import make_folder, new_folder, require_absent, write_atomically
from femur_jax.progress import Progress

BITS = range(12, 17)
LABEL_TABLE = "labels.csv"


def export(
    folders: Sequence[Path],
    out: Path,
    *,
    bits: int = 12,
    secondary_capture: bool = False,
    per_class: int | None = None,
    seed: int = 0,
    blinded: bool = False,
    key_file: Path | None = None,
    allow_real: bool = False,
) -> int:
    """Writes each radiograph as one DICOM file into a folder, which appears when all are written.

    The headers of identified images state their class, name and origin. The headers of blinded
    images, real or synthetic, differ only in their size, number and UIDs. The numbers are in
    pseudorandom order, and OUT.cases.csv next to the folder maps them to radiographs.

    Args:
        folders: Folders of radiograph datasets.
        out: The new folder.
        bits: Bits stored of a pixel, a number in BITS.
        secondary_capture: Whether to write only Secondary Capture images. Otherwise images are
            Digital X-Ray, except for blinded ones and those whose spacing has no known source.
        per_class: Number of radiographs of each class from each dataset, None for all.
        seed: Seed of the choice of `per_class`.
        blinded: Whether headers are blinded.
        key_file: File of the key for blinded numbers and UIDs, OUT.key by default. It is created
            if it does not exist.
        allow_real: Whether to export also datasets that are not synthetic.

    Returns:
        Number of files.

    Raises:
        UserError: A setting is unusable, a dataset is missing, damaged or not synthetic, `out`
            exists, or the disk is full. No folder is left then.
    """
    key_file = key_file or out.with_name(f"{out.name}.key")
    if bits not in BITS:
        raise UserError(f"{bits} bits cannot be stored; use {BITS[0]} to {BITS[-1]}.")
    if out.resolve() in key_file.resolve().parents:
        raise UserError(f"{key_file} lies in the exported folder; keep the key elsewhere.")
    chosen = _choose(folders, out, per_class, seed, allow_real)
    table = out.with_name(f"{out.name}.cases.csv")
    with _new_folder(out) as partial:
        if blinded:
            make_folder(key_file.parent)
            key = Pseudonyms(key_file)
            named = cases.blind(chosen, key)
            _check_table(table, cases.table(named))
        else:
            key = _identifier
            named = cases.name(chosen)
        for n, case in enumerate(Progress(named, "export"), start=1):
            ds = image.header(case.patient_id, case.patient_name)
            if not blinded:
                _describe(ds, case, secondary_capture)
            image.set_pixels(ds, case.dataset.read(case.radiograph), bits)
            image.set_uids(ds, key)
            ds.save_as(partial / cases.file_name(n, "dcm"), enforce_file_format=True)
        if blinded:
            write_atomically(table, cases.table(named))
    return len(named)


def export_png(
    folders: Sequence[Path],
    out: Path,
    *,
    per_class: int | None = None,
    seed: int = 0,
    allow_real: bool = False,
) -> int:
    """Writes each radiograph as one PNG file of 16-bit grey values, and a label table.

    The folder appears when all files are written. Its labels.csv is a label table for
    `femur ingest`, with further columns; see `cases.label_table`.

    Args:
        folders: Folders of radiograph datasets.
        out: The new folder.
        per_class: Number of radiographs of each class from each dataset, None for all.
        seed: Seed of the choice of `per_class`.
        allow_real: Whether to export also datasets that are not synthetic.

    Returns:
        Number of PNG files.

    Raises:
        UserError: As in `export`.
    """
    named = cases.name(_choose(folders, out, per_class, seed, allow_real))
    with _new_folder(out) as partial:
        for n, case in enumerate(Progress(named, "export"), start=1):
            pixels = case.dataset.read(case.radiograph)
            (partial / cases.file_name(n, "png")).write_bytes(encode_png(pixels))
        (partial / LABEL_TABLE).write_text(cases.label_table(named), encoding="utf-8")
    return len(named)


def _choose(
    folders: Sequence[Path], out: Path, per_class: int | None, seed: int, allow_real: bool
) -> list[cases.Case]:
    """Checks the arguments that all exports have, and chooses the radiographs."""
    if per_class is not None and per_class < 1:
        raise UserError(f"{per_class} radiographs of each class are none; give 1 or more.")
    require_absent(out)
    if any(folder.resolve() in out.resolve().parents for folder in folders):
        raise UserError(f"{out} lies in a dataset; name a folder elsewhere.")
    chosen = [
        case
        for folder in folders
        for case in cases.choose(folder, per_class=per_class, seed=seed, allow_real=allow_real)
    ]
    if len({case.identity for case in chosen}) < len(folders):
        raise UserError("Two of the datasets are the same; give each dataset once.")
    return chosen


@contextmanager
def _new_folder(out: Path) -> Iterator[Path]:
    """As `files.new_folder`, with a sentence for a disk that cannot be written."""
    try:
        with new_folder(out) as partial:
            yield partial
    except OSError as error:
        raise UserError(
            f"{out} cannot be written ({error.strerror}), and no files are kept. Free some space "
            "or name another folder, and run the command again."
        ) from error


def _check_table(path: Path, text: str) -> None:
    """Protects a table of other cases, which is needed to interpret the readers' answers."""
    if path.exists() and path.read_text() != text:
        raise UserError(f"{path} lists other cases; move it away, or name another folder.")


def _identifier(kind: str, identifier: str) -> str:
    """Replaces the keyed hash for identified images, whose identifiers stay unchanged."""
    return identifier


def _describe(ds: Dataset, case: cases.Case, secondary_capture: bool) -> None:
    """Adds all known data of a radiograph to its header."""
    image.describe_examination(ds, case.entry, case.number)
    if case.entry.spacing_source != "unknown" and not secondary_capture:
        image.make_digital_x_ray(ds, case.entry)
    if case.synthetic:
        image.mark_synthetic(ds, case.dataset.provenance)
    else:
        image.mark_deidentified(ds)
