"""What the numbers show and do not show, each question in plain sentences; and how numbers look.

The sentences follow from the numbers alone: an interval that includes zero never becomes a finding.
"""

import math
from collections.abc import Sequence

from scipy.stats import binom

from femur_jax.evaluation.radiograph_set import BOTH
from femur_jax.evaluation.statistics import Interval
from femur_jax.study.report.contents import ContrastRow, StudyResults

_TOLD_SINGLY = 3  # comparisons; of more, only those that found something are


def interval_text(interval: Interval) -> str:
    """Value and ends with two digits."""
    return f"{interval.value:.2f} [{interval.low:.2f}, {interval.high:.2f}]"


def signed_text(interval: Interval) -> str:
    """The same of a difference."""
    return f"{interval.value:+.2f} [{interval.low:+.2f}, {interval.high:+.2f}]"


def percent_text(interval: Interval) -> str:
    """The same of a share."""
    return f"{interval.value:.1%} [{interval.low:.1%}, {interval.high:.1%}]"


def number(value: float) -> str:
    """Three digits, or all before the point."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def duration(seconds: float) -> str:
    """Hours, minutes and seconds, as far as they matter."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, s = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {s} s" if minutes else f"{s} s"


def size_of_run(results: StudyResults) -> str:
    """On how much all numbers rest."""
    patients = results.test_patients
    auc = results.classifiers[0].auc.mean
    seeds = len(results.seeds)
    return (
        f"All numbers rest on {_patients(results)} ("
        + ", ".join(f"{count} with {label}" for label, count in patients.items())
        + f") and on {_count(seeds, 'training')} of each model. From so many patients the AUC of "
        f"the classifier of real radiographs, {auc.value:.2f}, is known to "
        f"about ± {max(auc.value - auc.low, auc.high - auc.value):.2f}."
        + (" What training again would change is not known from one." if seeds == 1 else "")
    )


def can_they_learn(results: StudyResults) -> str:
    """Question 1, by how a classifier of real radiographs takes the synthetic ones."""
    judged = [
        (name, found.judged)
        for name, seeds in results.generators.items()
        for found in seeds.values()
        if found.judged
    ]
    if not judged:
        return "No synthetic set holds both classes, so nothing can be said of what was learned."
    learned = sum(interval.low > 0.5 for _, interval in judged)
    best_name, best = max(judged, key=lambda item: item[1].value)
    real = results.classifiers[0].auc.mean
    opening = (
        f"In {learned} of {len(judged)} synthetic sets a classifier trained on real radiographs "
        "tells AFF from NFF better than chance"
        if learned
        else "In none of the synthetic sets does a classifier trained on real radiographs tell AFF "
        "from NFF better than chance"
    )
    return (
        f"{opening}; the highest AUC is {interval_text(best)} ({best_name}), that on real held-out "
        f"patients {interval_text(real)}. This shows how far the two classes differ as real ones "
        "do, to a program; whether a doctor sees fractures in them it does not show: look at the "
        "pictures, and ask readers."
    )


def how_good(results: StudyResults) -> str:
    """Question 2, by the classifiers and by KID."""
    rows = [row for row in results.classifiers if row.is_synthetic]
    best = max(rows, key=lambda row: row.auc.mean.value)
    assert best.against_real is not None
    difference = best.against_real.bootstrap
    real = results.classifiers[0].auc.mean
    text = (
        f"Trained on synthetic radiographs alone, a classifier reaches an AUC of "
        f"{interval_text(best.auc.mean)} on real held-out patients ({best.trained_on}"
        + (f", the best of {len(rows)}" if len(rows) > 1 else "")
        + f"), and {interval_text(real)} trained on real ones. "
    )
    if best.auc.mean.low <= 0.5:
        text += "The interval of the former includes 0.5: it may be no better than a coin. "
    text += (
        f"The difference is {signed_text(difference)}: "
        + {
            0: f"its interval includes zero, so these {_patients(results)} cannot tell the two "
            "apart, which does not show that they are equal.",
            -1: "for this task the synthetic radiographs do not replace the real ones.",
            1: "for this task the synthetic radiographs teach more than the real ones did.",
        }[_sign(difference)]
    )
    far, compared = _farther_than_real(results)
    if compared:
        text += (
            f" By KID, {far} of {_count(compared, 'generator')} "
            f"{'is' if far == 1 else 'are'} farther from real radiographs than other real ones "
            "are, by more than two standard errors; this tells of statistics of pictures, and "
            "not of what they are good for."
        )
    return text


