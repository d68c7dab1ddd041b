"""A cohort of simulated patients: DICOM files, a table of labels and the ground truth."""

import csv
import json
import multiprocessing
import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import jax

from femur_jax.errors import UserError
from femur_jax.files import new_folder
from femur_jax.phantom.patient import COARSEST_MM, Record, write_patient
from femur_jax.phantom.plan import Patient, plan_cohort
from femur_jax.progress import Progress

COLUMNS: tuple[str, ...] = (
    "path",
    "patient_id",
    "hospital",
    "label",
    "view",
    "laterality",
    "age",
    "sex",
    "exposure",
)
"""Columns of labels.csv; exposure is whether the patient took bisphosphonates: no header says."""

ONE_THREAD = {
    "NPROC": "1",  # XLA's pool
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "JAX_PLATFORMS": "cpu",
}
"""Environment of a worker. With more threads, the workers would compete for the cores."""


def write_cohort(
    folder: Path,
    *,
    patients: int,
    images: int,
    hospitals: int,
    aff_fraction: float,
    long_side: tuple[int, int],
    coarsest_mm: float = COARSEST_MM,
    faults: float = 0.0,
    only: tuple[int, int] | None = None,
    workers: int | None = None,
    seed: int,
    progress: bool = True,
) -> Path:
    """Writes DICOM files and labels.csv to a folder, and `<folder>.truth.jsonl` next to it.

    A patient's body, fracture and images depend on the seed and on the plan of the cohort, not on
    the number of workers or on `only`. The folder appears when all files are written.

    Args:
        folder: The folder to write, new or empty.
        patients: Number of patients.
        images: Number of radiographs of all patients together. Faults may add files.
        hospitals: Number of hospitals, at most that of patients.
        aff_fraction: Share of patients with an atypical fracture, 0 to 1.
        long_side: Least and greatest length of an image's longer side, pixels. With a factor of 2
            between them and at least 4 hospitals, areas of images differ by a factor of over 4.
        coarsest_mm: Largest pixel in mm at the bone. Small images show less of the bone.
        faults: Share of the images with a fault of the export (see the module `faults`).
        only: First and last patient to write, counted from 0, the last excluded.
        workers: Number of processes, by default one per core. With 1, this process simulates.
        seed: Seed of the cohort. Equal seeds give equal pixels and headers.
        progress: Whether to show a progress bar with the time left on stderr.

    Returns:
        The path of labels.csv.

    Raises:
        UserError: The folder is not empty or another process is writing it, or a number is out of
            range.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} exists and is not an empty folder; name a new folder.")
    plan = plan_cohort(
        seed,
        patients=patients,
        images=images,
        hospitals=hospitals,
        aff_fraction=aff_fraction,
        long_side=long_side,
        faults=faults,
    )
    if only is not None:
        if not 0 <= only[0] < only[1] <= patients:
            raise UserError(
                f"The cohort of {patients} patients has no range {only[0]} to {only[1]}; "
                "count from 0, and give a last patient, excluded, greater than the first."
            )
        plan = plan[slice(*only)]
    workers = os.cpu_count() or 1 if workers is None else workers
    if workers < 1:
        raise UserError(f"{workers} workers cannot simulate; use 1 or more.")
    if folder.exists():
        folder.rmdir()
    with new_folder(folder) as unfinished:
        truth = unfinished / "truth.jsonl"
        work = partial(write_patient, unfinished, seed, coarsest_mm=coarsest_mm)
        with (
            (unfinished / "labels.csv").open("w", newline="") as table,
            truth.open("w") as lines,
            _simulated(work, plan, min(workers, len(plan))) as results,
        ):
            rows = csv.DictWriter(table, COLUMNS, extrasaction="ignore")
            rows.writeheader()
            for records in Progress(
                results, "patients", len(plan), unit="patient", disable=not progress
            ):
                rows.writerows(records)
                lines.writelines(json.dumps(record) + "\n" for record in records)
        truth.replace(folder.with_name(f"{folder.name}.truth.jsonl"))
    return folder / "labels.csv"


@contextmanager
def _simulated(
    work: partial[list[Record]], plan: Sequence[Patient], workers: int
) -> Iterator[Iterator[list[Record]]]:
    """Yields the results for all patients in order, computed on the CPU by one thread a process."""
    if workers == 1:
        with jax.default_device(jax.local_devices(backend="cpu")[0]):
            yield map(work, plan)
        return
    before = {name: os.environ.get(name) for name in ONE_THREAD}
    os.environ.update(ONE_THREAD)
    context = multiprocessing.get_context("spawn")  # a forked process with threads may hang
    try:
        with ProcessPoolExecutor(workers, context, _end_with_parent) as pool:
            yield pool.map(work, plan)
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _end_with_parent() -> None:
    """Ends this worker as soon as its parent has ended, however it ended."""
    parent = multiprocessing.parent_process()

    def wait() -> None:
        if parent:
            parent.join()
            os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
