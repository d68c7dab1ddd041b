"""Numbers about a radiograph dataset, by hospital and by class.

They answer four questions that come before training: is every line of the label table accounted
for, do the splits leak, which hospitals differ from the others, and does anything other than the
fracture reveal the class?
"""

import hashlib
import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from femur_jax.data.cohort import SPLITS
from femur_jax.data.radiograph import LABELS
from femur_jax.data.records import RadiographEntry
from femur_jax.data.shards import RadiographDataset
from femur_jax.errors import UserError
from femur_jax.files import CHECKSUMS
from femur_jax.ingest.pipeline import DUPLICATES, POLARITY, QUARANTINE, SIMILAR, SUMMARY
from femur_jax.ingest.polarity import NEGATIVE
from femur_jax.inspection.chance import LEVEL, differences
from femur_jax.inspection.leaks import (
    Leak,
    SimilarPair,
    find_leaks,
    read_similar_pairs,
    summarise_leaks,
)
from femur_jax.inspection.separation import TELLING_AUC, Separation, flag, separation
from femur_jax.progress import Progress

_BINS = 24

_NUMBERS: dict[str, Callable[[RadiographEntry], float]] = {
    "megapixels": lambda e: e.height * e.width / 1e6,
    "aspect": lambda e: e.width / e.height,
    "spacing_mm": lambda e: e.spacing_mm or math.nan,
    "age": lambda e: e.source.age or math.nan,
    "share_cut": lambda e: 1 - e.height * e.width / math.prod(e.recorded),
}
_CATEGORIES: dict[str, Callable[[RadiographEntry], str]] = {
    "hospital": lambda e: e.hospital,
    "vendor": lambda e: e.source.vendor,
    "syntax": lambda e: e.source.syntax,
    "bits": lambda e: str(e.source.bits),
    "photometric": lambda e: e.source.photometric,
    "voi": lambda e: e.source.voi,
    "intent": lambda e: e.source.intent,
    "spacing_source": lambda e: e.spacing_source,
    "view": lambda e: e.view,
    "laterality": lambda e: e.laterality,
    "sex": lambda e: e.source.sex,
    "age_known": lambda e: "yes" if e.source.age else "no",
}
_BRIGHTNESS = (0.1, 0.9)
"""Mean grey values between which radiographs lie; those of 868 films were 0.19 to 0.75."""
_COMPARED = ("megapixels", "aspect", "spacing_mm", "mean_grey", "contrast")


@dataclass(frozen=True)
class DatasetFacts:
    """Facts about each radiograph, in the order of the dataset's entries.

    Attributes:
        numbers: Values by fact, NaN where unknown. For the crop: megapixels; aspect, width /
            height; spacing_mm; mean_grey and contrast, mean and standard deviation of the grey
            values at the coarsest level, as shares of the full range (0 black, 1 white). Further:
            age in years; share_cut, the share of the recorded area outside the crop.
        categories: Words by fact, such as vendor and view.
    """

    numbers: dict[str, Float[np.ndarray, " radiograph"]]
    categories: dict[str, list[str]]


@dataclass(frozen=True)
class Count:
    """Size of one class in one split."""

    split: str
    label: str
    radiographs: int
    patients: int
    hospitals: int


@dataclass(frozen=True)
class Span:
    """Summary of a number's known values."""

    known: int
    minimum: float
    median: float
    mean: float
    maximum: float


@dataclass(frozen=True)
class Hospital:
    """Numbers about one hospital.

    Attributes:
        name: Pseudonym of the hospital.
        radiographs, patients: Numbers by label.
        crops: Number of radiographs whose crop is smaller than the recorded image.
        numbers: Summaries of `DatasetFacts.numbers`, None where all values are unknown.
        categories: Number of occurrences of each word by fact, most frequent first.
        duplicates: Number of files left out because they repeat others.
        quarantined: Numbers of unusable files by code.
        marks: Differences from the other hospitals by fact, one sentence each.
    """

    name: str
    radiographs: dict[str, int]
    patients: dict[str, int]
    crops: int
    numbers: dict[str, Span | None]
    categories: dict[str, dict[str, int]]
    duplicates: int
    quarantined: dict[str, int]
    marks: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Histogram:
    """A number's distribution: for each label, the share of its radiographs in each bin."""

    fact: str
    edges: list[float]
    shares: dict[str, list[float]]
    known: dict[str, int]


