"""An attack on pseudonyms with the list of paths, patients and hospitals, and without the key."""

import hashlib
import itertools
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.machine import cpu
from benchmarks.records import Goal, Result, measurement
from femur_jax.data.cohort import Pseudonyms, seeded_hash, split_hospitals, split_patients
from femur_jax.ingest.pipeline import ingest

FRACTIONS = (0.15, 0.2)
MOST_BY_CHANCE = 9.0
"""Links that the best of 120 random orders exceeds with a probability below 1 in 10,000."""


@dataclass(frozen=True)
class Line:
    """One line of the label table, which the attacker has."""

    path: str
    patient: str
    hospital: str
    label: str


def write_files(folder: Path, *, patients: int, films: int, hospitals: int) -> list[Line]:
    """Writes random pictures and labels.csv; every eighth film is damaged or repeats the last.

    Each patient has equally many films, and each hospital equally many patients, so that numbers
    of films name nobody.
    """
    rng = np.random.default_rng(0)
    lines = []
    folder.mkdir()
    for patient, film in itertools.product(range(patients), range(films)):
        number = patient * films + film
        path = folder / f"film{number:05d}.png"
        pixels = rng.integers(0, 65536, (24, 24), np.uint16)
        Image.fromarray(pixels).save(path)
        if number % 16 == 7:
            path.write_bytes(path.read_bytes()[:60])
        elif number % 16 == 15 and film:
            path.write_bytes((folder / f"film{number - 1:05d}.png").read_bytes())
        hospital = f"hospital {patient % hospitals}"
        label = ("NFF", "AFF")[patient // hospitals % 2]
        lines.append(Line(path.name, f"19{patient:010d}", hospital, label))
    table = ["path,patient_id,hospital,label"]
    table += [f"{li.path},{li.patient},{li.hospital},{li.label}" for li in lines]
    (folder / "labels.csv").write_text("\n".join(table))
    return lines


def linked(lines: Sequence[Line], dataset: Path, key: Path) -> dict[str, int]:
    """Greatest numbers of true links that any guess of the attacker gives.

    The attacker sorts the lines by every key that needs no secret, and takes the n-th line for the
    n-th row of a list: of the manifest, of its splits and classes, and of each table. Which lines
    a list holds is given to the attacker. Splits are predicted from names and the seed.

    Args:
        lines: The attacker's list.
        dataset: Folder of the dataset, without its key.
        key: The key, only to count which guesses are right.

    Returns:
        Numbers of records, of rows of tables, and of hospitals that are linked, of patients whose
        split is predicted, and of names or unkeyed digests of them that occur in a file.
    """
    pseudonym = Pseudonyms(key)
    truth = {pseudonym("file", line.path): line for line in lines}
    name_of = {line: name for name, line in truth.items()}  # a guess of the whole set, at best
    manifest = json.loads((dataset / "dataset.json").read_text())
    rows, seed = manifest["radiographs"], manifest["provenance"]["seed"]
    orders = list(_orders(lines, seed))
    split = split_patients({li.patient: li.label for li in lines}, fractions=FRACTIONS, seed=seed)
    true_split = {truth[row["name"]].patient: row["split"] for row in rows}
    by_hospital: dict[str, dict[str, str]] = {}
    for line in lines:
        by_hospital.setdefault(line.hospital, {})[line.patient] = line.label
    hospital_split = split_hospitals(by_hospital, fractions=FRACTIONS, seed=seed)
    true_hospital_split = {
        truth[row["name"]].hospital: row["hospital_split"] for row in rows if row["hospital_split"]
    }
    whole = {row["name"] for row in rows}
    records = max(
        _right([(row["name"], "") for row in rows], [(li, "") for li in order], truth)
        for lists in (orders, [[li for li in o if name_of[li] in whole] for o in orders])
        for order in lists
    )
    grouped = max(
        _right(
            [(row["name"], row["split"] + row["label"]) for row in rows],
            [(line, split[line.patient] + line.label) for line in order],
            truth,
        )
        for order in orders
    )
    tables = 0
    for file in sorted(dataset.glob("*.jsonl")):
        table = [json.loads(text) for text in file.read_text().splitlines()]
        names = [name for row in table for name in (row.get("files") or [row["file"]])]
        listed = set(names)
        for order in orders:
            some = [(line, "") for line in order if name_of[line] in listed]
            tables = max(tables, _right([(name, "") for name in names], some, truth))
    hospitals = list(dict.fromkeys(row["hospital"] for row in rows))
    named = max(
        sum(
            pseudonym("hospital", hospital) == name
            for hospital, name in zip(
                dict.fromkeys(line.hospital for line in order), hospitals, strict=False
            )
        )
        for order in orders
    )
    return {
        "records": max(records, grouped),
        "rows of tables": tables,
        "hospitals": named,
        "splits of patients": sum(split[patient] == true_split[patient] for patient in true_split),
        "splits of hospitals": sum(
            hospital_split.get(hospital) == name for hospital, name in true_hospital_split.items()
        ),
        "names and digests": _occurrences(lines, dataset),
    }


def _orders(lines: Sequence[Line], seed: int) -> Iterator[list[Line]]:
    """The lines in every order that needs no secret."""
    texts = {
        "path": lambda line: line.path,
        "stem": lambda line: Path(line.path).stem,
        "patient": lambda line: line.patient,
        "hospital": lambda line: line.hospital,
        "hospital and patient": lambda line: f"{line.hospital} {line.patient}",
    }
    yield list(lines)
    for text in texts.values():
        yield sorted(lines, key=text)
        yield sorted(lines, key=lambda line: seeded_hash(seed, text(line)))
        for name in ("sha256", "md5", "sha1"):
            yield sorted(
                lines,
                key=lambda line: hashlib.new(name, text(line).encode()).digest(),
            )


def _right(
    rows: Sequence[tuple[str, str]],
    order: Sequence[tuple[Line, str]],
    truth: Mapping[str, Line],
) -> int:
    """Number of rows that the line at the same place of the same group is the truth of."""
    groups: dict[str, list[Line]] = {}
    for line, group in order:
        groups.setdefault(group, []).append(line)
    place: dict[str, int] = {}
    right = 0
    for name, group in rows:
        n = place[group] = place.get(group, -1) + 1
        candidates = groups.get(group, [])
        right += n < len(candidates) and candidates[n] is truth[name]
    return right


def _occurrences(lines: Sequence[Line], dataset: Path) -> int:
    """Number of names, and of unkeyed digests of them, that occur in any file of the dataset."""
    content = b"".join(path.read_bytes() for path in dataset.rglob("*") if path.is_file())
    texts = {text for line in lines for text in (line.path, line.patient, line.hospital)}
    digests = {
        hashlib.new(name, text.encode()).hexdigest()[:16]
        for text in texts
        for name in ("sha256", "md5", "sha1")
    }
    words = {content[n : n + 16] for n in _hexadecimal(content)}
    return sum(text.encode() in content for text in texts) + sum(
        digest.encode() in words for digest in digests
    )


def _hexadecimal(content: bytes) -> Iterator[int]:
    """Positions at which 16 hexadecimal digits start."""
    digits = np.isin(np.frombuffer(content, np.uint8), np.frombuffer(b"0123456789abcdef", np.uint8))
    runs = np.lib.stride_tricks.sliding_window_view(digits, 16).all(axis=1)
    return iter(np.flatnonzero(runs).tolist())


@measurement("of 1600", Goal("<=", MOST_BY_CHANCE))
def pseudonym_attack_linked() -> Result:
    """Records that are linked to their paths with the label table and without the key.

    1600 files of 400 patients at 20 hospitals, every eighth of them damaged or repeated, become a
    dataset. The attacker sorts the label table in 26 ways that need no secret, predicts splits
    from names and the seed, and takes the n-th line for the n-th row of the manifest, of each of
    its splits and classes, and of each table. A random order links one record in expectation, and
    the best of so many guesses exceeds the goal in fewer than 1 of 10,000 datasets.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder, out = Path(scratch) / "films", Path(scratch) / "dataset"
        lines = write_files(folder, patients=400, films=4, hospitals=20)
        key = Path(scratch) / "key"
        summary = ingest(
            folder,
            folder / "labels.csv",
            out,
            patch=32,
            key_file=key,
            fractions=FRACTIONS,
            max_quarantined=0.2,
        )
        found = linked(lines, out, key)
    return Result(
        value=float(max(found["records"], found["rows of tables"])),
        device=cpu(),
        details={"files": summary.inputs, "accepted": summary.accepted, **found},
    )
