"""Scores the answers of a study's readers as a flat list of findings."""

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from femur_jax.data.radiograph import LABELS
from femur_jax.errors import UserError
from femur_jax.evaluation.statistics import Interval, holm
from femur_jax.reader_study import obuchowski_rockette
from femur_jax.reader_study.answers import AnswerStore
from femur_jax.reader_study.design import REAL_SOURCE, Case
from femur_jax.reader_study.questions import CONFIDENCE, QUESTIONS
from femur_jax.reader_study.statistics import (
    Guessing,
    area_against_guessing,
    kappa,
    paired_difference,
    proportion,
    roc_area,
    share_against_guessing,
    weighted_kappa,
)
from femur_jax.reader_study.study import Study

ANY_SYNTHETIC = "synthetic"
"""The source that stands for all synthetic sources together."""

ALL_READERS = "all readers"
_ARTEFACTS = next(q.options for q in QUESTIONS["single"] if q.name == "artefacts")


@dataclass(frozen=True)
class Finding:
    """One estimated number.

    Attributes:
        topic: Topic: 'detection', 'diagnosis', 'realism', 'agreement', 'time' or 'artefacts'.
        measure: Name of the measure.
        reader: Code of the reader, codes of two compared readers, or ALL_READERS.
        source: Source of the radiographs: REAL_SOURCE, ANY_SYNTHETIC or a generator's name.
        n: Number of readings, pairs of readings, or readers behind the estimate.
        value: Estimate of the measure.
        low, high: Limits of the 95% interval; for reading times, the quartiles.
        p: P value of the topic's test, if it has one; for detection, of guessing.
        p_holm: P value adjusted by Holm's method for all tests of the topic.
        p_equivalence: P value of an area or a share that is off 0.5 by the margin or more, adjusted
            by Holm's method for all such tests of readers.
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
    p_equivalence: float | None = None


@dataclass(frozen=True)
class Reading:
    """One reader's answers to one radiograph, and the truth about it.

    Attributes:
        reader: Code of the reader.
        case: The radiograph; for a pair, the one that the reader called synthetic.
        block: Block of the session, 'single' or 'pair'.
        repeat: Whether the reader had answered to this radiograph before.
        answers: Answers by question.
        seconds: Reading time without pauses.
    """

    reader: str
    case: Case
    block: str
    repeat: bool
    answers: dict[str, Any]
    seconds: float

    @property
    def is_correct(self) -> bool:
        """Whether the reader recognised the source as real or synthetic."""
        called_synthetic = self.block == "pair" or self.answers["source"] > CONFIDENCE / 2
        return called_synthetic == (self.case.source != REAL_SOURCE)


@dataclass(frozen=True)
class Results:
    """Results of a study.

    Attributes:
        readings: All scored readings, in the order of the sessions.
        progress: Number of answered items and of all items, by reader.
        findings: All findings, in the order of the page.
    """

    readings: list[Reading]
    progress: dict[str, tuple[int, int]]
    findings: list[Finding]


def analyse(study: Study, store: AnswerStore, readers: Sequence[str] = ()) -> Results:
    """Scores a study, whether or not its readers have finished.

    Args:
        study: The study to score.
        store: Answers of the study.
        readers: Codes of the readers to score; all readers by default.

    Raises:
        UserError: A reader is unknown, or no reader has answered a scored item.
    """
    known = store.readers()
    for reader in readers:
        if reader not in known:
            raise UserError(
                f"No reader {reader!r} was invited to {study.folder}; its readers are: "
                f"{', '.join(known) or 'none'}."
            )
    chosen = list(dict.fromkeys(readers or known))
    readings = [reading for reader in chosen for reading in _readings(study, store, reader)]
    if not any(reading.block == "single" for reading in readings):
        raise UserError(f"No scored radiograph of {study.folder} has been read yet.")
    progress = {r: (store.next_number(r), len(store.items(r))) for r in chosen}
    first = [reading for reading in readings if not reading.repeat]
    single = {r: [x for x in first if x.reader == r and x.block == "single"] for r in chosen}
    single = {r: group for r, group in single.items() if group}
    detection: list[Finding] = []
    for reader, group in single.items():
        pairs = [x for x in first if x.reader == reader and x.block == "pair"]
        detection += _detection(reader, group, pairs, study.design.margin)
    if len(single) > 1:
        detection += _mean_detection(single, study.design.margin)
    findings = _corrected(detection)
    for reader, group in single.items():
        findings += _diagnosis(reader, group)
    if len(single) > 1:
        findings += _mean_diagnosis(single)
    findings += _realism(single)
    findings += _agreement(single, [x for x in readings if x.block == "single"])
    for reader, group in single.items():
        findings += _times(reader, group)
    for reader, group in single.items():
        findings += _artefacts(reader, group)
    return Results(readings, progress, findings)


def _readings(study: Study, store: AnswerStore, reader: str) -> list[Reading]:
    cases = {case.image: case for case in study.cases}
    seen: set[str] = set()
    result = []
    for answered in store.answered(reader):
        item = answered.item
        if not answered.final or item.block not in ("single", "pair"):
            continue
        side = answered.answers["synthetic"] - 1 if item.block == "pair" else 0
        image = item.images[side]
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
    """Readings of radiographs from one source, or from any synthetic one for ANY_SYNTHETIC."""
    return [
        x
        for x in readings
        if x.case.source == source or (source == ANY_SYNTHETIC and x.case.source != REAL_SOURCE)
    ]


def _sources(readings: Iterable[Reading]) -> list[str]:
    """REAL_SOURCE, ANY_SYNTHETIC, and each synthetic source if there are several."""
    names = sorted({x.case.source for x in readings} - {REAL_SOURCE})
    return [REAL_SOURCE, ANY_SYNTHETIC, *(names if len(names) > 1 else ())]


def _ratings(
    readings: Sequence[Reading], question: str
) -> tuple[Float[np.ndarray, " reading"], Bool[np.ndarray, " reading"]]:
    """Answers on a confidence scale, and whether the second class is the true one."""
    positive = [
        x.case.source != REAL_SOURCE if question == "source" else x.case.label == LABELS[1]
        for x in readings
    ]
    return np.array([x.answers[question] for x in readings], float), np.array(positive, bool)


def _finding(
    topic: str, measure: str, reader: str, source: str, n: int, interval: Interval, **more: Any
) -> Finding:
    return Finding(
        topic, measure, reader, source, n, interval.value, interval.low, interval.high, **more
    )


def _detection(
    reader: str, single: Sequence[Reading], pairs: Sequence[Reading], margin: float
) -> list[Finding]:
    """Real or synthetic? Accuracy on single radiographs has no test: it depends on caution too."""
    findings: list[Finding] = []

    def add(measure: str, n: int, interval: Interval, test: Guessing | None = None) -> None:
        p_values = vars(test) if test else {}
        findings.append(
            _finding("detection", measure, reader, ANY_SYNTHETIC, n, interval, **p_values)
        )

    ratings, positive = _ratings(single, "source")
    if _has_two_each(positive):
        area = roc_area(ratings, positive)
        test = area_against_guessing(area.value, positive, margin)
        add("ROC AUC", len(single), area, test)
    correct = sum(x.is_correct for x in single)
    add("accuracy", len(single), proportion(correct, len(single)))
    if pairs:
        correct, n = sum(x.is_correct for x in pairs), len(pairs)
        test = share_against_guessing(correct, n, margin)
        add("accuracy, pairs", n, proportion(correct, n), test)
    return findings


def _corrected(findings: Sequence[Finding]) -> list[Finding]:
    """The same findings, with Holm's correction for the tests of each kind."""
    tested = [n for n, f in enumerate(findings) if f.p is not None and not math.isnan(f.p)]
    result = list(findings)
    different = holm([_known(findings[n].p) for n in tested])
    equivalent = holm([_known(findings[n].p_equivalence) for n in tested])
    for n, p, q in zip(tested, different, equivalent, strict=True):
        result[n] = replace(findings[n], p_holm=p, p_equivalence=q)
    return result