@dataclass(frozen=True)
class Check:
    """A question with its result: 'pass', 'look' (a person must judge) or 'fail'."""

    question: str
    status: str
    finding: str


@dataclass(frozen=True)
class Fingerprint:
    """All numbers about a dataset.

    Attributes:
        dataset: SHA-256 of the dataset's SHA256SUMS, which identifies the dataset.
        provenance: The writer's account of the dataset's origin.
        radiographs, patients: Total numbers of radiographs and patients.
        hospitals: Hospitals that sent at least one file, largest first.
        lines: Summary of the label table's lines, None for a dataset that was not ingested.
        quarantined: Pseudonyms of unusable files by code, most frequent code first.
        by_patient, by_hospital: Sizes of the splits by patient and by hospital.
        histograms: Distributions of `DatasetFacts.numbers`.
        separations: Separation of the classes by each fact, greatest first.
        leaks: Leaks by kind of item, also where nothing leaks; see `find_leaks`.
        similar: Pairs that look alike, those across splits first.
        unclear: Answers of `ingest.polarity` by name of the radiograph, negatives first.
        verdict: One or two sentences on leaks.
        checks: Questions with their results.
    """

    dataset: str
    provenance: dict[str, Any]
    radiographs: int
    patients: int
    hospitals: list[Hospital]
    lines: dict[str, int] | None
    quarantined: dict[str, list[str]]
    by_patient: list[Count]
    by_hospital: list[Count]
    histograms: list[Histogram]
    separations: list[Separation]
    leaks: list[Leak]
    similar: list[SimilarPair]
    unclear: dict[str, str]
    verdict: str
    checks: list[Check]

    @property
    def failed(self) -> bool:
        """Whether a check failed."""
        return any(check.status == "fail" for check in self.checks)


def fingerprint(dataset: RadiographDataset) -> Fingerprint:
    """Computes a dataset's fingerprint; it reads the coarsest level of each radiograph.

    Raises:
        UserError: The dataset is damaged, or was ingested by an older version.
    """
    entries = dataset.entries
    facts = _facts(dataset)
    quarantined, duplicates = (_lines(dataset, name) for name in (QUARANTINE, DUPLICATES))
    lines = next(iter(_lines(dataset, SUMMARY)), None)
    hospitals = _hospitals(entries, facts, quarantined, duplicates)
    separations = _separations(entries, facts)
    leaks = find_leaks(entries)
    similar = read_similar_pairs(entries, _lines(dataset, SIMILAR))
    rows = sorted(_lines(dataset, POLARITY), key=lambda row: row["polarity"] != NEGATIVE)
    unclear = {row["file"]: row["polarity"] for row in rows}
    return Fingerprint(
        dataset=hashlib.sha256((dataset.folder / CHECKSUMS).read_bytes()).hexdigest(),
        provenance=dataset.provenance,
        radiographs=len(entries),
        patients=len({e.patient for e in entries}),
        hospitals=hospitals,
        lines=lines,
        quarantined={
            code: [row["file"] for row in quarantined if row["code"] == code]
            for code in _counts(row["code"] for row in quarantined)
        },
        by_patient=_sizes(entries, lambda e: e.split),
        by_hospital=_sizes(entries, lambda e: e.hospital_split),
        histograms=_histograms(entries, facts),
        separations=separations,
        leaks=leaks,
        similar=similar,
        unclear=unclear,
        verdict=summarise_leaks(leaks, similar),
        checks=[
            *_line_checks(entries, lines, len(quarantined), len(duplicates)),
            *_class_checks(entries),
            *_leak_checks(leaks, similar),
            *_grey_checks(unclear, facts),
            *_look_checks(hospitals, separations, facts),
        ],
    )


def _lines(dataset: RadiographDataset, name: str) -> list[dict[str, Any]]:
    """The rows of a table that ingestion wrote, none where there is no such table."""
    path = dataset.folder / name
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
    if name in (QUARANTINE, DUPLICATES) and not all("hospital" in row for row in rows):
        raise UserError(f"{path} names no hospitals; create the dataset again with this version.")
    return rows


