"""Does a split of a dataset leak into another?"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from femur_jax.data.records import RadiographEntry


@dataclass(frozen=True)
class Leak:
    """Things of one kind that lie in more than one split.

    Attributes:
        kind: Patients, hospitals, or pictures, which are radiographs with equal pixels.
        by: Whether splits are by patient or by hospital.
        names: Of the patients or hospitals; of the radiographs, joined by =, that are one picture.
    """

    kind: str
    by: str
    names: list[str]


@dataclass(frozen=True)
class SimilarPair:
    """Two patients' radiographs that look alike.

    Attributes:
        files: Their names.
        bits: In how many of 64 bits their perceptual hashes differ.
        across: They lie in different splits, by patient or by hospital.
    """

    files: tuple[str, str]
    bits: int
    across: bool


def find_leaks(entries: Sequence[RadiographEntry]) -> list[Leak]:
    """Looks for what no two splits may share; a patient of no hospital split is in none.

    Returns:
        For each kind of thing and of split one item, also where nothing leaks; none for splits
        by hospital where there are none.
    """
    things: list[
        tuple[str, str, Callable[[RadiographEntry], str], Callable[[RadiographEntry], str]]
    ] = [
        ("patients", "patient", lambda e: e.patient, lambda e: e.split),
        ("pictures", "patient", lambda e: e.sha256, lambda e: e.split),
        ("patients", "hospital", lambda e: e.patient, lambda e: e.hospital_split),
        ("pictures", "hospital", lambda e: e.sha256, lambda e: e.hospital_split),
        ("hospitals", "hospital", lambda e: e.hospital, lambda e: e.hospital_split),
    ]
    found = []
    for kind, by, thing, split in things:
        groups: dict[str, list[RadiographEntry]] = {}
        for entry in entries:
            if split(entry):
                groups.setdefault(thing(entry), []).append(entry)
        if groups:
            several = {name: own for name, own in groups.items() if len(set(map(split, own))) > 1}
            if kind == "pictures":
                several = {" = ".join(e.name for e in own): own for own in several.values()}
            found.append(Leak(kind, by, sorted(several)))
    return found


def read_similar_pairs(
    entries: Sequence[RadiographEntry], rows: Sequence[dict[str, Any]]
) -> list[SimilarPair]:
    """What similar.jsonl says of a dataset: pairs across splits first, then the most alike.

    Args:
        entries: Of the dataset.
        rows: Of the table, see `ingest.ingest`.
    """
    by_name = {e.name: e for e in entries}
    found = []
    for row in rows:
        a, b = (by_name[name] for name in row["files"])
        apart = "" not in (a.hospital_split, b.hospital_split)
        across = a.split != b.split or (apart and a.hospital_split != b.hospital_split)
        found.append(SimilarPair((a.name, b.name), row["bits"], across))
    return sorted(found, key=lambda pair: (not pair.across, pair.bits, pair.files))


def summarise_leaks(leaks: Sequence[Leak], similar: Sequence[SimilarPair]) -> str:
    """What was found, in a sentence or two."""
    found = [f"{k.kind} in several splits by {k.by}: {len(k.names)}" for k in leaks if k.names]
    if found:
        return f"The splits leak. {'; '.join(found).capitalize()}. Do not train on this dataset."
    across = sum(pair.across for pair in similar)
    alike = (
        f"Pairs that look alike across splits, for a person to judge: {across}."
        if across
        else "No two patients' radiographs look alike across splits."
    )
    return f"No patient, picture or held-out hospital is in two splits. {alike}"
