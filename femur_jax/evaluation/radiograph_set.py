"""Radiographs of several datasets as one set."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from femur_jax.data.radiograph import LABELS
from femur_jax.data.shards import RadiographDataset

BOTH = "both"
"""How both classes together are called beside each."""


@dataclass(frozen=True)
class RadiographSet:
    """Radiographs as their datasets and the positions there, one dataset after the other."""

    members: Sequence[tuple[RadiographDataset, int]]

    def __len__(self) -> int:
        return len(self.members)

    @property
    def positive(self) -> np.ndarray:
        """Whether the fracture is atypical."""
        return np.array([d.entries[n].label == LABELS[1] for d, n in self.members], bool)

    @property
    def patients(self) -> list[str]:
        """Pseudonym of each radiograph's patient."""
        return [d.entries[n].patient for d, n in self.members]

    def of(self, label: str) -> "RadiographSet":
        """Those of one class, or of BOTH."""
        return RadiographSet(
            [(d, n) for d, n in self.members if label in (d.entries[n].label, BOTH)]
        )

    def thinned(self, most: int) -> "RadiographSet":
        """Every n-th, so that at most so many are left."""
        return RadiographSet(self.members[:: -(-len(self) // most) or 1])

    def map(self, function: Callable[[RadiographDataset, Sequence[int]], np.ndarray]) -> np.ndarray:
        """A function of a dataset and positions in it, for all radiographs in their order."""
        datasets = list(dict.fromkeys(d for d, _ in self.members))
        return np.concatenate(
            [
                function(dataset, [n for d, n in self.members if d is dataset])
                for dataset in datasets
            ]
        )


def of_split(datasets: Sequence[RadiographDataset], *splits: str) -> RadiographSet:
    """All radiographs of one split of some datasets, or of several splits."""
    return RadiographSet([(d, n) for d in datasets for split in splits for n in d.split(split)])
