"""From which training step on a generator repeats its training set.

Quality is reached after a time that does not depend on the number of training images, and
memorisation begins later, the later the more of them there are (Bonnaire et al. 2025, arXiv
2505.17638): the step to sample from lies between the two, and the audit of a run's snapshots
finds it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from femur_jax.evaluation.memorization import Copies


@dataclass(frozen=True)
class Point:
    """Summary of the audits of the radiographs that a snapshot generates.

    Attributes:
        step: Training step of the snapshot.
        copies: Radiographs that an audit calls a copy, in the audit with the most of them.
        flagged_share: Share of flagged radiographs, likewise.
        chance_share: Share that would be flagged if all were new, of that audit.
        median_ratio: Median distance ratio, in the audit with the lowest.
        membership_auc: AUC of the attacker who compares whole radiographs.
        is_accused: Whether the verdict says that the set should not be shared.
    """

    step: int
    copies: int
    flagged_share: float
    chance_share: float
    median_ratio: float
    membership_auc: float
    is_accused: bool

    @classmethod
    def of(cls, step: int, copies: Copies) -> "Point":
        """Summary of the audits of one step."""
        audits = copies.audits.values()
        worst = max(audits, key=lambda audit: audit.flagged_share.value)
        return cls(
            step=step,
            copies=max(int(audit.copies.sum()) for audit in audits),
            flagged_share=worst.flagged_share.value,
            chance_share=worst.chance_share,
            median_ratio=min(float(np.median(audit.ratio)) for audit in audits),
            membership_auc=copies.membership.auc.value,
            is_accused=copies.verdict.accuses,
        )


def before_onset(points: Sequence[Point]) -> int | None:
    """The last step before the first one with copies; None where the first step has copies."""
    clean = None
    for point in sorted(points, key=lambda point: point.step):
        if point.is_accused:
            break
        clean = point.step
    return clean


def onset_table(points: Sequence[Point]) -> str:
    """Table of the points, and one sentence that names the step to sample from."""
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
