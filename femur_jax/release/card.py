"""What the card of a release says of the selection and of the audit."""

from collections.abc import Mapping
from typing import NamedTuple

from femur_jax.evaluation.generators import Evaluation
from femur_jax.evaluation.memorization import SEARCHED
from femur_jax.evaluation.statistics import Interval
from femur_jax.markdown import table


class Taught(NamedTuple):
    """AUC on real test patients of a classifier of all radiographs, and of one of the released.

    Attributes:
        before: AUC of the classifier that was trained on all.
        after: AUC of the one that was trained on the released ones.
        difference: Second AUC minus the first, on the same patients.
    """

    before: Interval
    after: Interval
    difference: Interval


def lines(
    total: int,
    released: int,
    readers: int,
    counts: Mapping[str, int],
    before: Evaluation,
    after: Evaluation,
    taught: Taught | None = None,
) -> list[str]:
    """Lines in Markdown.

    Args:
        total: Number of radiographs that were generated.
        released: Number of radiographs in the release.
        readers: Number of people who looked at each radiograph; one rejection left it out.
        counts: Number of radiographs that were left out, by reason.
        before: Comparison of all of them with real radiographs.
        after: Comparison of the released ones.
        taught: Classifiers that were trained on both, where there are.
    """
    both = (("before", before), ("after", after))
    looked = f"{readers} readers accepted" if readers > 1 else "One reader accepted"
    return [
        "## What was left out",
        "",
        f"Of {total} generated radiographs {released} are released. A radiograph counts under its "
        "first reason. Each limit is one that 1% of further real radiographs exceed. "
        + (f"{looked} each of those that are released." if readers else "Nobody looked at each."),
        "",
        *table(("reason", "radiographs"), counts.items()),
        "",
        "A selection makes a set more uniform. Recall and coverage fall where it costs variety. "
        + (_teaching(taught) if taught else "No classifier was trained on the selection."),
        "",
        *table(
            ("", "n", "KID", "recall", "coverage"),
            (
                (
                    f"{row.label}, {name}",
                    row.n_compared,
                    f"{row.kid:.4f} ± {row.kid_error:.4f}",
                    f"{row.manifold.recall:.2f}",
                    f"{row.manifold.coverage:.2f}",
                )
                for name, evaluation in both
                for row in evaluation.distances
            ),
        ),
        "",
        *table(
            ("", "n", "copies", "flagged", "AUC of who was in the training set"),
            (
                (
                    f"{row.label}, {name}",
                    row.n,
                    row.copies,
                    f"{row.flagged_share.value:.1%}",
                    f"{row.membership_auc.value:.2f}",
                )
                for name, evaluation in both
                for row in evaluation.copies
            ),
        ),
        "",
        "## What the audit can and cannot see",
        "",
        f"{SEARCHED} Training radiographs were changed and planted; the table has the share of "
        "them that the audit calls copies. A change with a low share would go unnoticed.",
        "",
        *table(
            ("change", *(f"{row.label}, of {row.planted}" for row in after.copies)),
            (
                (change, *(f"{row.found[change]:.0%}" for row in after.copies))
                for change in after.copies[0].found
            ),
        ),
        "",
    ]


def _teaching(taught: Taught) -> str:
    before, after, difference = (
        f"{i.value:{sign}.2f} [{i.low:{sign}.2f}, {i.high:{sign}.2f}]"
        for i, sign in zip(taught, ("", "", "+"), strict=True)
    )
    return (
        f"A classifier that was trained on all of them has an AUC of {before} on real test "
        f"patients, and one that was trained for as many steps on the released ones has {after}, a "
        f"difference of {difference}; each was trained once."
    )
