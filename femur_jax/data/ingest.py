"""From a hospital's folder of radiographs and a label table to a dataset."""

import hashlib
import json
import multiprocessing
import os
import warnings
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from femur_jax.data import cohort
from femur_jax.data.dicom import read_dicom
from femur_jax.data.image_file import SUFFIXES, read_image_file
from femur_jax.data.radiograph import Radiograph
from femur_jax.data.rejection import RejectedFileError
from femur_jax.data.shards import DatasetWriter, Encoded, encode
from femur_jax.errors import UserError


@dataclass(frozen=True)
class Summary:
    """What became of the files; inputs = accepted + rejected + duplicates."""

    inputs: int
    accepted: int
    rejected: int
    duplicates: int


@dataclass(frozen=True)
class _Job:
    path: Path
    entry: cohort.Entry
    split: str
    patient: str
    hospital: str
    patch: int


@dataclass(frozen=True)
class _Rejected:
    code: str
    hint: str


def ingest(
    folder: Path,
    labels: Path,
    out: Path,
    *,
    patch: int,
    key_file: Path,
    fractions: Sequence[float] = (0.15, 0.2),
    seed: int = 0,
    max_rejected: float = 0.0,
    workers: int | None = None,
) -> Summary:
    """Makes a radiograph dataset.

    Nothing of a file is kept but grey values, spacing and what the label table says; names
    become keyed pseudonyms. Files that cannot be read are listed in `rejected.jsonl` in the
    dataset by pseudonym, code and hint. The result depends on the inputs, the key and the
    arguments, not on the number of workers.

    Args:
        folder: Radiographs: DICOM, or PNG, TIFF and JPEG exports.
        labels: The label table; see `cohort.read_labels`.
        out: The dataset, which must not exist.
        patch: Side of a tile in pixels.
        key_file: The pseudonyms' key, made where it does not exist. Keep it out of the dataset.
        fractions: Shares of patients for validation and test.
        seed: Of the split.
        max_rejected: The share of files that may be unreadable.
        workers: Processes that decode; by default one per core.

    Raises:
        UserError: Bad input, or the same picture of two patients, who might end up in different
            splits. Then there is no dataset.
    """
    workers = os.cpu_count() or 1 if workers is None else workers
    if workers < 1:
        raise UserError(f"The number of workers is {workers}; give 1 or more.")
    if out in key_file.parents:
        raise UserError(f"{key_file} lies in the dataset; keep the key elsewhere.")
    entries = cohort.read_labels(labels, folder)
    splits = cohort.split_patients(entries, fractions=fractions, seed=seed)
    provenance = {"kind": "real", "seed": seed, "fractions": list(fractions)}
    writer = DatasetWriter(out, patch=patch, provenance=provenance)
    key_file.parent.mkdir(parents=True, exist_ok=True)
    pseudonym = cohort.Pseudonyms(key_file)
    # Neither the order of the table nor that of the pseudonyms: it is the same under any key.
    entries.sort(
        key=lambda e: (cohort.SPLITS.index(splits[e.patient_id]), cohort.seeded_hash(seed, e.path))
    )
    jobs = [
        _Job(
            path=folder / e.path,
            entry=e,
            split=splits[e.patient_id],
            patient=pseudonym("patient", e.patient_id),
            hospital=pseudonym("hospital", e.hospital),
            patch=patch,
        )
        for e in entries
    ]
    first: dict[str, _Job] = {}  # of the files with the same pixels
    rejections: list[tuple[_Job, _Rejected]] = []
    context = multiprocessing.get_context("spawn")  # a fork of a process with threads may hang
    with writer, ProcessPoolExecutor(workers, mp_context=context) as pool:
        results = _in_order(pool, jobs, ahead=4 * workers)
        for job, result in tqdm(results, "ingest", len(jobs), disable=None):
            if isinstance(result, _Rejected):
                rejections.append((job, result))
                continue
            digest, encoded = result
            original = first.setdefault(digest, job)
            if original is job:
                writer.add(encoded)
            elif original.patient != job.patient:
                raise UserError(
                    f"{original.path} and {job.path} hold the same picture, but of two patients; "
                    f"give both the same patient_id in {labels}, or delete a line."
                )
        _check_rejections(rejections, len(jobs), max_rejected)
        writer.write_text("rejected.jsonl", _rejection_lines(rejections, pseudonym))
    return Summary(
        inputs=len(jobs),
        accepted=len(first),
        rejected=len(rejections),
        duplicates=len(jobs) - len(first) - len(rejections),
    )


def _in_order(
    pool: Executor, jobs: Sequence[_Job], *, ahead: int
) -> Iterator[tuple[_Job, tuple[str, Encoded] | _Rejected]]:
    """Each job with its result; at most `ahead` of them are in memory."""
    under_way = deque()
    try:
        for job in jobs:
            if len(under_way) == ahead:
                yield under_way[0][0], under_way.popleft()[1].result()
            under_way.append((job, pool.submit(_process, job)))
        while under_way:
            yield under_way[0][0], under_way.popleft()[1].result()
    except BrokenProcessPool as error:
        raise UserError(
            "A process that reads files was killed, perhaps for want of memory; "
            "use fewer --workers, or free memory."
        ) from error


def _process(job: _Job) -> tuple[str, Encoded] | _Rejected:
    """Decodes one file, in a worker process: its pixels' hash and its tiles."""
    warnings.simplefilter("ignore")  # pydicom's quote header values
    try:
        if job.path.suffix.lower() in SUFFIXES:
            pixels, spacing, source = read_image_file(job.path), 0.0, "unknown"
        else:
            pixels, spacing, source = read_dicom(job.path)
    except RejectedFileError as error:
        return _Rejected(error.code, error.hint)
    except Exception:  # whatever else a malformed file provokes, it costs this file only
        return _Rejected("unreadable", "It cannot be read.")
    radiograph = Radiograph(
        pixels=pixels,
        label=job.entry.label,
        patient=job.patient,
        hospital=job.hospital,
        spacing_mm=spacing,
        spacing_source=source,
        view=job.entry.view,
        laterality=job.entry.laterality,
    )
    digest = hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).hexdigest()
    return digest, encode(radiograph, job.split, job.patch)


def _check_rejections(
    rejections: list[tuple[_Job, _Rejected]], inputs: int, max_rejected: float
) -> None:
    if len(rejections) <= max_rejected * inputs and len(rejections) < inputs:
        return
    counts = Counter(rejected.code for _, rejected in rejections)
    job, rejected = rejections[0]
    raise UserError(
        f"{len(rejections)} of {inputs} files cannot be used "
        f"({', '.join(f'{code}: {n}' for code, n in counts.most_common())}), "
        f"the first is {job.path}: {rejected.hint} "
        f"Mend or delete them and their lines, or allow a share with --max_rejected."
    )


def _rejection_lines(rejections: list[tuple[_Job, _Rejected]], pseudonym: cohort.Pseudonyms) -> str:
    return "".join(
        json.dumps(
            {
                "file": pseudonym("file", job.entry.path),
                "code": rejected.code,
                "hint": rejected.hint,
            }
        )
        + "\n"
        for job, rejected in rejections
    )
