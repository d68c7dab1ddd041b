"""Radiographs of datasets to a folder of DICOM files, in the open or blinded for a reader study."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from pydicom.dataset import Dataset
from tqdm import tqdm

from femur_jax.data.cohort import Pseudonyms
from femur_jax.errors import UserError
from femur_jax.export import cases, image

BITS = range(12, 17)


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
    """Writes each radiograph as one DICOM file into a new folder, which appears when all are there.

    In the open, every image tells what it is and where it comes from. Blinded, real and synthetic
    ones have the same header but for their size and a number in an order that means nothing;
    OUT.cases.csv, beside the folder, tells which is which.

    Args:
        folders: Of radiograph datasets.
        out: The new folder.
        bits: Stored of a pixel, in BITS.
        secondary_capture: Write no Digital X-Ray images. Radiographs whose spacing has no
            known source, and blinded ones, are Secondary Capture in any case.
        per_class: How many radiographs of each class to take from each dataset, None for all.
        seed: Of that choice.
        blinded: See above.
        key_file: From which blinded numbers and UIDs follow, OUT.key by default; made where
            there is none.
        allow_real: Also export datasets that are not synthetic.

    Returns:
        Number of files.

    Raises:
        UserError: A setting is unusable, a dataset is missing, damaged or not synthetic, `out` is
            there already, or the disk is full. Then there is no folder.
    """
    key_file = key_file or out.with_name(f"{out.name}.key")
    _check(folders, out, bits, per_class, key_file)
    chosen = [
        case
        for folder in folders
        for case in cases.choose(folder, per_class=per_class, seed=seed, allow_real=allow_real)
    ]
    if len({case.identity for case in chosen}) < len(folders):
        raise UserError("Two of the datasets are the same; name each once.")
    partial, table = (out.with_name(f"{out.name}.{end}") for end in ("partial", "cases.csv"))
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(partial, ignore_errors=True)  # left by a run that was killed
        partial.mkdir()
        if blinded:
            key_file.parent.mkdir(parents=True, exist_ok=True)
            key = Pseudonyms(key_file)
            named = cases.blind(chosen, key)
            _check_table(table, cases.table(named))
        else:
            key = _unchanged
            named = cases.name(chosen)
        for n, case in enumerate(tqdm(named, "export", disable=None), start=1):
            ds = image.header(case.patient_id, case.patient_name)
            if not blinded:
                _describe(ds, case, secondary_capture)
            image.set_pixels(ds, case.dataset.read(case.radiograph), bits)
            image.set_uids(ds, key)
            ds.save_as(partial / cases.file_name(n), enforce_file_format=True)
        if blinded:
            cases.write_private(table, cases.table(named))
        partial.replace(out)
    except OSError as error:
        raise UserError(
            f"{out} cannot be written ({error.strerror}); nothing was kept. Make room or name "
            "another folder, and run it again."
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return len(named)


def _check(
    folders: Sequence[Path], out: Path, bits: int, per_class: int | None, key_file: Path
) -> None:
    if bits not in BITS:
        raise UserError(f"{bits} bits cannot be stored; give {BITS[0]} to {BITS[-1]}.")
    if per_class is not None and per_class < 1:
        raise UserError(f"{per_class} radiographs of each class are none; give 1 or more.")
    if out.exists():
        raise UserError(f"{out} exists; remove it or name another folder.")
    if any(folder.resolve() in out.resolve().parents for folder in folders):
        raise UserError(f"{out} lies in a dataset; name a folder elsewhere.")
    if out.resolve() in key_file.resolve().parents:
        raise UserError(f"{key_file} lies in the export; keep the key elsewhere.")


def _check_table(path: Path, text: str) -> None:
    """What readers answered cannot be understood without the table of their cases."""
    if path.exists() and path.read_text() != text:
        raise UserError(f"{path} tells of other cases; move it away, or name another folder.")


def _unchanged(kind: str, identifier: str) -> str:
    """Takes the place of a key where nothing is hidden."""
    return identifier


def _describe(ds: Dataset, case: cases.Case, secondary_capture: bool) -> None:
    """Adds all that is known of a radiograph to its header."""
    image.describe_examination(ds, case.entry, case.number)
    if case.entry.spacing_source != "unknown" and not secondary_capture:
        image.make_digital_x_ray(ds, case.entry)
    if case.synthetic:
        image.mark_synthetic(ds, case.dataset.provenance)
    else:
        image.mark_deidentified(ds)