def _known(p: float | None) -> float:
    assert p is not None, "a tested finding has both p values"
    return p


def _has_two_each(positive: Bool[np.ndarray, " case"]) -> bool:
    return bool(min(positive.sum(), (~positive).sum()) >= 2)


def _common(single: dict[str, list[Reading]], source: str | None = None) -> list[list[Reading]]:
    """Each reader's readings of the radiographs that all of them have read, in the same order."""
    groups = [group if source is None else _of(group, source) for group in single.values()]
    shared = set.intersection(*({x.case.image for x in group} for group in groups))
    return [
        sorted((x for x in group if x.case.image in shared), key=lambda x: x.case.image)
        for group in groups
    ]


def _delong(groups: list[list[Reading]], question: str) -> tuple[np.ndarray, np.ndarray] | None:
    if not groups[0]:
        return None
    positive = _ratings(groups[0], question)[1]
    if not _has_two_each(positive):
        return None
    ratings = np.stack([_ratings(group, question)[0] for group in groups])
    return obuchowski_rockette.reader_areas(ratings, positive)


def _mean_detection(single: dict[str, list[Reading]], margin: float) -> list[Finding]:
    areas = _delong(_common(single), "source")
    if areas is None:
        return []
    mean = obuchowski_rockette.mean_area(*areas)
    above = mean.p_above(0.5)
    test = Guessing(
        p=2 * min(above, 1 - above),
        p_equivalence=max(mean.p_above(0.5 - margin), 1 - mean.p_above(0.5 + margin)),
    )
    found = _finding(
        "detection",
        "mean ROC AUC",
        ALL_READERS,
        ANY_SYNTHETIC,
        len(single),
        mean.interval,
        **vars(test),
    )
    return [found]


