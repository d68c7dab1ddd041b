"""Checks whether the splits of a dataset leak into one another."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from femur_jax.data.records import RadiographEntry


@dataclass(frozen=True)
class Leak:
    """Items of one kind that lie in several splits.

    Attributes:
        kind: 'patients', 'hospitals', or 'pictures', which are radiographs with equal pixels.
        by: Kind of the splits, 'patient' or 'hospital'.
        names: The names of patients or hospitals; for each picture the names of its radiographs,
            joined by =.
    """

    kind: str
    by: str
    names: list[str]


@dataclass(frozen=True)
class SimilarPair:
    """Two radiographs of different patients that look alike.

    Attributes:
        files: The names of the two radiographs.
        bits: Number of the 64 bits in which their perceptual hashes differ.
        across: Whether they lie in different splits, by patient or by hospital.
    """

    files: tuple[str, str]
    bits: int
    across: bool


def find_leaks(entries: Sequence[RadiographEntry]) -> list[Leak]:
    """Searches for items in several splits; radiographs without a hospital split are left out.

    Returns:
        One result for each kind of item and of split, also where nothing leaks. Splits by hospital
        are absent where the dataset has none.
    """
    kinds: list[
        tuple[str, str, Callable[[RadiographEntry], str], Callable[[RadiographEntry], str]]
    ] = [
        ("patients", "patient", lambda e: e.patient, lambda e: e.split),
        ("pictures", "patient", lambda e: e.sha256, lambda e: e.split),
        ("patients", "hospital", lambda e: e.patient, lambda e: e.hospital_split),
        ("pictures", "hospital", lambda e: e.sha256, lambda e: e.hospital_split),
        ("hospitals", "hospital", lambda e: e.hospital, lambda e: e.hospital_split),
    ]
    leaks = []
    for kind, by, item, split in kinds:
        groups: dict[str, list[RadiographEntry]] = {}
        for entry in entries:
            if split(entry):
                groups.setdefault(item(entry), []).append(entry)
        if groups:
            leaking = [name for name, group in groups.items() if len(set(map(split, group))) > 1]
            if kind == "pictures":
                leaking = [" = ".join(e.name for e in groups[name]) for name in leaking]
            leaks.append(Leak(kind, by, sorted(leaking)))
    return leaks


def read_similar_pairs(
    entries: Sequence[RadiographEntry], rows: Sequence[dict[str, Any]]
) -> list[SimilarPair]:
    """Converts the rows of similar.jsonl: pairs across splits first, then the most alike.

    Args:
        entries: Entries of the dataset.
        rows: Rows of the table; see `ingest.pipeline.ingest`.
    """
    by_name = {e.name: e for e in entries}
    pairs = []
    for row in rows:
        a, b = (by_name[name] for name in row["files"])
        apart = "" not in (a.hospital_split, b.hospital_split)
        across = a.split != b.split or (apart and a.hospital_split != b.hospital_split)
        pairs.append(SimilarPair((a.name, b.name), row["bits"], across))
    return sorted(pairs, key=lambda pair: (not pair.across, pair.bits, pair.files))


def summarise_leaks(leaks: Sequence[Leak], similar: Sequence[SimilarPair]) -> str:
    """The result of the check in one or two sentences."""
    counts = [f"{k.kind} in several splits by {k.by}: {len(k.names)}" for k in leaks if k.names]
    if counts:
        return f"The splits leak. {'; '.join(counts).capitalize()}. Do not train on this dataset."
    across = sum(pair.across for pair in similar)
    alike = (
        f"Pairs that look alike across splits, for a person to judge: {across}."
        if across
        else "No two patients' radiographs look alike across splits."
    )
    return f"No patient, picture or held-out hospital is in two splits. {alike}"
