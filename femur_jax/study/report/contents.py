"""The numbers and pictures that a report shows, before they are drawn or worded."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Float, Int, UInt16

from femur_jax.evaluation.calibration import ReliabilityBin
from femur_jax.evaluation.contrasts import Contrast
from femur_jax.evaluation.distances import Comparison, Manifold
from femur_jax.evaluation.generators import CopiesRow, DistanceRow, Evaluation
from femur_jax.evaluation.operating_point import OperatingPoint
from femur_jax.evaluation.statistics import GroupRow, Interval, SeedSpread

GreyImage = UInt16[np.ndarray, "_height _width"]  # each of any size
AnyComparison = TypeVar("AnyComparison", bound=Comparison)


@dataclass(frozen=True)
class SplitSize:
    """Size of one class in one split."""

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
    """Performance on real held-out patients of classifiers trained on one mixture.

    Attributes:
        trained_on: Training data in words.
        uses_real: Whether they are trained on real radiographs, too or only.
        source: Generator of the synthetic radiographs, in words; empty without any.
        per_label: Most radiographs of each class, of the synthetic ones where there are both kinds;
            0 for all.
        is_pretrained: Whether they are trained on the synthetic ones first and on the real ones
            then, not on both together.
        is_validated_on_rest: Whether the synthetic radiographs that are left out choose the
            checkpoint, in place of real validation patients.
        n_train: Number of training radiographs.
        n_synthetic: Number of those that are synthetic.
        auc: Area under the curve over all classifiers.
        validation_auc: Mean of the AUC on real validation patients; None where they lack a class.
        operating: Sensitivity and specificity at the threshold of the validation patients; values
            and ends are means over the classifiers, and since these vary less together than alone,
            the intervals are rather too wide. None without validation patients.
        against_real: AUC minus that of the classifiers trained on all real radiographs, both means,
            on the same patients; None where no radiograph is synthetic.
        against_matched: AUC minus that of those trained on as many real radiographs, likewise; None
            unless all radiographs are synthetic.
        matched: `trained_on` of these; empty without any.
        calibration_error: Expected calibration error, a mean.
        chance_error: Mean calibration error if the predictions were true.
        reliability: Reliability diagram of the first classifier.
        groups: Rows by what they are grouped by: hospital, size, sex, age, view; with areas and
            ends that are means over the classifiers.
        over_hospitals: Area with its interval over new hospitals, likewise; None with too few
            hospitals.
    """

    trained_on: str
    uses_real: bool
    source: str
    per_label: int
    is_pretrained: bool
    is_validated_on_rest: bool
    n_train: int
    n_synthetic: int
    auc: SeedSpread
    validation_auc: float | None
    operating: OperatingPoint | None
    against_real: Contrast | None
    against_matched: Contrast | None
    matched: str
    calibration_error: float
    chance_error: float
    reliability: Sequence[ReliabilityBin]
    groups: Mapping[str, Sequence[GroupRow]]
    over_hospitals: Interval | None

    @property
    def is_synthetic(self) -> bool:
        """Whether they are trained on synthetic radiographs only, and chosen by real ones."""
        return not self.uses_real and not self.is_validated_on_rest

    @property
    def is_both(self) -> bool:
        """Whether they are trained on real and synthetic radiographs together."""
        return self.uses_real and bool(self.source) and not self.is_pretrained


@dataclass(frozen=True)
class ContrastRow:
    """Two generators that differ in exactly one axis of the grid, or were to be compared anyway.

    Attributes:
        axis: One of `grid.AXES`, or empty for the primary comparison along several.
        where: The values that they have in common, in words.
        first, second: The values that differ, in words.
        is_primary: Whether the comparison was named before the study.
        auc: AUC of classifiers trained on synthetic radiographs only: first minus second, means
            over generators and classifiers, on the same patients.
    """

    axis: str
    where: str
    first: str
    second: str
    is_primary: bool
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
    """The contents of a report.

    Attributes:
        title: Title of the page.
        simulated: True for phantoms, False for radiographs of patients.
        resolution: The sizes that models are trained on, in words.
        splits: Sizes of the real dataset's splits.
        training_steps: Optimizer steps of each kind of model.
        classifier_seeds: Seeds of the classifiers that are trained on each set of radiographs.
        wall_seconds: Wall time by kind of stage.
        galleries: Example radiographs by source and class.
        curves: Training losses of one seed.
        classifiers: One row a mixture; the first is trained on all real radiographs alone.
        sized: Rows of mixtures with fewer radiographs, which are not compared.
        contrasts: Pairs of generators that are compared; the primary one first.
        relevant_difference: Least difference of AUC that matters.
        generators: Evaluation of each seed, by the generator's name in words.
        pairs: The pairs of synthetic and training radiographs that are most alike.
        sizes: Sizes of real and synthetic radiographs.
        published: Published AUC and sensitivity, by study.
        provenance: Versions, config hash, seed, date and the like, shown as given.
    """

    title: str
    simulated: bool
    resolution: str
    splits: Sequence[SplitSize]
    training_steps: Mapping[str, int]
    classifier_seeds: Sequence[int]
    wall_seconds: Mapping[str, float]
    galleries: Sequence[Gallery]
    curves: Sequence[Curve]
    classifiers: Sequence[ClassifierRow]
    sized: Sequence[ClassifierRow]
    contrasts: Sequence[ContrastRow]
    relevant_difference: float
    generators: Mapping[str, Mapping[int, Evaluation]]
    pairs: Sequence[WorstPairs]
    sizes: Sequence[ImageSizes]
    published: Mapping[str, Mapping[str, float]]
    provenance: Mapping[str, str]

    @property
    def test_patients(self) -> dict[str, int]:
        """Number of real test patients by class."""
        return {row.label: row.patients for row in self.splits if row.split == "test"}

    @property
    def seeds(self) -> list[int]:
        """Seeds of the trainings; some generators may have fewer."""
        return sorted({seed for seeds in self.generators.values() for seed in seeds})

    @property
    def trainings(self) -> tuple[int, int]:
        """Fewest and most trainings of a generator."""
        numbers = [len(seeds) for seeds in self.generators.values()]
        return min(numbers), max(numbers)

    @property
    def evaluations(self) -> list[tuple[str, int, Evaluation]]:
        """The generator's name, the seed and the evaluation of each synthetic set."""
        return [(name, s, e) for name, seeds in self.generators.items() for s, e in seeds.items()]

    @property
    def features(self) -> tuple[str, str]:
        """The features of whole radiographs and of patches, which are the same for all."""
        _, _, first = self.evaluations[0]
        return first.features, first.patch_features

    @property
    def floor(self) -> list[DistanceRow]:
        """Distances of real validation radiographs; sets of equal sizes have the same floor."""
        return _distinct(row for *_, e in self.evaluations for row in e.floor)

    def distances(self) -> list[tuple[str, DistanceRow]]:
        """Distances with their source, means over the seeds; the floor, named "", comes first."""
        rows = [(name, row) for name, _, e in self.evaluations for row in e.distances]
        return [("", row) for row in self.floor] + [
            (name, mean_row(of_seeds)) for name, of_seeds in _by_label(rows)
        ]

    def patches(self) -> list[tuple[str, Comparison]]:
        """Distances of patches with their source, likewise."""
        floor = _distinct(e.patch_floor for *_, e in self.evaluations if e.patch_floor)
        rows = {
            name: [e.patches for e in seeds.values() if e.patches]
            for name, seeds in self.generators.items()
        }
        return [("", row) for row in floor] + [
            (name, mean_row(of_seeds)) for name, of_seeds in rows.items() if of_seeds
        ]

    @property
    def power(self) -> dict[str, CopiesRow]:
        """The audit of each class that found the fewest planted copies of each change."""
        rows = [("", row) for *_, e in self.evaluations for row in e.copies]
        return {of_label[0].label: worst_row(of_label) for _, of_label in _by_label(rows)}

    def copies(self) -> list[tuple[str, CopiesRow]]:
        """Audits of all seeds together with their generator, see `worst_row`."""
        rows = [(name, row) for name, _, e in self.evaluations for row in e.copies]
        return [(name, worst_row(of_seeds)) for name, of_seeds in _by_label(rows)]


