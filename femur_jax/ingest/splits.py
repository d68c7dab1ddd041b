"""Splits of patients by names that follow from content, so that a split reveals nobody."""

from collections import Counter
from collections.abc import Sequence

from femur_jax.data import cohort
from femur_jax.data.radiograph import LABELS
from femur_jax.ingest.content import ContentKeys


def split_by_content(
    rows: Sequence[cohort.LabelRow],
    content: ContentKeys,
    connected: Sequence[set[str]],
    *,
    fractions: Sequence[float],
    seed: int,
) -> tuple[dict[str, str], dict[str, str]]:
    """Splits patients, and splits them again such that whole hospitals are held out.

    Args:
        rows: Lines of the label table whose files are usable.
        content: The names of patients and hospitals that follow from their radiographs.
        connected: Disjoint sets of patients who share a picture, also of some without a usable
            file. Each set goes into one split.
        fractions: Shares of the patients for validation and test.
        seed: Seed of both splits.

    Returns:
        The split of each patient; and the split by hospital of each patient all of whose files,
        and those of connected patients, are in one split. The second is empty where a split would
        hold fewer than 2 patients of a label.

    Raises:
        UserError: There are too few patients of a label for the shares.
    """
    label = {row.patient_id: row.label for row in rows}
    groups = [group for people in connected if (group := people & label.keys())]
    name = content.patient
    named = cohort.split_patients(
        {name[patient]: label[patient] for patient in label},
        fractions=fractions,
        seed=seed,
        connected=[{name[patient] for patient in group} for group in groups],
    )
    splits = {patient: named[name[patient]] for patient in label}

    patients: dict[str, dict[str, str]] = {}
    for row in rows:
        patients.setdefault(content.hospital[row.hospital], {})[row.patient_id] = row.label
    held_out = cohort.split_hospitals(patients, fractions=fractions, seed=seed)
    seen: dict[str, set[str]] = {patient: set() for patient in label}
    for row in rows:
        seen[row.patient_id].add(held_out.get(content.hospital[row.hospital], ""))
    for group in groups:
        seen |= dict.fromkeys(group, set().union(*(seen[patient] for patient in group)))
    whole = {patient: min(names) for patient, names in seen.items() if len(names) == 1}
    counts = Counter((split, label[patient]) for patient, split in whole.items())
    if any(counts[split, la] < 2 for split in held_out.values() for la in LABELS):
        return splits, {}
    return splits, whole
