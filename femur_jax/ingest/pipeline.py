"""Creates a dataset from a hospital's folder of radiographs and a label table.

Worker processes read the files and store the results in a spool next to the dataset. When all files
have been read, duplicates are removed, patients are split, and the dataset is written in an order
that follows from the radiographs' content alone: neither names and paths nor the key, the number
of workers or interruptions change it. A killed run resumes from its spool and ends with the same
bytes.
"""

import dataclasses
import json
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from femur_jax.data import cohort, spool
from femur_jax.data.manifest import SCHEMA
from femur_jax.data.records import RadiographEntry
from femur_jax.data.shards import DatasetWriter
from femur_jax.errors import UserError
from femur_jax.files import locked, make_folder, write_atomically
from femur_jax.ingest import duplicates
from femur_jax.ingest.content import content_keys
from femur_jax.ingest.polarity import POSITIVE
from femur_jax.ingest.reader import read_radiograph
from femur_jax.ingest.rejection import REASONS, RejectedFileError
from femur_jax.ingest.splits import split_by_content
from femur_jax.ingest.workers import number_of_workers, run_in_workers
from femur_jax.progress import Progress

QUARANTINE, DUPLICATES, SIMILAR = "quarantine.jsonl", "duplicates.jsonl", "similar.jsonl"
POLARITY = "polarity.jsonl"
SUMMARY = "ingest.json"
LINES = "lines.csv"
_READER = 4
"""Version of the readers: a spool file of another version is not used."""
_SIMILAR_BITS = 3
"""Greatest difference, of 64 bits, between two patients' pictures that a person should compare."""


@dataclass(frozen=True)
class Limits:
    """Limits for reading one file in a worker process.

    Attributes:
        memory: Bytes that the process may allocate.
        seconds: Time in seconds.

    Raises:
        UserError: A limit is not above 0.
    """

    memory: int = 3 << 29
    seconds: float = 120.0

    def __post_init__(self):
        if self.memory < 1 or not self.seconds > 0:
            raise UserError("The limits of memory and time must be above 0; increase them.")


@dataclass(frozen=True)
class Summary:
    """Numbers of files: inputs = accepted + quarantined + duplicates."""

    inputs: int
    accepted: int
    quarantined: int
    duplicates: int


@dataclass(frozen=True)
class _Job:
    """One file to read; the name of `spool` depends on everything that determines the result."""

    path: Path
    entry: cohort.LabelRow
    pseudonym: cohort.Pseudonyms
    patch: int
    spool: Path


