"""Sentences on what the numbers show for each question, and the formats of numbers.

The sentences follow from the numbers alone: an interval that includes zero never becomes a finding.
"""

import math
from collections.abc import Sequence

from scipy.stats import binom

from femur_jax.evaluation.radiograph_set import BOTH
from femur_jax.evaluation.statistics import Interval
from femur_jax.study.report.contents import ContrastRow, StudyResults

_LISTED = 3  # comparisons that are listed one by one; of more, only decided ones are


def interval_text(interval: Interval) -> str:
    """Value and ends with two digits."""
    return f"{interval.value:.2f} [{interval.low:.2f}, {interval.high:.2f}]"


def signed_text(interval: Interval) -> str:
    """Value and ends of a difference, with their signs."""
    return f"{interval.value:+.2f} [{interval.low:+.2f}, {interval.high:+.2f}]"


def percent_text(interval: Interval) -> str:
    """Value and ends of a share, in percent."""
    return f"{interval.value:.1%} [{interval.low:.1%}, {interval.high:.1%}]"


def number(value: float) -> str:
    """Three digits, or all digits before the point."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def duration(seconds: float) -> str:
    """Duration in the one or two largest of hours, minutes and seconds."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, s = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {s} s" if minutes else f"{s} s"


def size_of_run(results: StudyResults) -> str:
    """The number of patients and trainings behind the results."""
    patients = results.test_patients
    auc = results.classifiers[0].auc.mean
    seeds = len(results.seeds)
    return (
        f"All numbers rest on {_patients(results)} ("
        + ", ".join(f"{count} with {label}" for label, count in patients.items())
        + f") and on {_count(seeds, 'training')} of each model. With this many patients the AUC of "
        f"the classifier trained on real radiographs, {auc.value:.2f}, is known to "
        f"about ± {max(auc.value - auc.low, auc.high - auc.value):.2f}."
        + (" One training does not show how much another would differ." if seeds == 1 else "")
    )


def can_they_learn(results: StudyResults) -> str:
    """Answer to question 1 by a classifier trained on real radiographs."""
    judged = [(name, e.judged) for name, _, e in results.evaluations if e.judged]
    if not judged:
        return "No synthetic set holds both classes, so their difference cannot be judged."
    learned = sum(interval.low > 0.5 for _, interval in judged)
    best_name, best = max(judged, key=lambda item: item[1].value)
    real = results.classifiers[0].auc.mean
    opening = (
        f"In {learned} of {len(judged)} synthetic sets a classifier trained on real radiographs "
        "separates AFF from NFF better than chance"
        if learned
        else "In none of the synthetic sets does a classifier trained on real radiographs separate "
        "AFF from NFF better than chance"
    )
    return (
        f"{opening}; the highest AUC is {interval_text(best)} ({best_name}), compared with "
        f"{interval_text(real)} on real held-out patients. This shows how far, to a program, the "
        "two classes differ as real ones do. It does not show whether a doctor sees fractures in "
        "them: look at the pictures, and ask readers."
    )


def how_good(results: StudyResults) -> str:
    """Answer to question 2 by the classifiers and by KID."""
    rows = [row for row in results.classifiers if row.is_synthetic]
    best = max(rows, key=lambda row: row.auc.mean.value)
    assert best.against_real is not None
    difference = best.against_real.bootstrap
    real = results.classifiers[0].auc.mean
    text = (
        f"A classifier trained on synthetic radiographs only reaches an AUC of "
        f"{interval_text(best.auc.mean)} on real held-out patients ({best.trained_on}"
        + (f", the best of {len(rows)}" if len(rows) > 1 else "")
        + f"), compared with {interval_text(real)} when trained on real ones. "
    )
    if best.auc.mean.low <= 0.5:
        text += "The first interval includes 0.5: the classifier may be no better than a coin. "
    text += (
        f"The difference is {signed_text(difference)}: "
        + {
            0: f"its interval includes zero, so these {_patients(results)} show no difference "
            "between the two, which does not show that they are equal.",
            -1: "for this task the synthetic radiographs do not replace the real ones.",
            1: "for this task the synthetic radiographs teach more than the real ones.",
        }[_sign(difference)]
    )
    far, compared = _farther_than_real(results)
    if compared:
        text += (
            f" By KID, {far} of {_count(compared, 'generator')} "
            f"{'is' if far == 1 else 'are'} farther from real radiographs than other real ones "
            "are, by more than two standard errors; this compares statistics of pictures, and "
            "does not show what they are good for."
        )
    return text


