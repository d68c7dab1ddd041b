"""A checklist for reviewers, with what the study itself knows and what its authors must add.

The items are those of CLAIM (Mongan, Moy and Kahn 2020, Radiol. Artif. Intell. 2:e200029) that a
report of numbers can answer, by their numbers there.
"""

from typing import NamedTuple

from femur_jax.study.report import words
from femur_jax.study.report.contents import StudyResults
from femur_jax.study.report.formats import count

AUTHORS = "For the authors to state."


class Item(NamedTuple):
    """One item: its number in CLAIM, what it asks, and the answer."""

    number: int
    question: str
    answer: str


def checklist(results: StudyResults) -> list[Item]:
    """The items in their order."""
    patients = {
        split: sum(row.patients for row in results.splits if row.split == split)
        for split in dict.fromkeys(row.split for row in results.splits)
    }
    trainings, classifiers = words.trainings(results), len(results.classifier_seeds)
    hospitals = results.classifiers[0].groups.get("hospital", ())
    primary = next((row for row in results.contrasts if row.is_primary), None)
    compared = sum(
        contrast is not None
        for row in results.classifiers
        for contrast in (row.against_real, row.against_matched)
    )
    compared += sum(not row.is_primary for row in results.contrasts)
    operating = results.classifiers[0].operating
    answers = {
        5: (
            "Prospective or retrospective",
            "Simulated." if results.simulated else "Retrospective.",
        ),
        6: (
            "Goal",
            f"{primary.first} against {primary.second}, named before the study; a difference of "
            f"AUC below {results.relevant_difference:g} does not matter."
            if primary
            else "No comparison was named before the study: all are exploratory.",
        ),
        7: (
            "Source of data",
            "A simulator of femur radiographs; no patient."
            if results.simulated
            else f"Radiographs of the user's hospitals. {AUTHORS}",
        ),
        8: ("Eligibility", AUTHORS),
        9: ("Preprocessing", f"{results.resolution[0].upper()}{results.resolution[1:]}."),
        12: (
            "De-identification",
            "Keyed pseudonyms; header fields outside a short list are dropped.",
        ),
        14: (
            "Ground truth",
            "The simulator's own." if results.simulated else f"The label table. {AUTHORS}",
        ),
        19: ("Intended sample size", "None was computed; question 2 states the intervals."),
        20: (
            "Partitions",
            ", ".join(f"{n} {split}" for split, n in patients.items()) + " patients.",
        ),
        21: ("Level of the partitions", "Patients; those with equal pictures are one."),
        23: ("Software", "At the end of this page, with the digest of the settings."),
        25: (
            "Training",
            ", ".join(f"{model} {n:,} steps" for model, n in results.training_steps.items()) + ".",
        ),
        26: (
            "Selection of the final model",
            "By validation patients: checkpoints of classifiers, and the best generator.",
        ),
        28: (
            "Metrics",
            "AUC of patients; sensitivity and specificity at a threshold of the validation patients"
            + (
                f" ({operating.allowed} of {operating.validation_negatives} called falsely)"
                if operating
                else ""
            )
            + "; KID, FID, precision, recall, density and coverage.",
        ),
        29: (
            "Uncertainty",
            "AUC: Newcombe's method 5. Differences: DeLong's variance of patients"
            + (f" and the variance of {trainings}" if results.trainings[0] > 1 else "")
            + (
                f" and of {count(classifiers, 'classifier')}"
                if results.trainings[0] == 1 < classifiers
                else ""
            )
            + ". Rates: exact. KID: permuted patients. Holm's "
            f"correction over {count(compared, 'comparison')}"
            + (", the one named before excepted." if primary else "."),
        ),
        30: (
            "Robustness",
            f"{trainings.capitalize()} of each generator, "
            f"{count(classifiers, 'classifier')} for each set"
            + (f"; {count(len(hospitals), 'hospital')} in the test." if hospitals else "."),
        ),
        32: ("External data", f"None: all patients are of one dataset. {AUTHORS}"),
        36: ("Accuracy and precision", "Tables of questions 2 to 4, with 95% intervals."),
        37: ("Failures", "Question 2 (lost variety) and question 5 (copies of patients)."),
        38: (
            "Limitations",
            "Simulated radiographs show that the method runs, and nothing about patients."
            if results.simulated
            else "Labels are requested classes, and no doctor has judged the pictures.",
        ),
    }
    return [Item(number, *answer) for number, answer in answers.items()]