def _diagnosis(reader: str, single: Sequence[Reading]) -> list[Finding]:
    """AFF or NFF?"""
    findings = []
    for source in _sources(single):
        ratings, positive = _ratings(_of(single, source), "label")
        called = ratings > CONFIDENCE / 2
        for measure, correct in (
            ("sensitivity", called[positive]),
            ("specificity", ~called[~positive]),
        ):
            if correct.size:
                n = correct.size
                interval = proportion(int(correct.sum()), n)
                findings.append(_finding("diagnosis", measure, reader, source, n, interval))
        if _has_two_each(positive):
            area = roc_area(ratings, positive)
            findings.append(_finding("diagnosis", "ROC AUC", reader, source, len(ratings), area))
    return findings


def _mean_diagnosis(single: dict[str, list[Reading]]) -> list[Finding]:
    """Mean areas on real and on synthetic radiographs, and the p of their difference.

    p is that of Obuchowski and Rockette. The two tests have different cases, so the covariances
    between them are zero.
    """
    areas: list[np.ndarray] = []
    covariances = np.zeros((2, len(single), 2, len(single)))
    findings: list[Finding] = []

    def add(measure: str, source: str, interval: Interval, p: float | None = None) -> None:
        n = len(single)
        findings.append(_finding("diagnosis", measure, ALL_READERS, source, n, interval, p=p))

    for test, source in enumerate((REAL_SOURCE, ANY_SYNTHETIC)):
        estimate = _delong(_common(single, source), "label")
        if estimate is not None:
            areas.append(estimate[0])
            covariances[test, :, test] = estimate[1]
            add("mean ROC AUC", source, obuchowski_rockette.mean_area(*estimate).interval)
    if len(areas) == 2:
        comparison = obuchowski_rockette.compare(np.stack(areas), covariances)
        source = f"{REAL_SOURCE} - {ANY_SYNTHETIC}"
        add("difference of mean ROC AUC", source, comparison.difference, comparison.p)
    return findings


def _realism(single: dict[str, list[Reading]]) -> list[Finding]:
    """Mean realism, and the mean difference between real and synthetic within matched pairs."""
    means, tests = [], []
    for reader, group in single.items():
        for source in _sources(group):
            ratings = [x.answers["realism"] for x in _of(group, source)]
            if ratings:
                mean = float(np.mean(ratings))
                means.append(Finding("realism", "mean", reader, source, len(ratings), mean))
        real = {x.case.pair: x.answers["realism"] for x in _of(group, REAL_SOURCE)}
        for source in sorted({x.case.source for x in group} - {REAL_SOURCE}):
            pairs = [
                (real[x.case.pair], x.answers["realism"])
                for x in _of(group, source)
                if x.case.pair in real
            ]
            if pairs:
                difference, p = paired_difference(*np.array(pairs).T)
                name, measure = f"{REAL_SOURCE} - {source}", "difference within pairs"
                tests.append(Finding("realism", measure, reader, name, len(pairs), difference, p=p))
    adjusted = holm([test.p for test in tests if test.p is not None])
    return means + [replace(t, p_holm=p) for t, p in zip(tests, adjusted, strict=True)]


def _agreement(single: dict[str, list[Reading]], readings: Sequence[Reading]) -> list[Finding]:
    """Cohen's kappa of the calls and weighted kappa of the steps, within and between readers."""
    findings = []

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
                findings.append(Finding("agreement", f"{kind}, {measure}", name, "all", n, value))

    for reader, group in single.items():
        repeats = {x.case.image: x for x in readings if x.reader == reader and x.repeat}
        first = [x for x in group if x.case.image in repeats]
        if first:
            compare(f"{reader}, repeats", first, [repeats[x.case.image] for x in first])
    for one, two in itertools.combinations(single, 2):
        common = _common({one: single[one], two: single[two]})
        if common[0]:
            compare(f"{one}, {two}", *common)
    return findings


def _times(reader: str, single: Sequence[Reading]) -> list[Finding]:
    findings = []
    for source in _sources(single):
        seconds = [x.seconds for x in _of(single, source)]
        if seconds:
            low, median, high = (float(q) for q in np.quantile(seconds, (0.25, 0.5, 0.75)))
            interval, n = Interval(median, low, high), len(seconds)
            findings.append(_finding("time", "median seconds", reader, source, n, interval))
    return findings


def _artefacts(reader: str, single: Sequence[Reading]) -> list[Finding]:
    findings = []
    for name, source in itertools.product(_ARTEFACTS, _sources(single)):
        readings = _of(single, source)
        if readings:
            n = len(readings)
            ticked = sum(name in x.answers.get("artefacts", ()) for x in readings)
            findings.append(_finding("artefacts", name, reader, source, n, proportion(ticked, n)))
    return findings
