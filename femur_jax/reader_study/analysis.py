"""What the readers of a study answered, as a flat list of findings."""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from femur_jax.data.radiograph import LABELS
from femur_jax.errors import UserError
from femur_jax.evaluation.statistics import Interval
from femur_jax.reader_study import obuchowski_rockette
from femur_jax.reader_study.answers import AnswerStore
from femur_jax.reader_study.design import REAL, Case
from femur_jax.reader_study.questions import CONFIDENCE, QUESTIONS
from femur_jax.reader_study.statistics import (
    equivalence_p,
    holm,
    kappa,
    paired_difference,
    proportion,
    roc_area,
    weighted_kappa,
)
from femur_jax.reader_study.study import Study

SYNTHETIC = "synthetic"
ALL = "all readers"
_ARTEFACTS = next(q.options for q in QUESTIONS["single"] if q.name == "artefacts")


@dataclass(frozen=True)
class Finding:
    """One number.

    Attributes:
        topic: 'detection', 'diagnosis', 'realism', 'agreement', 'time' or 'artefacts'.
        measure: What was measured.
        reader: Whose, or ALL.
        source: Of which radiographs: 'real', SYNTHETIC or the name of one source.
        n: Readings, pairs of readings, or readers that it rests on.
        value: The estimate.
        low, high: Ends of its 95% interval; of reading times, the quartiles.
        p: Of the test that the topic names.
        p_holm: The same, adjusted for all tests of the topic.
    """

    topic: str
    measure: str
    reader: str
    source: str
    n: int
    value: float
    low: float | None = None
    high: float | None = None
    p: float | None = None
    p_holm: float | None = None


@dataclass(frozen=True)
class Reading:
    """What one reader answered to one radiograph, and the truth about it.

    Attributes:
        reader: Code of the reader.
        case: The radiograph; of a pair, the one taken for synthetic.
        block: 'single' or 'pair'.
        repeat: Whether the reader had answered to it before.
        answers: By question.
        seconds: Looked at, without pauses.
    """

    reader: str
    case: Case
    block: str
    repeat: bool
    answers: dict[str, Any]
    seconds: float

    @property
    def right(self) -> bool:
        """Whether real and synthetic were told apart."""
        called_synthetic = self.block == "pair" or self.answers["source"] > CONFIDENCE / 2
        return called_synthetic == (self.case.source != REAL)


@dataclass(frozen=True)
class Results:
    """What a study found.

    Attributes:
        readings: All scored ones, in the order of the sessions.
        progress: By reader, items answered and items in all.
        findings: The numbers.
    """

    readings: list[Reading]
    progress: dict[str, tuple[int, int]]
    findings: list[Finding]


def analyse(study: Study, store: AnswerStore, readers: Sequence[str] = ()) -> Results:
    """Scores a study, finished or not.

    Args:
        study: The study.
        store: Its answers.
        readers: Whom to score; everybody by default.

    Raises:
        UserError: A reader is unknown, or none has answered anything that is scored.
    """
    known = store.readers()
    for reader in readers:
        if reader not in known:
            raise UserError(
                f"No reader {reader!r} was invited to {study.folder}; "
                f"there are: {', '.join(known) or 'none'}."
            )
    chosen = list(dict.fromkeys(readers or known))
    readings = [reading for reader in chosen for reading in _readings(study, store, reader)]
    if not any(reading.block == "single" for reading in readings):
        raise UserError(f"No radiograph of {study.folder} was read yet; let readers finish first.")
    progress = {r: (store.next_number(r), len(store.items(r))) for r in chosen}
    first = [reading for reading in readings if not reading.repeat]
    single = {r: [x for x in first if x.reader == r and x.block == "single"] for r in chosen}
    single = {r: own for r, own in single.items() if own}
    margin = study.design.margin
    findings: list[Finding] = []
    for reader, own in single.items():
        pairs = [x for x in first if x.reader == reader and x.block == "pair"]
        findings += _detection(reader, own, pairs, margin)
    if len(single) > 1:
        findings += _mean_detection(single)
    for reader, own in single.items():
        findings += _diagnosis(reader, own)
    if len(single) > 1:
        findings += _mean_diagnosis(single)
    findings += _realism(single)
    findings += _agreement(single, [x for x in readings if x.block == "single"])
    for reader, own in single.items():
        findings += _times(reader, own)
    for reader, own in single.items():
        findings += _artefacts(reader, own)
    return Results(readings, progress, findings)