def _distinct(rows: Iterable[Any]) -> list[Any]:
    """The first row of each class and sizes."""
    keys = ("label", "n_real", "n_compared")
    distinct: dict[tuple[Any, ...], Any] = {}
    for row in rows:
        distinct.setdefault(tuple(getattr(row, key, "") for key in keys), row)
    return list(distinct.values())


def _by_label(rows: Iterable[tuple[str, Any]]) -> list[tuple[str, list[Any]]]:
    """Groups the rows by source and class."""
    groups: dict[tuple[str, str], list[Any]] = {}
    for source, row in rows:
        groups.setdefault((source, row.label), []).append(row)
    return [(source, of_label) for (source, _), of_label in groups.items()]


def mean_row(rows: Sequence[AnyComparison]) -> AnyComparison:
    """Means over seeds, also of the standard errors, since all have the same real radiographs.

    The p value is twice the mean, which is valid whatever the dependence (Vovk and Wang 2020,
    Biometrika 107:791).
    """
    names = [name for name, value in vars(rows[0]).items() if isinstance(value, float)]
    means: dict[str, Any] = {
        name: float(np.mean([getattr(row, name) for row in rows])) for name in names
    }
    if len(rows) > 1:
        means["kid_p"] = min(1.0, 2 * means["kid_p"])
    means["manifold"] = Manifold(
        *(float(m) for m in np.mean([dataclasses.astuple(row.manifold) for row in rows], axis=0))
    )
    descriptors = [row.descriptors for row in rows if isinstance(row, DistanceRow)]
    if descriptors:
        means["descriptors"] = {
            name: float(np.mean([values[name] for values in descriptors]))
            for name in descriptors[0]
        }
    return dataclasses.replace(rows[0], **means)


def worst_row(rows: Sequence[CopiesRow]) -> CopiesRow:
    """The most suspicious of each number over the audits of several seeds; copies are added up.

    The verdict is that of the most suspicious accused seed, or of the one with most copies.
    """
    worst = max(rows, key=lambda row: (row.is_accused, row.copies, row.flagged_share.value))
    return dataclasses.replace(
        worst,
        n=sum(row.n for row in rows),
        copies=sum(row.copies for row in rows),
        flagged_share=max((row.flagged_share for row in rows), key=lambda share: share.value),
        authentic_share=min(row.authentic_share for row in rows),
        membership_auc=max((row.membership_auc for row in rows), key=lambda auc: auc.value),
        membership_p=min(row.membership_p for row in rows),
        tpr_at_1_fpr=max(
            (row.tpr_at_1_fpr for row in rows if row.tpr_at_1_fpr),
            key=lambda rate: rate.value,
            default=None,
        ),
        found={change: min(row.found[change] for row in rows) for change in worst.found},
    )
