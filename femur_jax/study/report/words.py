"""Sentences on what the numbers show for each question.

The sentences follow from the numbers alone: an interval that includes zero never becomes a finding.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import NamedTuple

from scipy.stats import binom

from femur_jax.evaluation.contrasts import FEW_PATIENTS, Conclusion, Contrast, conclude
from femur_jax.evaluation.memorization import LEAST_POWER, SIGNIFICANCE
from femur_jax.evaluation.planted import UNCHANGED
from femur_jax.evaluation.radiograph_set import BOTH
from femur_jax.evaluation.statistics import holm
from femur_jax.study.report.contents import ClassifierRow, ContrastRow, StudyResults
from femur_jax.study.report.formats import count, interval_text, p_text, signed_text

_LISTED = 3  # comparisons that are listed one by one; of more, only decided ones are

_BEYOND = "look for swapped labels"


class Finding(NamedTuple):
    """An answer in one short sentence, and the sentences that explain it."""

    conclusion: str
    details: str


def trainings(results: StudyResults) -> str:
    """Number of trainings of each generator, as "2 trainings" or "2 to 3 trainings"."""
    fewest, most = results.trainings
    return count(fewest, "training") if fewest == most else f"{fewest} to {most} trainings"


def size_of_run(results: StudyResults) -> str:
    """Numbers of patients and trainings, and what rests on them."""
    patients = results.test_patients
    auc = results.classifiers[0].auc.mean
    text = (
        f"Each AUC on real patients rests on {_patients(results)} ("
        + ", ".join(f"{n} with {label}" for label, n in patients.items())
        + f"), on {trainings(results)} of each generator, and on "
        f"{count(len(results.classifier_seeds), 'classifier')} for each set of radiographs. "
        "Thresholds, and the choice of the best generator, rest on the validation patients; "
        "distances in question 2 on test and validation patients; question 5 on the training "
        "patients, compared with all others."
    )
    if not math.isnan(auc.low):
        text += (
            " With this many test patients the AUC of the classifier trained on real radiographs, "
            f"{auc.value:.2f}, is known to about ± "
            f"{max(auc.value - auc.low, auc.high - auc.value):.2f}."
        )
    if results.trainings[0] == 1:
        text += " One training of a generator does not show how much another would differ."
    few = [f"{n} with {label}" for label, n in patients.items() if n < FEW_PATIENTS]
    if few:
        text += (
            f" With only {' and '.join(few)}, intervals of differences are unreliable: take them "
            f"seriously from {FEW_PATIENTS} patients of each class on."
        )
    return text


def can_they_learn(results: StudyResults) -> Finding:
    """Answer to question 1 by a classifier trained on real radiographs."""
    judged = [(name, seed, e.judged) for name, seed, e in results.evaluations if e.judged]
    real = results.classifiers[0].auc.mean
    if not judged:
        return Finding(
            "Not answered: no synthetic set holds both classes.",
            "So a classifier cannot be asked to separate them.",
        )
    if real.low <= 0.5:
        return Finding(
            "Not answered: the judge is not shown to separate even real radiographs.",
            f"The classifier trained on real radiographs, which judges the synthetic ones, "
            f"reaches an AUC of {interval_text(real)} on real test patients"
            + (f": it is worse than chance, so {_BEYOND}" if real.high < 0.5 else "")
            + ". What it says of synthetic ones means nothing.",
        )
    learned = [auc for _, _, auc in judged if auc.low > 0.5]
    sets = count(len(judged), "synthetic set", words=())
    by_chance = float(binom.sf(len(learned) - 1, len(judged), 0.025))
    if len(learned) == len(judged):
        conclusion = (
            f"Yes, to a program: in {_all(len(judged))} the classes differ as real ones do."
        )
    elif learned and by_chance < 0.05:
        conclusion = f"In {len(learned)} of {sets} the classes differ as real ones do."
    elif learned:
        conclusion = f"Not shown: {len(learned)} of {sets} may be chance."
    else:
        conclusion = f"Not shown in any of {sets}."
    values = [auc.value for _, _, auc in judged]
    details = (
        "A classifier trained on real radiographs separates AFF from NFF among the synthetic ones "
        f"with an AUC of {_range(values)}, compared with {interval_text(real)} on real test "
        f"patients. Better than chance, with an interval above 0.5: {len(learned)} of {sets}; "
        f"without any difference of the classes {0.025 * len(judged):.2g} are expected."
    )
    swapped = [
        f"{name}, seed {seed}, {interval_text(auc)}" for name, seed, auc in judged if auc.high < 0.5
    ]
    if swapped:
        details += f" Worse than chance, so {_BEYOND}: {'; '.join(swapped)}."
    details += _reconciled(results, bool(learned))
    return Finding(
        conclusion,
        details + " This does not show whether a doctor sees fractures in them: look at the "
        "pictures, and ask readers.",
    )


def _reconciled(results: StudyResults, learned: bool) -> str:
    """How this answer fits that of question 2, where the two seem to differ."""
    taught = chosen(results).auc.mean.low > 0.5
    if learned and not taught:
        return (
            " Yet a classifier trained on synthetic radiographs alone is not shown to be better "
            "than a coin on real patients (question 2): the synthetic classes differ in something "
            "that real ones share, but in too little of it, or in other things more strongly."
        )
    if taught and not learned:
        return (
            " Yet a classifier trained on synthetic radiographs works on real patients (question "
            "2): they do carry the difference, in a form that this judge does not recognise."
        )
    return ""


def chosen(results: StudyResults) -> ClassifierRow:
    """The classifier trained on synthetic radiographs that is best on validation patients."""
    return _best([row for row in results.classifiers if row.is_synthetic])


def _best(rows: Sequence[ClassifierRow]) -> ClassifierRow:
    """The best row on validation patients, or the first one where there are none.

    The test patients have no say in the choice, since the best of many on them is better than it
    will be on others.
    """
    return max(rows, key=lambda row: -1.0 if row.validation_auc is None else row.validation_auc)


def summed_up(results: StudyResults) -> list[tuple[str, ClassifierRow]]:
    """The classifiers that answer question 2 in three rows, by what they are trained on."""
    both = _best([row for row in results.classifiers if row.is_both])
    return [("real", results.classifiers[0]), ("synthetic", chosen(results)), ("both", both)]


def how_good(results: StudyResults) -> Finding:
    """Answer to question 2 by the classifiers, by KID and by the variety."""
    rows = [row for row in results.classifiers if row.is_synthetic]
    best, real = chosen(results), results.classifiers[0].auc.mean
    assert best.against_real is not None
    auc = best.auc.mean
    text = (
        "A classifier trained on synthetic radiographs reaches an AUC of "
        f"{interval_text(auc)} on real test patients ({best.trained_on}"
        + _choice(best, len(rows))
        + f"), compared with {interval_text(real)} when trained on real ones."
    )
    if auc.high < 0.5:
        text += f" The first is worse than chance: {_BEYOND}."
    elif auc.low <= 0.5:
        text += " The first interval includes 0.5: the classifier may be no better than a coin."
    text += f" The difference is {_difference(best.against_real)}." + _matched(best, results)
    text += _without_patients(best, results)
    conclusion = _replaces(best.against_real, results)
    return Finding(conclusion, text + _nearness(results) + _variety(results))


def _matched(best: ClassifierRow, results: StudyResults) -> str:
    """The comparison with as many real radiographs, in a sentence."""
    assert best.against_matched is not None
    row = next(row for row in results.classifiers if row.trained_on == best.matched)
    return (
        " As many real radiographs as synthetic ones, where there are enough "
        f"({row.per_label} of each class), give an AUC of {interval_text(row.auc.mean)}; the "
        f"difference from these is {_difference(best.against_matched)}."
    )


def _without_patients(best: ClassifierRow, results: StudyResults) -> str:
    """The area where no real patient chooses the checkpoint, in a sentence; empty without one."""
    rows = [r for r in results.classifiers if r.is_validated_on_rest and r.source == best.source]
    if not rows:
        return ""
    return (
        " All this is with checkpoints that real validation patients chose. Where a fifth of the "
        f"synthetic radiographs chooses in their place, it is {interval_text(rows[0].auc.mean)}."
    )


def do_they_help(results: StudyResults) -> Finding:
    """Whether synthetic radiographs help a classifier when they are added to all real ones."""
    rows = [row for row in results.classifiers if row.is_both]
    best, real = _best(rows), results.classifiers[0].auc.mean
    contrast = best.against_real
    assert contrast is not None
    value = contrast.difference.value
    # Patients and classifiers are chance; another training of the generator is another set.
    match conclude(dataclasses.replace(contrast, trainings=2), results.relevant_difference):
        case Conclusion.NOT_COMPUTED:
            conclusion = "Not computed: the difference has no interval."
        case Conclusion.FIRST:
            conclusion = f"Yes: added to the real ones, they raise the AUC by {value:.2f}."
        case Conclusion.FIRST_SLIGHTLY:
            conclusion = (
                f"Yes, by {value:.2f}; perhaps by less than what matters, "
                f"{results.relevant_difference:g}."
            )
        case Conclusion.SECOND | Conclusion.SECOND_SLIGHTLY:
            conclusion = f"No: added to the real ones, they lower the AUC by {-value:.2f}."
        case Conclusion.EQUIVALENT:
            conclusion = (
                "No: added to the real ones, they change the AUC by less than "
                f"{results.relevant_difference:g}, which does not matter."
            )
        case _:
            conclusion = f"Undecided: {_patients(results)} are too few to show whether they help."
    text = (
        f"Trained on all real radiographs and on synthetic ones ({best.source}"
        + _choice(best, len(rows))
        + f"), the classifier reaches an AUC of {interval_text(best.auc.mean)} on real test "
        f"patients, compared with {interval_text(real)} when trained on the real ones alone. The "
        f"difference is {_difference(contrast)}."
    )
    if len(rows) > 1:
        differences = [row.against_real.difference.value for row in rows if row.against_real]
        text += (
            f" Over all {len(rows)} generators the difference is {min(differences):+.2f} to "
            f"{max(differences):+.2f}, intervals aside."
        )
    if contrast.trainings < 2:
        text += " Another training of the generator may help more, or less."
    for row in results.classifiers:
        if row.is_pretrained and row.source == best.source and row.against_real:
            text += (
                " Trained first on these synthetic radiographs and then on the real ones, it "
                f"reaches {interval_text(row.auc.mean)}, a difference of "
                f"{_difference(row.against_real)}."
            )
    return Finding(
        conclusion,
        text + " All classifiers are trained for equally many steps, so real radiographs alone are "
        "shown the more often.",
    )


def do_more_help(results: StudyResults) -> str:
    """How the area changes with the number of synthetic radiographs, for the chosen generators."""
    sentences = []
    for kind, rows in (
        ("alone", [row for row in results.classifiers if row.is_synthetic]),
        ("added to all real ones", [row for row in results.classifiers if row.is_both]),
    ):
        best = _best(rows)
        fewest = min(
            (r for r in results.sized if (r.source, r.uses_real) == (best.source, best.uses_real)),
            key=lambda row: row.n_synthetic,
            default=None,
        )
        if fewest:
            sentences.append(
                f"{_capital(best.source)}, {kind}: an AUC of {interval_text(fewest.auc.mean)} with "
                f"{fewest.n_synthetic:,} synthetic radiographs, and of "
                f"{interval_text(best.auc.mean)} with {best.n_synthetic:,}."
            )
    return " ".join(sentences)


def _choice(best: ClassifierRow, n: int) -> str:
    if n == 1:
        return ""
    if best.validation_auc is None:
        return f", the first of {n}: no validation patients could choose"
    return f", the best of {n} on validation patients"


def _replaces(contrast: Contrast, results: StudyResults) -> str:
    """Whether synthetic radiographs replace real ones, in one sentence."""
    match conclude(contrast, results.relevant_difference):
        case Conclusion.NOT_COMPUTED:
            return "Not computed: the difference from real radiographs has no interval."
        case Conclusion.ONE_TRAINING:
            shown = ("not shown to differ from", "better than", "worse than")[_sign(contrast)]
            return (
                f"Classifiers trained on this one synthetic set are {shown} those trained on real "
                "radiographs."
            )
        case Conclusion.SECOND | Conclusion.SECOND_SLIGHTLY:
            return "For this classifier the synthetic radiographs do not replace the real ones."
        case Conclusion.FIRST | Conclusion.FIRST_SLIGHTLY:
            return "For this classifier the synthetic radiographs teach more than the real ones."
        case Conclusion.EQUIVALENT:
            return (
                "For this classifier the synthetic radiographs replace the real ones: the AUCs "
                f"differ by less than {results.relevant_difference:g}."
            )
    return (
        f"Undecided: these {_patients(results)} show no difference from real radiographs, which "
        "does not show that there is none."
    )


def _difference(contrast: Contrast) -> str:
    """The numbers of a contrast, and what its interval is over."""
    text = f"{signed_text(contrast.difference)}, p = {p_text(contrast.p_adjusted)}"
    text = text.replace("= <", "<")
    return text + (", for this one training of the generator" if contrast.trainings < 2 else "")


def _nearness(results: StudyResults) -> str:
    """How many generators KID distinguishes from real radiographs."""
    rows = [row for source, row in results.distances() if source and row.label == BOTH]
    if not rows:
        return ""
    far = sum(p < 0.05 for p in holm([row.kid_p for row in rows]))
    return (
        f" By KID, {far} of {count(len(rows), 'generator', words=())} "
        f"{'is' if far == 1 else 'are'} farther from real test radiographs than chance explains; "
        "this compares statistics of pictures, and does not show what they are good for."
    )


def _variety(results: StudyResults) -> str:
    """Generators that cover less of the real radiographs than other real ones do."""
    floors = {row.n_compared: row for row in results.floor if row.label == BOTH}
    lost = []
    for source, row in results.distances():
        floor = floors.get(row.n_compared)
        if not source or row.label != BOTH or floor is None:
            continue
        shares = [(row.manifold.recall, floor.manifold.recall)]
        shares.append((row.manifold.coverage, floor.manifold.coverage))
        if any(_fewer(own, real, row.n_real) for own, real in shares):
            lost.append(
                f"{source} covers {row.manifold.coverage:.0%} of them, where other real ones "
                f"cover {floor.manifold.coverage:.0%}"
            )
    if not lost:
        return ""
    return f" Variety is lost: some real radiographs have nothing like them ({'; '.join(lost)})."


def _fewer(own: float, real: float, n: int) -> bool:
    """Whether a share of n radiographs is smaller than another, beyond two standard errors."""
    pooled = (own + real) / 2
    return real - own > 2 * math.sqrt(2 * pooled * (1 - pooled) / n)


def primary(results: StudyResults) -> Finding | None:
    """The comparison that was named before the study; None where none was."""
    rows = [row for row in results.contrasts if row.is_primary]
    return _compared(rows, results) if rows else None


def contrasts(results: StudyResults, axis: str) -> Finding:
    """Answers to questions 3 and 4, and to diffusion or GAN, by differences along an axis."""
    rows = [row for row in results.contrasts if row.axis == axis]
    if not rows:
        return Finding(
            "Not answered: this run trained no two generators that differ only in this.",
            "Add some to the grid.",
        )
    return _compared(rows, results)


def _compared(rows: Sequence[ContrastRow], results: StudyResults) -> Finding:
    """What some comparisons show, first in one sentence."""
    relevant = results.relevant_difference
    conclusions = [(row, conclude(row.auc, relevant)) for row in rows]
    decided = [row for row, c in conclusions if c in _BETTER]
    kinds = {c for _, c in conclusions}
    if kinds == {Conclusion.ONE_TRAINING}:
        conclusion = (
            "Not answered: each generator was trained once, and another training might reverse it."
        )
    elif decided and len(rows) <= _LISTED:
        conclusion = " ".join(
            f"{_capital(_winner(row))} is better{_where(row)}." for row in decided
        )
    elif decided:
        conclusion = f"In {len(decided)} of {len(rows)} comparisons one is better."
    elif kinds == {Conclusion.EQUIVALENT}:
        conclusion = f"No difference that matters: the AUCs differ by less than {relevant:g}."
    elif kinds == {Conclusion.NOT_COMPUTED}:
        conclusion = "Not computed: the differences have no interval."
    else:
        conclusion = f"Undecided: these {_patients(results)} show no difference."
    listed = rows if len(rows) <= _LISTED else decided
    return Finding(conclusion, " ".join(_sentence(row, results) for row in listed))


_BETTER = {
    Conclusion.FIRST,
    Conclusion.SECOND,
    Conclusion.FIRST_SLIGHTLY,
    Conclusion.SECOND_SLIGHTLY,
}


def _sentence(row: ContrastRow, results: StudyResults) -> str:
    opening = f"{_capital(row.where)}: the" if row.where else "The"
    relevant = results.relevant_difference
    meaning = {
        Conclusion.NOT_COMPUTED: "no interval could be computed, since nothing varies",
        Conclusion.ONE_TRAINING: (
            "each generator was trained once, so another training may differ by more"
        ),
        Conclusion.FIRST: f"{row.first} is better, by {relevant:g} or more",
        Conclusion.SECOND: f"{row.second} is better, by {relevant:g} or more",
        Conclusion.FIRST_SLIGHTLY: f"{row.first} is better, perhaps by less than {relevant:g}",
        Conclusion.SECOND_SLIGHTLY: f"{row.second} is better, perhaps by less than {relevant:g}",
        Conclusion.EQUIVALENT: f"any difference is smaller than {relevant:g}",
        Conclusion.UNDECIDED: "this does not decide which is better, or that they are equal",
    }[conclude(row.auc, relevant)]
    return (
        f"{opening} AUC of {row.first} minus that of {row.second} is "
        f"{_difference(row.auc)}: {meaning}."
    )


def _winner(row: ContrastRow) -> str:
    return row.first if row.auc.difference.value > 0 else row.second


def _where(row: ContrastRow) -> str:
    return f" ({row.where})" if row.where else ""


def are_they_safe(results: StudyResults) -> Finding:
    """Answer to question 5 over all sets."""
    sets = [
        (f"{name}, {row.label}, seed {seed}", row)
        for name, seed, evaluation in results.evaluations
        for row in evaluation.copies
    ]
    text = ""
    if accused := [name for name, row in sets if row.is_accused]:
        conclusion = (
            f"Do not share {len(accused)} of {len(sets)} synthetic sets, which repeat training "
            "radiographs or reveal who is in the training set."
        )
        text = f"Accused: {'; '.join(accused)}. "
    elif missing := sum(row.found[UNCHANGED] < LEAST_POWER for _, row in sets):
        conclusion = (
            f"Not decided for {missing} of {len(sets)} synthetic sets, whose audits would miss "
            "copies."
        )
    else:
        conclusion = f"No sign of copies in any of {count(len(sets), 'synthetic set')}."
    name, worst = max(sets, key=lambda item: item[1].membership_auc.value)
    leaking = sum(row.membership_p < SIGNIFICANCE for _, row in sets)
    text += (
        "An attacker who has a set infers whether a patient was in the training data with an AUC "
        f"of at most {interval_text(worst.membership_auc)} ({name}; 0.5 is a coin). "
    )
    text += (
        f"In {leaking} of {len(sets)} sets this is better than a coin (p < {SIGNIFICANCE:g}): they "
        "reveal something about the patients. "
        if leaking
        else f"In no set is this better than a coin (p < {SIGNIFICANCE:g}): these patients do not "
        "show that anything is revealed. "
    )
    text += (
        "Whole radiographs and three large crops of each are compared. "
        "Smaller details may still be repeated, and a better attack may still succeed."
    )
    return Finding(conclusion, text)


def _sign(contrast: Contrast) -> int:
    """1 or -1 where p is below 5% and the first or the second is better, 0 elsewhere."""
    if not contrast.p_adjusted < 0.05:
        return 0
    return 1 if contrast.difference.value > 0 else -1


def _patients(results: StudyResults) -> str:
    return count(sum(results.test_patients.values()), "test patient")


def _all(n: int) -> str:
    return "the one synthetic set" if n == 1 else f"all {n} synthetic sets"


def _range(values: Sequence[float]) -> str:
    low, high = f"{min(values):.2f}", f"{max(values):.2f}"
    return low if low == high else f"{low} to {high}"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