def _readings(study: Study, store: AnswerStore, reader: str) -> list[Reading]:
    cases = {case.image: case for case in study.cases}
    seen: set[str] = set()
    result = []
    for answered in store.answered(reader):
        item = answered.item
        if not answered.final or item.block not in ("single", "pair"):
            continue
        place = answered.answers["synthetic"] - 1 if item.block == "pair" else 0
        image = item.images[place]
        result.append(
            Reading(
                reader=reader,
                case=cases[image],
                block=item.block,
                repeat=image in seen,
                answers=answered.answers,
                seconds=answered.milliseconds / 1000,
            )
        )
        seen.add(image)
    return result


def _of(readings: Iterable[Reading], source: str) -> list[Reading]:
    """The readings of a source; SYNTHETIC stands for all that are not real."""
    return [
        x
        for x in readings
        if x.case.source == source or (source == SYNTHETIC and x.case.source != REAL)
    ]


def _sources(readings: Iterable[Reading]) -> list[str]:
    """Real, synthetic, and each source of synthetic ones if there are several."""
    names = sorted({x.case.source for x in readings} - {REAL})
    return [REAL, SYNTHETIC, *(names if len(names) > 1 else ())]


def _ratings(
    readings: Sequence[Reading], question: str
) -> tuple[Float[np.ndarray, " reading"], Bool[np.ndarray, " reading"]]:
    """Answers on a confidence scale, and where the second class is true."""
    positive = [
        x.case.source != REAL if question == "source" else x.case.label == LABELS[1]
        for x in readings
    ]
    return np.array([x.answers[question] for x in readings], float), np.array(positive, bool)


def _found(
    topic: str, measure: str, reader: str, source: str, n: int, interval: Interval, **more: Any
) -> Finding:
    return Finding(
        topic, measure, reader, source, n, interval.value, interval.low, interval.high, **more
    )


def _detection(
    reader: str, own: Sequence[Reading], pairs: Sequence[Reading], margin: float
) -> list[Finding]:
    """Real or synthetic? p is that of equivalence to guessing within the margin."""
    result = []
    for measure, readings in (("accuracy", own), ("accuracy, pairs", pairs)):
        if readings:
            right, n = sum(x.right for x in readings), len(readings)
            p = equivalence_p(right, n, margin)
            interval = proportion(right, n)
            result.append(_found("detection", measure, reader, SYNTHETIC, n, interval, p=p))
    ratings, positive = _ratings(own, "source")
    if _two_each(positive):
        area = roc_area(ratings, positive)
        result.append(_found("detection", "ROC AUC", reader, SYNTHETIC, len(own), area))
    return result


def _two_each(positive: Bool[np.ndarray, " case"]) -> bool:
    return bool(min(positive.sum(), (~positive).sum()) >= 2)


def _common(single: dict[str, list[Reading]], source: str | None = None) -> list[list[Reading]]:
    """Each reader's readings of the radiographs that all have read, in one order."""
    groups = [own if source is None else _of(own, source) for own in single.values()]
    shared = set.intersection(*({x.case.image for x in own} for own in groups))
    return [
        sorted((x for x in own if x.case.image in shared), key=lambda x: x.case.image)
        for own in groups
    ]


def _delong(groups: list[list[Reading]], question: str) -> tuple[np.ndarray, np.ndarray] | None:
    if not groups[0]:
        return None
    positive = _ratings(groups[0], question)[1]
    if not _two_each(positive):
        return None
    ratings = np.stack([_ratings(own, question)[0] for own in groups])
    return obuchowski_rockette.delong(ratings, positive)


def _mean_detection(single: dict[str, list[Reading]]) -> list[Finding]:
    found = _delong(_common(single), "source")
    if found is None:
        return []
    area = obuchowski_rockette.mean_area(*found)
    return [_found("detection", "mean ROC AUC", ALL, SYNTHETIC, len(single), area)]


def _diagnosis(reader: str, own: Sequence[Reading]) -> list[Finding]:
    """AFF or NFF?"""
    result = []
    for source in _sources(own):
        ratings, positive = _ratings(_of(own, source), "label")
        called = ratings > CONFIDENCE / 2
        for measure, right in (
            ("sensitivity", called[positive]),
            ("specificity", ~called[~positive]),
        ):
            if right.size:
                interval = proportion(int(right.sum()), right.size)
                result.append(_found("diagnosis", measure, reader, source, right.size, interval))
        if _two_each(positive):
            area = roc_area(ratings, positive)
            result.append(_found("diagnosis", "ROC AUC", reader, source, len(ratings), area))
    return result


