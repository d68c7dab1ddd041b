"""Datasets of simulated patients."""

import shutil
from pathlib import Path
from typing import Any

from femur_jax.data.shards import RadiographDataset
from femur_jax.ingest.pipeline import ingest
from femur_jax.phantom.cohort import write_cohort


def simulated_dataset(
    folder: Path, *, patch: int, fractions: tuple[float, float], **cohort: Any
) -> RadiographDataset:
    """Simulates patients and makes a dataset of them, unless it is there.

    Args:
        folder: Gets cohort/, its truth, dataset/ and the pseudonyms' key.
        patch: Side of the tiles, in pixels.
        fractions: Of the patients, to validate and to test on.
        cohort: See `write_cohort`.
    """
    dataset = folder / "dataset"
    if not dataset.exists():
        shutil.rmtree(folder / "cohort", ignore_errors=True)  # of a run that was killed
        labels = write_cohort(folder / "cohort", **cohort)
        key = folder / "key"
        ingest(labels.parent, labels, dataset, patch=patch, key_file=key, fractions=fractions)
    return RadiographDataset(dataset)
