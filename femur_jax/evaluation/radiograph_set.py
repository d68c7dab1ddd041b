"""Radiographs of several datasets as one set."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from femur_jax.data.radiograph import LABELS
from femur_jax.data.shards import RadiographDataset

BOTH = "both"
"""Name of both classes together, where a class has its own."""

Member = tuple[RadiographDataset, int]
"""A dataset and a position in it."""


PerRadiograph = Callable[[RadiographDataset, Sequence[int]], np.ndarray]
"""Functions of a dataset and positions in it that return one value, or row, for each."""


@dataclass(frozen=True)
class RadiographSet:
    """Radiographs as their datasets and the positions there."""

    members: Sequence[Member]

    def __len__(self) -> int:
        return len(self.members)

    @property
    def positive(self) -> np.ndarray:
        """True where the fracture is atypical."""
        return np.array([d.entries[n].label == LABELS[1] for d, n in self.members], bool)

    @property
    def patients(self) -> list[str]:
        """Pseudonym of each radiograph's patient."""
        return [d.entries[n].patient for d, n in self.members]

    @property
    def labels(self) -> list[str]:
        """Classes that have a radiograph in the set."""
        present = {d.entries[n].label for d, n in self.members}
        return [label for label in LABELS if label in present]

    def of(self, *labels: str) -> "RadiographSet":
        """The subset of some classes; BOTH stands for all."""
        return RadiographSet(
            [(d, n) for d, n in self.members if BOTH in labels or d.entries[n].label in labels]
        )

    def thinned(self, most: int) -> "RadiographSet":
        """Every n-th radiograph, with n so large that at most `most` are left."""
        return RadiographSet(self.members[:: -(-len(self) // most) or 1])

    def drawn(self, counts: Mapping[str, int], seed: int = 0) -> "RadiographSet":
        """A random subset, in order, with the given number of radiographs of each class."""
        rng = np.random.default_rng(seed)
        members: list[Member] = []
        for label, count in counts.items():
            of_class = self.of(label).members
            chosen = np.sort(rng.choice(len(of_class), count, replace=False))
            members += [of_class[n] for n in chosen]
        return RadiographSet(members)

    def map(self, function: PerRadiograph) -> np.ndarray:
        """Values of a function for all radiographs, in their order."""
        result: list[np.ndarray] = [np.empty(0)] * len(self)
        for dataset in dict.fromkeys(d for d, _ in self.members):
            numbers = [i for i, (d, _) in enumerate(self.members) if d is dataset]
            values = function(dataset, [self.members[i][1] for i in numbers])
            for i, value in zip(numbers, values, strict=True):
                result[i] = value
        return np.stack(result)


def of_split(
    datasets: Sequence[RadiographDataset], *splits: str, by: str = "patient"
) -> RadiographSet:
    """All radiographs of one or several splits of some datasets, see `RadiographDataset.split`."""
    return RadiographSet([(d, n) for d in datasets for split in splits for n in d.split(split, by)])
