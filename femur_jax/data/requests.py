"""Which radiographs a generator shall make."""

from dataclasses import dataclass

import numpy as np

from femur_jax.data.radiograph import LABELS
from femur_jax.data.shards import RadiographDataset
from femur_jax.errors import UserError


@dataclass(frozen=True)
class Request:
    """One radiograph to be made: height and width in pixels, spacing in mm (0 unknown)."""

    height: int
    width: int
    spacing_mm: float
    label: str


def draw_requests(dataset: RadiographDataset, *, per_label: int, seed: int) -> list[Request]:
    """Draws sizes and spacings from the training radiographs, the same number for each label.

    Raises:
        UserError: A label has no training radiograph.
    """
    rng = np.random.default_rng(seed)
    requests = []
    for label in LABELS:
        known = [e for e in dataset.entries if e.split == "train" and e.label == label]
        if not known:
            raise UserError(
                f"The train split of {dataset.folder} has no radiograph with label {label}; "
                "add some before sampling."
            )
        for n in rng.integers(len(known), size=per_label):
            entry = known[n]
            requests.append(Request(entry.height, entry.width, entry.spacing_mm, label))
    return requests