def ingest(
    folder: Path,
    labels: Path,
    out: Path,
    *,
    patch: int,
    key_file: Path,
    columns: Sequence[str] = (),
    outside: bool = False,
    fractions: Sequence[float] = (0.15, 0.2),
    seed: int = 0,
    max_quarantined: float = 0.0,
    workers: int | None = None,
    limits: Limits = Limits(),
) -> Summary:
    """Creates a radiograph dataset.

    The dataset keeps only the fields of `Radiograph` and `Source` and the named further columns of
    the label table; identifiers become keyed pseudonyms. Four tables of JSON lines next to the
    manifest list files by pseudonym: unusable files (docs/quarantine.md), duplicates, pairs of
    patients whose pictures look alike, and pictures that a person should look at, since bone is not
    clearly bright. A table next to the key, OUT.lines.csv, gives the line of the label table for
    each pseudonym. The result depends on the inputs, the key and the arguments, not on the number
    of workers or on interruptions; of the key, only the pseudonyms depend.

    Args:
        folder: Folder of radiographs: DICOM, or PNG, TIFF and JPEG exports.
        labels: Path of the label table; see `cohort.read_labels`.
        out: Folder of the dataset, which must not exist. Until it is complete, `out`.spool takes
            as much space again.
        patch: Side of a tile in pixels.
        key_file: Key of the pseudonyms, created where it does not exist. Keep it out of the
            dataset.
        columns: Further columns of the label table to keep, as numbers.
        outside: Whether paths in the label table may lead out of `folder`.
        fractions: Shares of patients for validation and test.
        seed: Seed of the splits.
        max_quarantined: Greatest acceptable share of unusable files.
        workers: Number of reading processes, by default one per core.
        limits: Limits for reading one file.

    Returns:
        The numbers of accepted and other files.

    Raises:
        UserError: The input is bad, or too many files are unusable. No dataset is created, and
            the spool is kept for the next run.
    """
    workers = number_of_workers(workers)
    if not 0 <= max_quarantined <= 1:
        raise UserError(f"The share of unusable files is {max_quarantined}; give 0 to 1.")
    if out.resolve() in key_file.resolve().parents:
        raise UserError(f"{key_file} lies in the dataset; keep the key elsewhere.")
    spooled = out.with_name(f"{out.name}.spool")
    if out.exists() and spooled.exists():  # a run was killed after the dataset was complete
        shutil.rmtree(spooled)
        return Summary(**json.loads((out / SUMMARY).read_text()))
    entries = cohort.read_labels(labels, folder, columns, outside=outside)
    patients = {e.patient_id: e.label for e in entries}
    cohort.split_patients(patients, fractions=fractions, seed=seed)  # checked before the long work
    provenance = {
        "kind": "real",
        "seed": seed,
        "fractions": list(fractions),
        "columns": list(columns),
    }
    writer = DatasetWriter(out, patch=patch, provenance=provenance)
    make_folder(key_file.parent)
    pseudonym = cohort.Pseudonyms(key_file)
    make_folder(spooled)
    with locked(spooled / "lock", out):
        jobs = [_job(folder / e.path, e, pseudonym, patch, spooled) for e in entries]
        results = _read_all(jobs, workers, limits)
        read = {
            n: result for n, result in enumerate(results) if isinstance(result, spool.FileFacts)
        }
        content = content_keys(
            {n: facts.entry for n, facts in read.items()},
            patients=[e.patient_id for e in entries],
            hospitals=[e.hospital for e in entries],
        )
        positions = sorted(
            read, key=lambda n: (cohort.seeded_hash(seed, content.file[n]), read[n].entry.name)
        )
        repeated = duplicates.find_duplicates(
            [read[n] for n in positions], [entries[n].patient_id for n in positions]
        )
        codes = {n: code for n, code in enumerate(results) if isinstance(code, str)}
        codes |= {positions[n]: "label_conflict" for n in repeated.conflicts}
        _check_share(codes, entries, max_quarantined, spooled)
        same = {
            positions[d.position]: (positions[d.original], d.reason) for d in repeated.duplicates
        }
        kept = [n for n in positions if n not in same and n not in codes]
        summary = Summary(len(jobs), len(kept), len(codes), len(same))
        accounted = summary.accepted + summary.quarantined + summary.duplicates
        if accounted != summary.inputs:
            raise RuntimeError(f"only {accounted} of {summary.inputs} files are accounted for")
        splits, hospital_splits = split_by_content(
            [entries[n] for n in positions if n not in codes],
            content,
            repeated.connected,
            fractions=fractions,
            seed=seed,
        )
        groups = {
            p: min(pseudonym("patient", other) for other in people)
            for people in repeated.connected
            for p in people
        }
        kept.sort(key=lambda n: cohort.SPLITS.index(splits[entries[n].patient_id]))  # stable
        with writer:
            for n in Progress(kept, "write"):
                patient = entries[n].patient_id
                encoded = spool.read_encoded(jobs[n].spool, read[n])
                group = groups.get(patient, "")
                writer.add(encoded, splits[patient], hospital_splits.get(patient, ""), group)
            about = [_about(entry, pseudonym) for entry in entries]
            lines_file = key_file.with_name(f"{out.name}.{LINES}")
            write_atomically(lines_file, _lines_table(entries, about))
            writer.write_text(QUARANTINE, _quarantine_lines(codes, about))
            writer.write_text(DUPLICATES, _duplicate_lines(same, about))
            writer.write_text(
                SIMILAR,
                _similar_lines(
                    [read[n].entry for n in kept], [read[n].perceptual_hash for n in kept]
                ),
            )
            unclear = {n: read[n].polarity for n in kept if read[n].polarity != POSITIVE}
            writer.write_text(
                POLARITY, _table_lines(about[n] | {"polarity": unclear[n]} for n in unclear)
            )
            writer.write_text(SUMMARY, json.dumps(dataclasses.asdict(summary)))
    shutil.rmtree(spooled)
    return summary


