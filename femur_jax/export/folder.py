"""Radiographs of datasets to a folder of DICOM files, in the open or blinded for a reader study."""

import csv
import dataclasses
import hashlib
import io
import json
import os
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydicom.dataset import Dataset
from tqdm import tqdm

from femur_jax.data.cohort import Pseudonyms, seeded_hash
from femur_jax.data.radiograph import LABELS
from femur_jax.data.records import Entry
from femur_jax.data.shards import RadiographDataset
from femur_jax.errors import UserError
from femur_jax.export import image

BITS = range(12, 17)
_CASES = ("file", "patient_id", "dataset", "radiograph", "label", "kind")


@dataclass(frozen=True)
class Case:
    """One radiograph to be exported.

    Attributes:
        dataset: It belongs to.
        entry: What the dataset says of it.
        radiograph: Its position there.
        identity: Of the dataset, 8 hexadecimal digits that follow from what it holds.
        patient_id: The Patient ID that it gets.
        patient_name: The Patient's Name that it gets.
        number: Which of that patient's radiographs it is, from 1.
    """

    dataset: RadiographDataset
    entry: Entry
    radiograph: int
    identity: str
    patient_id: str = ""
    patient_name: str = ""
    number: int = 1


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
    if bits not in BITS:
        raise UserError(f"{bits} bits cannot be stored; give {BITS[0]} to {BITS[-1]}.")
    if per_class is not None and per_class < 1:
        raise UserError(f"{per_class} radiographs of each class are none; give 1 or more.")
    if out.exists():
        raise UserError(f"{out} exists; remove it or name another folder.")
    if any(folder.resolve() in out.resolve().parents for folder in folders):
        raise UserError(f"{out} lies in a dataset; name a folder elsewhere.")
    key_file = key_file or out.with_name(f"{out.name}.key")
    if out.resolve() in key_file.resolve().parents:
        raise UserError(f"{key_file} lies in the export; keep the key elsewhere.")
    cases = [
        case
        for folder in folders
        for case in _choose(folder, per_class, seed, allow_real=allow_real)
    ]
    if len({case.identity for case in cases}) < len(folders):
        raise UserError("Two of the datasets are the same, or one is empty; name each once.")
    partial = out.with_name(f"{out.name}.partial")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(partial, ignore_errors=True)  # left by a run that was killed
        partial.mkdir()
        if blinded:
            key = Pseudonyms(key_file)
            cases = _blind(cases, key)
            _write_cases(out.with_name(f"{out.name}.cases.csv"), cases)
        else:
            key = _unchanged
            cases = _name(cases)
        for n, case in enumerate(tqdm(cases, "export", disable=None), start=1):
            if blinded:
                ds = image.header(case.patient_id, case.patient_name)
            else:
                ds = _header(case, secondary_capture)
            image.set_pixels(ds, case.dataset.read(case.radiograph), bits)
            image.set_uids(ds, key)
            ds.save_as(partial / _file_name(n), enforce_file_format=True)
        partial.replace(out)
    except OSError as error:
        raise UserError(
            f"{out} cannot be written ({error.strerror}); nothing was kept. Make room or name "
            "another folder, and run it again."
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return len(cases)


def _unchanged(kind: str, identifier: str) -> str:
    return identifier


def _file_name(number: int) -> str:
    return f"{number:05d}.dcm"


def _is_synthetic(dataset: RadiographDataset) -> bool:
    return dataset.provenance.get("kind") == "synthetic"


def _choose(folder: Path, per_class: int | None, seed: int, *, allow_real: bool) -> list[Case]:
    """The radiographs of a dataset that shall be exported."""
    dataset = RadiographDataset(folder)
    if not (allow_real or _is_synthetic(dataset)):
        raise UserError(
            f"{folder} holds radiographs of patients, or does not say that it is synthetic; "
            "if they may leave this machine, add --allow-real."
        )
    content = json.dumps([dataset.provenance, [entry.sha256 for entry in dataset.entries]])
    identity = hashlib.sha256(content.encode()).hexdigest()[:8]
    cases = [Case(dataset, entry, n, identity) for n, entry in enumerate(dataset.entries)]
    if per_class is None:
        return cases
    chosen = []
    for label in LABELS:
        own = [case for case in cases if case.entry.label == label]
        if len(own) < per_class:
            raise UserError(
                f"{folder} has {len(own)} radiographs with label {label}, and {per_class} are "
                "asked for; ask for fewer."
            )
        chosen += sorted(own, key=lambda case: seeded_hash(seed, case.entry.name))[:per_class]
    return sorted(chosen, key=lambda case: case.radiograph)


def _name(cases: Sequence[Case]) -> list[Case]:
    """Names cases after their patients."""
    counts: Counter[str] = Counter()
    named = []
    for case in cases:
        # Patients of different datasets may have the same name.
        patient_id = f"{case.identity}-{case.entry.patient}"
        counts[patient_id] += 1
        family = "SYNTHETIC" if _is_synthetic(case.dataset) else "PSEUDONYM"
        named.append(
            dataclasses.replace(
                case,
                patient_id=patient_id,
                patient_name=f"{family}^{case.entry.patient}",
                number=counts[patient_id],
            )
        )
    return named


def _blind(cases: Sequence[Case], key: Pseudonyms) -> list[Case]:
    """Brings cases into an order that means nothing, and numbers them, each a patient."""
    order = {key("order", f"{case.identity} {case.entry.name}"): case for case in cases}
    study = key("study", " ".join(sorted(order)))[:6].upper()
    return [
        dataclasses.replace(
            case, patient_id=f"{study}-{n:05d}", patient_name=f"STUDY {study}^CASE {n:05d}"
        )
        for n, (_, case) in enumerate(sorted(order.items()), start=1)
    ]


def _header(case: Case, secondary_capture: bool) -> Dataset:
    """The header of a case that is not blinded."""
    ds = image.header(case.patient_id, case.patient_name)
    image.describe_examination(ds, case.entry, case.number)
    if case.entry.spacing_source != "unknown" and not secondary_capture:
        image.make_digital_x_ray(ds, case.entry)
    if _is_synthetic(case.dataset):
        image.mark_synthetic(ds, case.dataset.provenance)
    else:
        image.mark_deidentified(ds)
    return ds


def _write_cases(path: Path, cases: Sequence[Case]) -> None:
    """Writes which blinded case is which, for the eyes of its owner.

    Raises:
        UserError: The file tells of another study.
    """
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(_CASES)
    for n, case in enumerate(cases, start=1):
        kind = "synthetic" if _is_synthetic(case.dataset) else "real"
        entry, folder = case.entry, case.dataset.folder
        table.writerow([_file_name(n), case.patient_id, folder, entry.name, entry.label, kind])
    if path.exists():
        if path.read_text() == text.getvalue():
            return
        raise UserError(f"{path} tells of other cases; move it away, or name another folder.")
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text.getvalue())