def _farther_than_real(results: StudyResults) -> tuple[int, int]:
    """Number of generators that are farther than their floor, and of those with a floor."""
    floors = {row.n_compared: row for row in results.floor if row.label == BOTH}
    pairs = [
        (row, floors[row.n_compared])
        for source, row in results.distances()
        if source and row.label == BOTH and row.n_compared in floors
    ]
    far = [r.kid - f.kid > 2 * math.hypot(r.kid_error, f.kid_error) for r, f in pairs]
    return sum(far), len(far)


def contrasts(results: StudyResults, axis: str) -> str:
    """Answers to questions 3 and 4, and to diffusion or GAN, by differences along an axis."""
    rows = [row for row in results.contrasts if row.axis == axis]
    if not rows:
        return (
            "This run trained no two generators that differ only in this, so it does not answer "
            "the question."
        )
    decided = [row for row in rows if _sign(row.auc.bootstrap)]
    listed = rows if len(rows) <= _LISTED else decided
    text = " ".join(_contrast(row, _patients(results)) for row in listed)
    if len(rows) > _LISTED:
        text = (
            f"In {len(decided)} of {len(rows)} comparisons the interval of the difference excludes "
            f"zero; in the others these {_patients(results)} show no difference. {text}"
        ).strip()
    if len(rows) > 1 and decided:
        text += f" The intervals are not corrected for {len(rows)} comparisons."
    if len(results.seeds) == 1:
        text += " Each was trained once: another training might reverse it."
    return text


def _contrast(row: ContrastRow, patients: str) -> str:
    difference = row.auc.bootstrap
    opening = f"{row.where}: the AUC of {row.first} minus that of {row.second} is "
    opening = opening[0].upper() + opening[1:] + signed_text(difference)
    return (
        opening
        + {
            0: f"; the interval includes zero: these {patients} show no difference.",
            -1: f": {row.second} is better for this classifier and these {patients}.",
            1: f": {row.first} is better for this classifier and these {patients}.",
        }[_sign(difference)]
    )


def are_they_safe(results: StudyResults) -> str:
    """Answer to question 5 over all sets."""
    sets = [
        (f"{name}, {row.label}, seed {seed}", row)
        for name, seed, evaluation in results.evaluations
        for row in evaluation.copies
    ]
    accused = [name for name, row in sets if row.is_accused]
    if accused:
        text = (
            f"Do not share {len(accused)} of {len(sets)} synthetic sets, which repeat training "
            f"radiographs: {'; '.join(accused)}."
        )
    else:
        text = f"No sign of copies in any of {_count(len(sets), 'synthetic set')}."
    name, worst = max(sets, key=lambda item: item[1].membership_auc.value)
    attack = worst.membership_auc
    leaking = sum(row.membership_auc.low > 0.5 for _, row in sets)
    p_value = float(binom.sf(leaking - 1, len(sets), 0.025))
    text += (
        " An attacker who has a set infers whether a patient was in the training data with an AUC "
        f"of at most {interval_text(attack)} ({name}; 0.5 is a coin). In {leaking} of {len(sets)} "
        "sets its interval lies above 0.5, "
    )
    text += (
        "more than chance explains: the sets reveal something about the patients. "
        if p_value < 0.05
        else "as chance explains: these patients do not show that anything is revealed. "
    )
    return text + (
        "Whole radiographs and three large crops of each are compared, under shifts and mirroring. "
        "Smaller details may still be repeated, and a better attack may still succeed."
    )


def _sign(difference: Interval) -> int:
    """1 or -1 where the interval is above or below zero, 0 where it includes it."""
    return int(difference.low > 0) - int(difference.high < 0)


def _patients(results: StudyResults) -> str:
    return _count(sum(results.test_patients.values()), "test patient")


def _count(n: int, noun: str, words: Sequence[str] = ("no", "one", "two", "three")) -> str:
    return f"{words[n] if n < len(words) else n} {noun}{'' if n == 1 else 's'}"