def _facts(dataset: RadiographDataset) -> DatasetFacts:
    entries = dataset.entries
    numbers = {name: np.array([of(e) for e in entries], float) for name, of in _NUMBERS.items()}
    grey = np.empty((2, len(entries)))
    for n in Progress(range(len(entries)), "grey values"):
        pixels = dataset.read(n, 0) / 65535
        grey[:, n] = pixels.mean(), pixels.std()
    numbers |= {"mean_grey": grey[0], "contrast": grey[1]}
    return DatasetFacts(
        numbers, {name: [of(e) for e in entries] for name, of in _CATEGORIES.items()}
    )


def _counts(words: Iterable[str]) -> dict[str, int]:
    """Number of occurrences of each word, most frequent first, then in alphabetical order."""
    return dict(sorted(Counter(words).items(), key=lambda item: (-item[1], item[0])))


def _sizes(
    entries: Sequence[RadiographEntry], split_of: Callable[[RadiographEntry], str]
) -> list[Count]:
    """Sizes of all splits and classes; empty where there are no such splits."""
    counts = []
    for split in SPLITS:
        for label in LABELS:
            members = [e for e in entries if split_of(e) == split and e.label == label]
            patients, hospitals = {e.patient for e in members}, {e.hospital for e in members}
            counts.append(Count(split, label, len(members), len(patients), len(hospitals)))
    return counts if any(count.radiographs for count in counts) else []


# Hospitals


def _hospitals(
    entries: Sequence[RadiographEntry],
    facts: DatasetFacts,
    quarantined: Sequence[dict[str, Any]],
    duplicates: Sequence[dict[str, Any]],
) -> list[Hospital]:
    """Hospitals that sent at least one file, largest first."""
    positions: dict[str, list[int]] = {row["hospital"]: [] for row in (*quarantined, *duplicates)}
    for n, entry in enumerate(entries):
        positions.setdefault(entry.hospital, []).append(n)
    hospitals = []
    for name, members in positions.items():
        cut = facts.numbers["share_cut"][members]
        hospitals.append(
            Hospital(
                name=name,
                radiographs={k: sum(entries[n].label == k for n in members) for k in LABELS},
                patients={
                    k: len({entries[n].patient for n in members if entries[n].label == k})
                    for k in LABELS
                },
                crops=int(np.count_nonzero(cut)),
                numbers={fact: _span(values[members]) for fact, values in facts.numbers.items()},
                categories={
                    fact: _counts(words[n] for n in members)
                    for fact, words in facts.categories.items()
                },
                duplicates=sum(row["hospital"] == name for row in duplicates),
                quarantined=_counts(row["code"] for row in quarantined if row["hospital"] == name),
            )
        )
    _mark(hospitals, entries, facts)
    return sorted(hospitals, key=lambda h: (-sum(h.radiographs.values()), h.name))


def _span(values: Float[np.ndarray, " radiograph"]) -> Span | None:
    known = values[~np.isnan(values)]
    if not len(known):
        return None
    low, median, mean, high = known.min(), np.median(known), known.mean(), known.max()
    return Span(len(known), float(low), float(median), float(mean), float(high))


