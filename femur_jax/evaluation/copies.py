"""Looks for training radiographs among synthetic ones, whole and in part."""

from functools import partial

from femur_jax.evaluation.correlation import most_correlated
from femur_jax.evaluation.features import part_scale, parts, thumbnails
from femur_jax.evaluation.memorization import (
    Audit,
    MembershipInference,
    audit,
    audit_parts,
    membership_inference,
)
from femur_jax.evaluation.radiograph_set import RadiographSet

WHOLE, PARTS = "correlation", "correlation of parts"
"""How the two audits are called in verdicts."""

_PART_SHIFT = 6  # pixels of about 100, that a crop may have moved a part by


def audit_pictures(
    made: RadiographSet, train: RadiographSet, held_out: RadiographSet
) -> tuple[dict[str, Audit], MembershipInference]:
    """Correlates pictures under small shifts and mirroring, and parts of them at native scale.

    Args:
        made: Synthetic radiographs.
        train: What their generator was trained on.
        held_out: Radiographs of other patients, on which thresholds are set.

    Returns:
        The audits, by name; the attacker who compares whole radiographs.

    Raises:
        UserError: There are too few radiographs.
    """
    pictures = made.map(thumbnails), train.map(thumbnails), held_out.map(thumbnails)
    longest = max(part_scale(dataset, [n]) for dataset, n in made.members)
    scaled = partial(parts, longest=longest)
    cut = made.map(scaled), train.map(scaled), held_out.map(scaled)
    audits = {
        WHOLE: audit(*pictures, most_correlated),
        PARTS: audit_parts(*cut, partial(most_correlated, shift=_PART_SHIFT)),
    }
    patients = train.patients, held_out.patients
    return audits, membership_inference(*pictures, *patients, search=most_correlated)
