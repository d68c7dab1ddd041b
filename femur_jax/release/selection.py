"""Which radiographs of a synthetic dataset leave it: those that the audit or the ruler rejects."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from femur_jax.data.radiograph import Radiograph
from femur_jax.data.records import encode
from femur_jax.data.shards import DatasetWriter, RadiographDataset
from femur_jax.errors import UserError
from femur_jax.evaluation.generators import CopiesRow
from femur_jax.evaluation.memorization import Copies
from femur_jax.evaluation.radiograph_set import RadiographSet
from femur_jax.progress import Progress
from femur_jax.release.quality import REASONS, Quality

FLAGGED = "nearer to a training radiograph than 99% of other patients'"
RELATED = "nearest to the same training radiograph as one of those"
REJECTED = "rejected by a reader"
ALL_REASONS = (FLAGGED, RELATED, *REASONS, REJECTED)
"""Reasons why a radiograph is dropped, in the order in which they are tried."""


def flagged_by(audited: Mapping[str, tuple[RadiographSet, Copies]]) -> dict[int, str]:
    """Radiographs that an audit flags or calls copies, and those like them, with the reason.

    Args:
        audited: The radiographs of each class, all of one dataset, and their audits.
    """
    reasons: dict[int, str] = {}
    for radiographs, copies in audited.values():
        numbers = np.array([n for _, n in radiographs.members])
        audits = copies.audits.values()
        flagged = np.any([audit.flagged | audit.copies for audit in audits], axis=0)
        related = np.any([np.isin(a.index, a.index[a.flagged | a.copies]) for a in audits], axis=0)
        reasons |= dict.fromkeys(numbers[related & ~flagged].tolist(), RELATED)
        reasons |= dict.fromkeys(numbers[flagged].tolist(), FLAGGED)
    return reasons


def rejected_by(
    quality: Quality, dataset: RadiographDataset, radiographs: Sequence[int]
) -> dict[int, str]:
    """Radiographs that do not look as real ones do, with the reason."""
    found = {n: quality.reason(dataset, n) for n in Progress(radiographs, "quality")}
    return {n: reason for n, reason in found.items() if reason}


def refuse_accused(audits: Iterable[CopiesRow]) -> None:
    """Refuses a set that an audit accuses, as a whole set may be without a single flagged one.

    Raises:
        UserError: The set of a class is accused.
    """
    for row in audits:
        if row.is_accused:
            raise UserError(
                f"Nothing is released, since the audit accuses the {row.n} radiographs of "
                f"{row.label} that are left. {row.verdict}"
            )


def counts(reasons: Mapping[int, str]) -> dict[str, int]:
    """Number of radiographs by reason, also where it is 0."""
    found = Counter(reasons.values())
    return {reason: found[reason] for reason in ALL_REASONS}


def refuse_nothing(counts: Mapping[str, int], total: int) -> None:
    """Refuses a release of no radiograph.

    Raises:
        UserError: All are left out.
    """
    if sum(counts.values()) == total:
        named = ", ".join(f"{reason}: {n}" for reason, n in counts.items() if n)
        raise UserError(
            f"All {total} radiographs are left out ({named}), so nothing is released; train the "
            "generator for longer or on more patients, or sample again."
        )


def write_rest(
    dataset: RadiographDataset, dropped: Iterable[int], folder: Path
) -> RadiographDataset:
    """Writes a dataset of all radiographs but the dropped ones, which keep their names.

    The provenance stays, with the number of radiographs before.
    """
    left_out = set(dropped)
    provenance = dataset.provenance | {"selected_from": len(dataset.entries)}
    with DatasetWriter(folder, patch=dataset.patch, provenance=provenance) as writer:
        for n, entry in enumerate(Progress(dataset.entries, "write")):
            if n not in left_out:
                radiograph = Radiograph(
                    pixels=dataset.read(n),
                    name=entry.name,
                    label=entry.label,
                    patient=entry.patient,
                    hospital=entry.hospital,
                    spacing_mm=entry.spacing_mm,
                    spacing_source=entry.spacing_source,
                )
                writer.add(encode(radiograph, dataset.patch), entry.split)
    return RadiographDataset(folder)