def _mark(
    hospitals: Sequence[Hospital], entries: Sequence[RadiographEntry], facts: DatasetFacts
) -> None:
    """Marks each hospital's differences from the others that chance does not explain.

    A number is compared as the mean over a patient's radiographs, and marked only where the
    hospital's median lies also far from those of the others: with different devices nearly all
    hospitals differ by a little.
    """
    units: dict[tuple[str, str], list[int]] = {}
    for n, entry in enumerate(entries):
        units.setdefault((entry.hospital, entry.patient), []).append(n)
    members = list(units.values())
    usual = next(iter(_counts(facts.categories["photometric"])))
    unusual = np.array([word != usual for word in facts.categories["photometric"]], float)
    raw = np.array([word == "processing" for word in facts.categories["intent"]], float)
    atypical = np.array([entry.label == "AFF" for entry in entries], float)
    values = {fact: facts.numbers[fact] for fact in _COMPARED}
    values |= {"patients": atypical, "photometric": unusual, "intent": raw}
    p = differences(
        [hospital for hospital, _ in units],
        {
            fact: np.array([_known_mean(v[group]) for group in members])
            for fact, v in values.items()
        },
    )
    with_aff = sum(h.patients["AFF"] for h in hospitals)
    patients = sum(sum(h.patients.values()) for h in hospitals)
    counted = (
        ("photometric", unusual, f"radiographs other than {usual}"),
        ("intent", raw, "radiographs for processing"),
    )
    for hospital in hospitals:
        is_here = np.array([entry.hospital == hospital.name for entry in entries])
        if not is_here.any():
            hospital.marks["radiographs"] = "none of its files could be used"
            continue
        if (chance := p.get(("patients", hospital.name), 1.0)) < LEVEL:
            k, n = hospital.patients["AFF"], sum(hospital.patients.values())
            hospital.marks["patients"] = _shares(
                k, n, with_aff - k, patients - n, "patients with AFF", chance
            )
        for fact, is_such, what in counted:
            k, n, others = (
                int(is_such[is_here].sum()),
                int(is_here.sum()),
                int(is_such[~is_here].sum()),
            )
            chance = p.get((fact, hospital.name), 1.0)
            if chance < LEVEL and k / n > others / (len(is_here) - n):
                hospital.marks[fact] = _shares(k, n, others, len(is_here) - n, what, chance)
    for fact in _COMPARED:
        known = [(h, span.median) for h in hospitals if (span := h.numbers[fact])]
        medians = np.array([median for _, median in known])
        for (hospital, median), off in zip(known, far_off(medians), strict=True):
            chance = p.get((fact, hospital.name), 1.0)
            if off and chance < LEVEL:
                others = float(np.median(medians[[h is not hospital for h, _ in known]]))
                hospital.marks[fact] = (
                    f"median {median:.3g}, median of the others' medians {others:.3g} "
                    f"(p {_p(chance)})"
                )


def _known_mean(values: Float[np.ndarray, " radiograph"]) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else math.nan


def _shares(k: int, n: int, others: int, size: int, what: str, chance: float) -> str:
    return f"{k} of {n} {what}, elsewhere {others} of {size} (p {_p(chance)})"


def _p(chance: float) -> str:
    return "below 0.001" if chance < 0.001 else f"{chance:.3f}"


def far_off(values: Float[np.ndarray, " hospital"]) -> Bool[np.ndarray, " hospital"]:
    """Mask of values that lie far from the others.

    Such a value is farther from the median than 3.5 robust standard deviations, by the median
    absolute deviation (Iglewicz and Hoaglin, How to Detect and Handle Outliers, 1993), and farther
    than a tenth of the median, since hospitals with equal devices may hardly differ.
    """
    if not len(values):
        return np.zeros(0, bool)
    median = np.median(values)
    distance = np.abs(values - median)
    deviation = np.median(distance) / 0.6745  # ratio for a normal distribution
    return (distance > 3.5 * deviation) & (distance > 0.1 * np.abs(median))


# Classes


def _histograms(entries: Sequence[RadiographEntry], facts: DatasetFacts) -> list[Histogram]:
    labels = np.array([e.label for e in entries])
    histograms = []
    for fact, values in facts.numbers.items():
        known = values[~np.isnan(values)]
        if not len(known):
            continue
        edges = np.histogram_bin_edges(known, _BINS)
        by_label = {k: values[(labels == k) & ~np.isnan(values)] for k in LABELS}
        shares = {k: np.histogram(v, edges)[0] / max(1, len(v)) for k, v in by_label.items()}
        histograms.append(
            Histogram(
                fact,
                edges.tolist(),
                {label: share.tolist() for label, share in shares.items()},
                {label: len(v) for label, v in by_label.items()},
            )
        )
    return histograms