def _farther_than_real(results: StudyResults) -> tuple[int, int]:
    """How many generators are, and how many were compared."""
    rows = {source: row for source, row in results.distances() if row.label == BOTH}
    floor = rows.pop("", None)
    if floor is None:
        return 0, 0
    far = [r.kid - floor.kid > 2 * math.hypot(r.kid_error, floor.kid_error) for r in rows.values()]
    return sum(far), len(far)


def contrasts(results: StudyResults, axis: str) -> str:
    """Questions 3 and 4, and the two models: what differences along an axis show."""
    rows = [row for row in results.contrasts if row.axis == axis]
    if not rows:
        return (
            "This run trained no two generators that differ in this alone, so it does not answer "
            "the question."
        )
    found = [row for row in rows if _sign(row.auc.bootstrap)]
    told = rows if len(rows) <= _TOLD_SINGLY else found
    text = " ".join(_contrast(row, _patients(results)) for row in told)
    if len(rows) > _TOLD_SINGLY:
        text = (
            f"In {len(found)} of {len(rows)} comparisons the interval of the difference leaves out "
            f"zero; in the others these {_patients(results)} cannot tell. {text}"
        ).strip()
    if len(rows) > 1 and found:
        text += f" None is corrected for there being {len(rows)} comparisons."
    if len(results.seeds) == 1:
        text += " Each was trained once: another training might turn it round."
    return text


def _contrast(row: ContrastRow, patients: str) -> str:
    difference = row.auc.bootstrap
    opening = f"{row.where}: the AUC of {row.first} less that of {row.second} is "
    opening = opening[0].upper() + opening[1:] + signed_text(difference)
    return (
        opening
        + {
            0: f"; the interval includes zero: these {patients} cannot tell.",
            -1: f": {row.second} is better for this classifier and these {patients}.",
            1: f": {row.first} is better for this classifier and these {patients}.",
        }[_sign(difference)]
    )


def are_they_safe(results: StudyResults) -> str:
    """Question 5, over all sets."""
    sets = [
        (f"{name}, {row.label}, seed {seed}", row)
        for name, seeds in results.generators.items()
        for seed, found in seeds.items()
        for row in found.copies
    ]
    accused = [name for name, row in sets if row.is_accused]
    if accused:
        text = (
            f"Do not share {len(accused)} of {len(sets)} synthetic sets, in which training "
            f"radiographs are repeated: {'; '.join(accused)}."
        )
    else:
        text = f"No sign of copies in any of {_count(len(sets), 'synthetic set')}."
    name, worst = max(sets, key=lambda item: item[1].membership_auc.value)
    attack = worst.membership_auc
    told = sum(row.membership_auc.low > 0.5 for _, row in sets)
    p_value = float(binom.sf(told - 1, len(sets), 0.025))
    text += (
        f" Whoever has a set tells whether a patient was trained on with an AUC of at most "
        f"{interval_text(attack)} ({name}; 0.5 is a coin). In {told} of {len(sets)} sets its "
        "interval lies above 0.5, "
    )
    text += (
        "more than chance explains: something of the patients is told. "
        if p_value < 0.05
        else "as chance explains: these patients cannot show that anything is told. "
    )
    return text + (
        "Whole radiographs and three large parts of each are compared, under shifts and mirroring: "
        "that no smaller detail is repeated, and that no cleverer attack succeeds, is not shown."
    )


def _sign(difference: Interval) -> int:
    """1 or -1 where the interval is above or below zero, 0 where it includes it."""
    return int(difference.low > 0) - int(difference.high < 0)


def _patients(results: StudyResults) -> str:
    return _count(sum(results.test_patients.values()), "test patient")


def _count(n: int, noun: str, words: Sequence[str] = ("no", "one", "two", "three")) -> str:
    return f"{words[n] if n < len(words) else n} {noun}{'' if n == 1 else 's'}"
