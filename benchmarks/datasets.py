"""Datasets to measure on: simulated patients, and noise."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np

from femur_jax.data.radiograph import LABELS, Radiograph
from femur_jax.data.records import encode
from femur_jax.data.shards import DatasetWriter, RadiographDataset
from femur_jax.ingest.pipeline import ingest
from femur_jax.phantom.cohort import write_cohort


def simulated_dataset(
    folder: Path, *, patch: int, fractions: tuple[float, float], **cohort: Any
) -> RadiographDataset:
    """Simulates patients and ingests them, unless the dataset exists.

    Args:
        folder: The folder for cohort/, cohort.truth.jsonl, dataset/ and the key of pseudonyms.
        patch: Side of the tiles in pixels.
        fractions: Shares of the patients for validation and for testing.
        cohort: Arguments of `write_cohort`.
    """
    dataset = folder / "dataset"
    if not dataset.exists():
        shutil.rmtree(folder / "cohort", ignore_errors=True)  # of a run that was killed
        labels = write_cohort(folder / "cohort", **cohort)
        key = folder / "key"
        ingest(labels.parent, labels, dataset, patch=patch, key_file=key, fractions=fractions)
    return RadiographDataset(dataset)


def noise_dataset(folder: Path, patch: int) -> RadiographDataset:
    """Radiographs of two levels and several shapes; their content does not matter to speed."""
    rng = np.random.default_rng(0)
    with DatasetWriter(folder, patch=patch, provenance={"kind": "noise"}) as writer:
        for n in range(8):
            pixels = rng.integers(0, 2**16, (2 * patch, 2 * patch - 2 * n), np.uint16)
            radiograph = Radiograph(
                pixels, f"radiograph {n}", LABELS[n % len(LABELS)], f"patient {n}", "hospital", 0.5
            )
            writer.add(encode(radiograph, patch), "train")
    return RadiographDataset(folder)