def _mean_diagnosis(single: dict[str, list[Reading]]) -> list[Finding]:
    """Mean areas on real and on synthetic radiographs, and Obuchowski-Rockette's p between them.

    The two are tests with cases of their own, so covariances between them are zero.
    """
    found = {source: _delong(_common(single, source), "label") for source in (REAL, SYNTHETIC)}
    known = {source: values for source, values in found.items() if values is not None}
    n = len(single)
    result = [
        _found("diagnosis", "mean ROC AUC", ALL, source, n, obuchowski_rockette.mean_area(*values))
        for source, values in known.items()
    ]
    if len(known) == 2:
        covariances = np.zeros((2, n, 2, n))
        for test, (_, own) in enumerate(known.values()):
            covariances[test, :, test] = own
        areas = np.stack([areas for areas, _ in known.values()])
        test = obuchowski_rockette.compare(areas, covariances)
        measure = "difference of mean ROC AUC"
        source = f"{REAL} - {SYNTHETIC}"
        result.append(_found("diagnosis", measure, ALL, source, n, test.difference, p=test.p))
    return result


def _realism(single: dict[str, list[Reading]]) -> list[Finding]:
    """Mean realism, and how much more of it the real one of a matched pair has."""
    means, tests = [], []
    for reader, own in single.items():
        for source in _sources(own):
            ratings = [x.answers["realism"] for x in _of(own, source)]
            if ratings:
                mean = float(np.mean(ratings))
                means.append(Finding("realism", "mean", reader, source, len(ratings), mean))
        real = {x.case.pair: x.answers["realism"] for x in _of(own, REAL)}
        for source in sorted({x.case.source for x in own} - {REAL}):
            pairs = [
                (real[x.case.pair], x.answers["realism"])
                for x in _of(own, source)
                if x.case.pair in real
            ]
            if pairs:
                difference, p = paired_difference(*np.array(pairs).T)
                name, what = f"{REAL} - {source}", "difference within pairs"
                tests.append(Finding("realism", what, reader, name, len(pairs), difference, p=p))
    adjusted = holm([test.p for test in tests if test.p is not None])
    return means + [replace(t, p_holm=p) for t, p in zip(tests, adjusted, strict=True)]


def _agreement(single: dict[str, list[Reading]], readings: Sequence[Reading]) -> list[Finding]:
    """Cohen's kappa of calls, and linearly weighted of steps, within and between readers."""
    result = []

    def compare(name: str, first: Sequence[Reading], second: Sequence[Reading]) -> None:
        for question, measure in (("source", "real or synthetic"), ("label", "AFF or NFF")):
            a, b = (
                np.array([x.answers[question] for x in group], int) for group in (first, second)
            )
            half, n = CONFIDENCE / 2, len(a)
            for kind, value in (
                ("kappa", kappa((a > half).astype(int), (b > half).astype(int))),
                ("weighted kappa", weighted_kappa(a, b, CONFIDENCE)),
            ):
                result.append(Finding("agreement", f"{kind}, {measure}", name, "all", n, value))

    for reader, own in single.items():
        again = {x.case.image: x for x in readings if x.reader == reader and x.repeat}
        first = [x for x in own if x.case.image in again]
        if first:
            compare(f"{reader}, repeats", first, [again[x.case.image] for x in first])
    for one, two in itertools.combinations(single, 2):
        common = _common({one: single[one], two: single[two]})
        if common[0]:
            compare(f"{one}, {two}", *common)
    return result


def _times(reader: str, own: Sequence[Reading]) -> list[Finding]:
    result = []
    for source in _sources(own):
        seconds = [x.seconds for x in _of(own, source)]
        if seconds:
            low, median, high = (float(q) for q in np.quantile(seconds, (0.25, 0.5, 0.75)))
            interval = Interval(median, low, high)
            result.append(_found("time", "median seconds", reader, source, len(seconds), interval))
    return result


def _artefacts(reader: str, own: Sequence[Reading]) -> list[Finding]:
    result = []
    for name, source in itertools.product(_ARTEFACTS, _sources(own)):
        readings = _of(own, source)
        if readings:
            n = len(readings)
            ticked = sum(name in x.answers.get("artefacts", ()) for x in readings)
            result.append(_found("artefacts", name, reader, source, n, proportion(ticked, n)))
    return result