def _job(
    path: Path, entry: cohort.LabelRow, pseudonym: cohort.Pseudonyms, patch: int, folder: Path
) -> _Job:
    status = path.stat()
    row = dataclasses.asdict(entry)
    del row["line"]  # it changes when lines above are removed
    state = [SCHEMA, _READER, patch, row, status.st_size, status.st_mtime_ns]
    return _Job(path, entry, pseudonym, patch, folder / pseudonym("spool", json.dumps(state)))


def _read_all(jobs: Sequence[_Job], workers: int, limits: Limits) -> list[spool.FileFacts | str]:
    """The facts about each job's file, or the code of the reason why it cannot be used."""
    results: list[spool.FileFacts | str | None] = [spool.read_facts(job.spool) for job in jobs]
    left = [n for n, result in enumerate(results) if result is None]
    done = run_in_workers(
        _read,
        [jobs[n] for n in left],
        workers=workers,
        memory=limits.memory,
        seconds=limits.seconds,
    )
    bar = Progress(done, "read", len(jobs), initial=len(jobs) - len(left), unit="file")
    for n, result in zip(left, bar, strict=True):
        results[n] = result
    return [result for result in results if result is not None]


def _read(job: _Job) -> spool.FileFacts | str:
    """Reads one file in a worker process and stores it in the spool."""
    try:
        facts, encoded = read_radiograph(job.path, job.entry, job.pseudonym, job.patch)
    except RejectedFileError as error:
        return error.code
    spool.write(job.spool, facts, encoded)
    return facts


def _check_share(
    codes: Mapping[int, str],
    entries: Sequence[cohort.LabelRow],
    max_quarantined: float,
    spooled: Path,
) -> None:
    if len(codes) <= max_quarantined * len(entries) and len(codes) < len(entries):
        return
    counts = Counter(codes.values())
    first = min(codes, key=lambda n: entries[n].line)
    raise UserError(
        f"{len(codes)} of {len(entries)} files cannot be used "
        f"({', '.join(f'{code}: {n}' for code, n in counts.most_common())}). "
        f"The first is that of the label table, line {entries[first].line}: "
        f"{REASONS[codes[first]].hint} Repair or delete the files and their lines, or allow a "
        f"share of them with --max_quarantined. {spooled} keeps the other files for the next run."
    )


def _about(entry: cohort.LabelRow, pseudonym: cohort.Pseudonyms) -> dict[str, str]:
    """The fields that describe a file in the tables next to the manifest."""
    return {
        "file": pseudonym("file", entry.path),
        "hospital": pseudonym("hospital", entry.hospital),
    }


def _lines_table(entries: Sequence[cohort.LabelRow], about: Sequence[dict[str, str]]) -> str:
    """The line of the label table of each file; it names patients to whoever has that table."""
    rows = (f"{entry.line},{row['file']}\n" for entry, row in zip(entries, about, strict=True))
    return "".join(["line,file\n", *rows])


def _quarantine_lines(codes: Mapping[int, str], about: Sequence[dict[str, str]]) -> str:
    return _table_lines(
        about[n] | {"code": code} | REASONS[code]._asdict() for n, code in codes.items()
    )


def _duplicate_lines(same: Mapping[int, tuple[int, str]], about: Sequence[dict[str, str]]) -> str:
    return _table_lines(
        about[n] | {"original": about[original]["file"], "reason": reason}
        for n, (original, reason) in same.items()
    )


def _table_lines(rows: Iterable[dict[str, str]]) -> str:
    """Rows in the order of their pseudonyms, which reveals nothing of the label table's order."""
    return _json_lines(sorted(rows, key=lambda row: row["file"]))


def _similar_lines(entries: Sequence[RadiographEntry], hashes: Sequence[int]) -> str:
    return _json_lines(
        {"files": [entries[a].name, entries[b].name], "bits": bits}
        for a, b, bits in duplicates.close_hashes(hashes, most=_SIMILAR_BITS)
        if entries[a].patient != entries[b].patient
    )


def _json_lines(rows: Iterable[dict[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)
