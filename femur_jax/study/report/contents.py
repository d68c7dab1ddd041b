"""What a report shows: numbers and pictures, before any of them is drawn or worded."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int, UInt16

from femur_jax.evaluation.calibration import ReliabilityBin
from femur_jax.evaluation.manifold import Manifold
from femur_jax.evaluation.measurement import CopiesRow, DistanceRow, Measurement
from femur_jax.evaluation.statistics import Contrast, GroupRow, Interval, SeedSpread

GreyImage = UInt16[np.ndarray, "_height _width"]  # of any size, each


@dataclass(frozen=True)
class SplitSize:
    """How much data of one class one split holds."""

    split: str
    label: str
    patients: int
    radiographs: int


@dataclass(frozen=True)
class Gallery:
    """Example radiographs of one class from one source."""

    source: str
    label: str
    images: Sequence[GreyImage]


@dataclass(frozen=True)
class Curve:
    """One quantity over training; curves of the same `panel` share a chart."""

    name: str
    panel: str
    steps: Int[np.ndarray, " point"]
    values: Float[np.ndarray, " point"]


@dataclass(frozen=True)
class ClassifierRow:
    """What classifiers trained on one mixture reach on real held-out patients.

    Attributes:
        trained_on: In words.
        is_synthetic: Whether on synthetic radiographs alone.
        auc: Over the seeds.
        sensitivity: At 95% specificity; value and ends are means over the seeds, and since seeds
            vary less together than alone, the interval is rather too wide.
        against_real: AUC less that of the classifiers trained on real radiographs, both means over
            the seeds, on the same patients; None for these themselves.
        calibration_error: Expected calibration error, a mean over the seeds.
        chance_error: What it would be on average if the predictions were true.
        reliability: Of the first seed.
        groups: By what was grouped: hospital, size. Of the first seed.
    """

    trained_on: str
    is_synthetic: bool
    n_train: int
    auc: SeedSpread
    sensitivity: Interval
    against_real: Contrast | None
    calibration_error: float
    chance_error: float
    reliability: Sequence[ReliabilityBin]
    groups: Mapping[str, Sequence[GroupRow]]


@dataclass(frozen=True)
class ContrastRow:
    """Two generators that differ in one axis of the grid alone.

    Attributes:
        axis: One of `grid.AXES`.
        where: What they have in common, in words.
        first, second: In what they differ.
        auc: Of classifiers trained on synthetic radiographs alone: first less second, means over
            the seeds, on the same patients.
    """

    axis: str
    where: str
    first: str
    second: str
    auc: Contrast


@dataclass(frozen=True)
class NeighbourPair:
    """A synthetic radiograph, the training radiograph nearest to it and their distance ratio."""

    synthetic: GreyImage
    nearest: GreyImage
    ratio: float
    is_flagged: bool


@dataclass(frozen=True)
class WorstPairs:
    """The nearest pairs of one generator and class, over all seeds; worst first."""

    source: str
    label: str
    pairs: Sequence[NeighbourPair]


@dataclass(frozen=True)
class ImageSizes:
    """Sizes in pixels of one source's radiographs of one class."""

    source: str
    label: str
    heights: Int[np.ndarray, " radiograph"]
    widths: Int[np.ndarray, " radiograph"]


@dataclass(frozen=True)
class StudyResults:
    """All that a report shows.

    Attributes:
        simulated: True for phantoms, False for radiographs of patients.
        resolution: The sizes trained on, in words.
        training_steps: Optimizer steps of each kind of model.
        seeds: With which all was repeated.
        wall_seconds: Wall time by kind of stage.
        classifiers: The first is trained on real radiographs alone.
        floor: Other real radiographs against the test split.
        generators: By the generator's name in words, what was found with each seed.
        published: Marks from the literature: AUC and sensitivity, by what they were reached with.
        provenance: Versions, config hash, seed, date and the like, shown as given.
    """

    title: str
    simulated: bool
    resolution: str
    splits: Sequence[SplitSize]
    training_steps: Mapping[str, int]
    seeds: Sequence[int]
    wall_seconds: Mapping[str, float]
    galleries: Sequence[Gallery]
    curves: Sequence[Curve]
    classifiers: Sequence[ClassifierRow]
    contrasts: Sequence[ContrastRow]
    floor: Measurement
    generators: Mapping[str, Mapping[int, Measurement]]
    pairs: Sequence[WorstPairs]
    sizes: Sequence[ImageSizes]
    published: Mapping[str, Mapping[str, float]]
    provenance: Mapping[str, str]

    @property
    def test_patients(self) -> dict[str, int]:
        """Real patients that classifiers were tested on, by class."""
        return {row.label: row.patients for row in self.splits if row.split == "test"}

    def distances(self) -> list[tuple[str, DistanceRow]]:
        """With their source, means over the seeds; the floor, named "", comes first."""
        rows = [
            (name, row)
            for name, s in self.generators.items()
            for f in s.values()
            for row in f.distances
        ]
        return [("", row) for row in self.floor.distances] + [
            (name, mean_row(of_seeds)) for name, of_seeds in _by_label(rows)
        ]

    def copies(self) -> list[tuple[str, CopiesRow]]:
        """With their generator, the audits of all seeds together; see `worst_row`."""
        rows = [
            (name, row)
            for name, s in self.generators.items()
            for f in s.values()
            for row in f.copies
        ]
        return [(name, worst_row(of_seeds)) for name, of_seeds in _by_label(rows)]


def _by_label(rows: Sequence[tuple[str, Any]]) -> list[tuple[str, list[Any]]]:
    """Gathers the rows of one source and class."""
    groups: dict[tuple[str, str], list[Any]] = {}
    for source, row in rows:
        groups.setdefault((source, row.label), []).append(row)
    return [(source, found) for (source, _), found in groups.items()]


def mean_row(rows: Sequence[DistanceRow]) -> DistanceRow:
    """Means over seeds; of the standard error as well, since all have the same real radiographs."""

    def mean(name: str) -> float:
        return float(np.mean([getattr(row, name) for row in rows]))

    names = ("kid", "kid_error", "mmd", "fid", "fid_infinity", "ms_ssim")
    return dataclasses.replace(
        rows[0],
        **{name: mean(name) for name in names},
        manifold=Manifold(*np.mean([dataclasses.astuple(r.manifold) for r in rows], axis=0)),
        descriptors={
            name: float(np.mean([row.descriptors[name] for row in rows]))
            for name in rows[0].descriptors
        },
    )


def worst_row(rows: Sequence[CopiesRow]) -> CopiesRow:
    """The audits of several seeds as the most suspicious of each number; copies are added up.

    The verdict is that of the first accused seed, or of the one with most flagged.
    """
    worst = max(rows, key=lambda row: (row.is_accused, row.copies, row.flagged_share.value))
    return dataclasses.replace(
        worst,
        n=sum(row.n for row in rows),
        copies=sum(row.copies for row in rows),
        flagged_share=max((row.flagged_share for row in rows), key=lambda share: share.value),
        authentic_share=min(row.authentic_share for row in rows),
        membership_auc=max((row.membership_auc for row in rows), key=lambda auc: auc.value),
        tpr_at_1_fpr=max((row.tpr_at_1_fpr for row in rows), key=lambda rate: rate.value),
    )