def _separations(entries: Sequence[RadiographEntry], facts: DatasetFacts) -> list[Separation]:
    """Separation of the classes by each fact, greatest first."""
    patients: dict[str, list[int]] = {}
    for n, entry in enumerate(entries):
        patients.setdefault(entry.patient, []).append(n)
    groups = list(patients.values())
    atypical = np.array([entries[group[0]].label == "AFF" for group in groups])
    separations = []
    for fact, values in facts.numbers.items():
        by_patient = [values[group] for group in groups]
        known = np.array([not np.isnan(v).all() for v in by_patient])
        means = np.array([np.nanmean(v) for v, k in zip(by_patient, known, strict=True) if k])
        separations.append(separation(fact, atypical[known], means))
    for fact, words in facts.categories.items():
        joined = [" + ".join(sorted({words[n] for n in group})) for group in groups]
        separations.append(separation(fact, atypical, joined))
    return sorted(flag(separations), key=lambda s: -(s.auc or 0))


# Checks


def _line_checks(
    entries: Sequence[RadiographEntry],
    lines: dict[str, int] | None,
    quarantined: int,
    duplicates: int,
) -> list[Check]:
    if lines is None:
        return []
    stated = lines["accepted"], lines["quarantined"], lines["duplicates"]
    complete = sum(stated) == lines["inputs"] and stated == (len(entries), quarantined, duplicates)
    finding = (
        f"{lines['inputs']} lines = {stated[0]} accepted + {stated[1]} quarantined + "
        f"{stated[2]} duplicates; the dataset lists {len(entries)}, {quarantined} and {duplicates}"
    )
    return [Check("Is each line of the label table accounted for?", _pass(complete), finding)]


def _class_checks(entries: Sequence[RadiographEntry]) -> list[Check]:
    labels: dict[str, set[str]] = {}
    for entry in entries:
        labels.setdefault(entry.patient, set()).add(entry.label)
    both = sum(len(found) > 1 for found in labels.values())
    splits = {split: {e.label for e in entries if e.split == split} for split in SPLITS}
    lacking = [split for split, found in splits.items() if 0 < len(found) < len(LABELS)]
    empty = [split for split, found in splits.items() if not found]
    return [
        Check("Does each patient have one label?", _pass(not both), f"with both: {both}"),
        Check(
            "Are both classes in each split?",
            _look(len(lacking)),
            f"one class only: {', '.join(lacking) or 'none'}; empty: {', '.join(empty) or 'none'}",
        ),
    ]


def _leak_checks(leaks: Sequence[Leak], similar: Sequence[SimilarPair]) -> list[Check]:
    checks = [
        Check(
            f"Are {leak.kind} in one split each, by {leak.by}?",
            _pass(not leak.names),
            f"in several: {len(leak.names)}",
        )
        for leak in leaks
    ]
    across = sum(pair.across for pair in similar)
    finding = f"pairs across splits: {across}; within one: {len(similar) - across}"
    return [*checks, Check("Do radiographs look alike across splits?", _look(across), finding)]


def _grey_checks(unclear: Mapping[str, str], facts: DatasetFacts) -> list[Check]:
    negatives = sum(answer == NEGATIVE for answer in unclear.values())
    mean, (dark, bright) = facts.numbers["mean_grey"], _BRIGHTNESS
    black, white = int((mean < dark).sum()), int((mean > bright).sum())
    return [
        Check(
            "Is bone bright in each radiograph?",
            _look(len(unclear)),
            f"negatives, as it seems: {negatives}; doubtful: {len(unclear) - negatives}",
        ),
        Check(
            "Are all radiographs neither nearly black nor nearly white?",
            _look(black + white),
            f"nearly black: {black}; nearly white: {white}; of {len(mean)}",
        ),
    ]


def _look_checks(
    hospitals: Sequence[Hospital], separations: Sequence[Separation], facts: DatasetFacts
) -> list[Check]:
    marked = sum(bool(h.marks) for h in hospitals)
    telling = [s.fact for s in separations if s.telling]
    raw = facts.categories["intent"].count("processing")
    return [
        Check(
            f"Does a single fact reveal the class (AUC above {TELLING_AUC})?",
            _look(len(telling)),
            ", ".join(telling).replace("_", " ") or "none does",
        ),
        Check(
            "Does a hospital differ from the others?",
            _look(marked),
            f"marked: {marked} of {len(hospitals)}",
        ),
        Check(
            "Are there radiographs for processing?",
            _look(raw),
            f"{raw} of {len(facts.categories['intent'])}",
        ),
    ]


def _pass(good: bool) -> str:
    return "pass" if good else "fail"


def _look(count: int) -> str:
    return "look" if count else "pass"
