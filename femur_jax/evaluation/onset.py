"""When in its training did a generator begin to repeat radiographs?

Quality is reached after a time that does not depend on the number of training images, and
memorisation begins later, the later the more of them there are (Bonnaire et al. 2025, arXiv
2505.17638): between the two lies the step to take.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from femur_jax.evaluation.generator import Copies


@dataclass(frozen=True)
class Point:
    """The audits of what one step's model made.

    Attributes:
        step: Of the training.
        copies: Radiographs that an audit calls a copy, in the audit with the most of them.
        flagged_share: Share of flagged radiographs, likewise.
        chance_share: Share that would be flagged if all were new, of that audit.
        median_ratio: Median distance ratio, in the audit with the lowest.
        membership_auc: Of the attacker who compares whole radiographs.
        found_copies: The verdict.
    """

    step: int
    copies: int
    flagged_share: float
    chance_share: float
    median_ratio: float
    membership_auc: float
    found_copies: bool

    @classmethod
    def of(cls, step: int, found: Copies) -> "Point":
        """Sums up what was found of a step's radiographs."""
        worst = max(found.audits.values(), key=lambda audit: audit.flagged_share.value)
        return cls(
            step=step,
            copies=max(int(audit.copies.sum()) for audit in found.audits.values()),
            flagged_share=worst.flagged_share.value,
            chance_share=worst.chance_share,
            median_ratio=min(float(np.median(audit.ratio)) for audit in found.audits.values()),
            membership_auc=found.membership.auc.value,
            found_copies=found.verdict.found_copies,
        )


def before_onset(points: Sequence[Point]) -> int | None:
    """The last step before the first at which copies were found.

    The very last step where there were none; none where the first step has copies already.
    """
    clean = None
    for point in sorted(points, key=lambda point: point.step):
        if point.found_copies:
            break
        clean = point.step
    return clean


def table(points: Sequence[Point]) -> str:
    """The points, and the step to take in a sentence."""
    lines = ["    step  copies  flagged  by chance  median ratio  membership AUC"]
    lines += [
        f"{p.step:8}  {p.copies:6}  {p.flagged_share:7.1%}  {p.chance_share:9.1%}  "
        f"{p.median_ratio:12.2f}  {p.membership_auc:14.2f}"
        for p in sorted(points, key=lambda point: point.step)
    ]
    step = before_onset(points)
    if step is None:
        lines.append(
            "The first step has copies already: audit earlier ones (config.train.snapshot_every)."
        )
    elif step == max(p.step for p in points):
        lines.append(f"No copies up to step {step}.")
    else:
        lines.append(
            f"Copies begin after step {step}; sample from it with --config.sample.snapshot={step}."
        )
    return "\n".join(lines)
