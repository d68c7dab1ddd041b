"""The results of a study's runs, gathered for its report."""

import dataclasses
import datetime
import itertools
import json
import platform
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from femur_jax import run_folder
from femur_jax.classifier.summary import PUBLISHED
from femur_jax.data.cohort import SPLITS
from femur_jax.data.radiograph import LABELS
from femur_jax.data.shards import RadiographDataset
from femur_jax.evaluation.calibration import ReliabilityBin
from femur_jax.evaluation.contrasts import adjusted, auc_difference
from femur_jax.evaluation.generators import Evaluation
from femur_jax.evaluation.operating_point import OperatingPoint
from femur_jax.evaluation.radiograph_set import RadiographSet, of_split
from femur_jax.evaluation.statistics import (
    GroupRow,
    Interval,
    PatientScores,
    patient_scores,
    seed_spread,
)
from femur_jax.stages.evaluate import EVALUATION
from femur_jax.study.grid import AXES, REAL_DATA, Arm, Cell, Grid, Mixture
from femur_jax.study.report import contents
from femur_jax.training.monitor import read_scalars

SHOWN = {
    "gan": "GAN",
    "patch_diffusion": "random patches",
    "joint": "one model",
    "per_class": "model per class",
}
"""The report's words for names of the config files."""

_SHOWN_PER_CLASS = 6
_PAIRS = 4
_LOSSES = ("loss", "discriminator_loss", "generator_loss")


def in_words(*names: str) -> str:
    """Values of the grid's axes in the report's words."""
    return ", ".join(SHOWN.get(name, name) for name in names)


def _title(arm: Arm) -> str:
    return in_words(arm.model, arm.strategy, arm.classes)


def gather(grid: Grid, finished: Mapping[str, float]) -> contents.StudyResults:
    """Results of a finished study.

    Args:
        grid: Grid of the study's runs.
        finished: Wall seconds by stage.
    """
    config, first = grid.config, grid.config.seeds[0]
    real = RadiographDataset(grid.real)
    cells = {
        cell: [RadiographDataset(grid.synthetic(run)) for run in cell.runs] for cell in grid.cells
    }
    shown = {REAL_DATA: of_split([real], "train")} | {
        _title(cell.arm): of_split(datasets, "train")
        for cell, datasets in cells.items()
        if cell.seed == first
    }
    evaluations = {
        cell: Evaluation.from_json(json.loads(grid.evaluation_file(cell).read_text()))
        for cell in grid.cells
    }
    tested = {m: _tested(grid, m) for m in (*grid.mixtures, *grid.sized)}
    rows = _classifiers(grid, cells, [real], tested)
    compared = len(grid.mixtures)
    classifiers, contrasts = corrected(rows[:compared], _contrasts(grid, tested))
    sides = [max(entry.height, entry.width) for entry in real.entries]
    return contents.StudyResults(
        title="Synthetic radiographs of femur fractures",
        simulated=not config.radiographs,
        resolution=(
            f"radiographs with a long side of {min(sides)} to {max(sides)} pixels, "
            f"patches of {real.patch}, GAN at {config.gan.model.size}, classifier at "
            + ", ".join(f"{height} x {width}" for height, width in config.classifier.data.shapes)
        ),
        splits=_splits(real),
        training_steps={
            in_words(name): config[name].train.steps
            for name in (*dict.fromkeys(arm.model for arm in grid.arms), "classifier")
        },
        classifier_seeds=tuple(config.classifier_seeds),
        wall_seconds=_wall_seconds(finished),
        galleries=[
            contents.Gallery(source, label, _read(images.of(label), _SHOWN_PER_CLASS))
            for source, images in shown.items()
            for label in LABELS
        ],
        curves=_curves(grid, first),
        classifiers=classifiers,
        sized=rows[compared:],
        contrasts=contrasts,
        relevant_difference=config.relevant_difference,
        generators={
            _title(arm): {seed: evaluations[Cell(arm, seed)] for seed in grid.seeds(arm)}
            for arm in grid.arms
        },
        pairs=[
            _worst_pairs(arm, label, real, cells, evaluations)
            for arm in grid.arms
            for label in LABELS
        ],
        sizes=[_sizes(name, label, r.of(label)) for name, r in shown.items() for label in LABELS],
        published=PUBLISHED,
        provenance={
            "config": run_folder.config_hash(config, without=("radiographs", "labels")),
            "seeds": ", ".join(map(str, (*config.seeds, *config.primary_seeds))),
            "classifier seeds": ", ".join(map(str, config.classifier_seeds)),
            "date": datetime.date.today().isoformat(),
            "machine": f"{platform.machine()}, Python {platform.python_version()}",
            **{name: version(name) for name in ("jax", "flax", "optax", "numpy")},
        },
    )


Tested = Sequence[Sequence[Mapping[str, Any]]]
"""Evaluations of a mixture's classifiers, by the set of radiographs, see `Grid.classifiers`."""


def _tested(grid: Grid, mixture: Mixture) -> Tested:
    return [
        [json.loads((grid.classifier_folder(c) / EVALUATION).read_text()) for c in of_set]
        for of_set in grid.classifiers(mixture)
    ]


def _wall_seconds(finished: Mapping[str, float]) -> dict[str, float]:
    """Seconds by the first word of the stages' names, which counts the stages if several."""
    kinds: dict[str, list[float]] = {}
    for name, seconds in finished.items():
        kinds.setdefault(name.split()[0], []).append(seconds)
    return {
        kind + (f" ({len(seconds)} stages)" if len(seconds) > 1 else ""): sum(seconds)
        for kind, seconds in kinds.items()
    }


def _splits(real: RadiographDataset) -> list[contents.SplitSize]:
    radiographs = Counter((e.split, e.label) for e in real.entries)
    people = Counter(
        (split, label) for split, label, _ in {(e.split, e.label, e.patient) for e in real.entries}
    )
    return [
        contents.SplitSize(split, label, people[split, label], radiographs[split, label])
        for split in SPLITS
        for label in LABELS
    ]


def _read(radiographs: RadiographSet, most: int) -> list[contents.GreyImage]:
    return [dataset.read(n) for dataset, n in radiographs.members[:most]]


def _curves(grid: Grid, seed: int) -> list[contents.Curve]:
    """Losses of one seed's runs, and of the first classifiers of each set of radiographs alone."""
    runs: list[tuple[str, str, Path]] = [
        (
            in_words(run.arm.model),
            in_words(run.arm.strategy, run.label or "joint"),
            grid.folder(run),
        )
        for cell in grid.cells
        if cell.seed == seed
        for run in cell.runs
    ]
    runs += [
        (
            "classifier",
            _title(m.arm) if m.arm else REAL_DATA,
            grid.classifier_folder(grid.classifiers(m)[0][0]),
        )
        for m in grid.mixtures
        if not (m.real and m.arm) and not m.per_label
    ]
    curves = []
    for panel, name, folder in runs:
        for loss in _LOSSES:
            # Validations have their own lines, without the training loss.
            if lines := [line for line in read_scalars(folder) if loss in line]:
                suffix = "" if loss == "loss" else f", {loss.removesuffix('_loss')}"
                steps = np.array([line["step"] for line in lines])
                values = np.array([line[loss] for line in lines], float)
                curves.append(contents.Curve(name + suffix, panel, steps, values))
    return curves


def _classifiers(
    grid: Grid,
    cells: Mapping[Cell, Sequence[RadiographDataset]],
    real: Sequence[RadiographDataset],
    tested: Mapping[Mixture, Tested],
) -> list[contents.ClassifierRow]:
    of_real = _scores(tested[grid.mixtures[0]])

    def row(mixture: Mixture) -> contents.ClassifierRow:
        arm, source = mixture.arm, _title(mixture.arm) if mixture.arm else ""
        is_compared = mixture in grid.mixtures
        alone = arm if not mixture.real and not mixture.per_label else None
        matched = grid.matched(alone) if alone else None
        scores = _scores(tested[mixture])
        every = [evaluation for of_set in tested[mixture] for evaluation in of_set]
        first = every[0]
        synthetic = cells[Cell(arm, grid.config.seeds[0])] if arm else []
        n_synthetic = _count(synthetic, mixture.per_label)
        calibrations = [evaluation["calibration"] for evaluation in every]
        validated = [e["validation_auc"]["value"] for e in every if e["validation_auc"]]
        over_hospitals = [e["auc_over_hospitals"] for e in every if e["auc_over_hospitals"]]
        return contents.ClassifierRow(
            trained_on=_in_words(mixture),
            uses_real=mixture.real,
            source=source,
            per_label=mixture.per_label,
            is_pretrained=mixture.is_pretrained,
            is_validated_on_rest=mixture.is_validated_on_rest,
            n_train=n_synthetic
            + _count(real if mixture.real else [], 0 if arm else mixture.per_label),
            n_synthetic=n_synthetic,
            auc=seed_spread(scores),
            validation_auc=float(np.mean(validated)) if validated else None,
            operating=_operating_point([evaluation["operating_point"] for evaluation in every]),
            against_real=(
                auc_difference(scores, of_real, second_is_real=True)
                if arm and is_compared
                else None
            ),
            against_matched=(
                auc_difference(scores, _scores(tested[matched]), second_is_real=True)
                if matched
                else None
            ),
            matched=_in_words(matched) if matched else "",
            calibration_error=float(np.mean([c["error"] for c in calibrations])),
            chance_error=float(np.mean([c["chance_error"] for c in calibrations])),
            reliability=[ReliabilityBin(**fields) for fields in first["calibration"]["bins"]],
            groups=_groups([evaluation["by"] for evaluation in every]),
            over_hospitals=_mean(over_hospitals) if over_hospitals else None,
        )

    return [row(mixture) for mixture in tested]


def _in_words(mixture: Mixture) -> str:
    """The training data of a row; a number is that of each class."""
    if mixture.is_pretrained and mixture.arm:
        return f"{_title(mixture.arm)}, then {REAL_DATA}"
    sources = [REAL_DATA] * mixture.real + ([_title(mixture.arm)] if mixture.arm else [])
    return (
        " + ".join(sources)
        + (f", {mixture.per_label} a class" if mixture.per_label else "")
        + (", without validation patients" if mixture.is_validated_on_rest else "")
    )


def _count(datasets: Sequence[RadiographDataset], per_label: int) -> int:
    """Training radiographs of some datasets, at most so many of each class; 0 is all."""
    train = of_split(datasets, "train")
    counts = [len(train.of(label)) for label in LABELS]
    return sum(min(count, per_label) if per_label else count for count in counts)


def _groups(
    classifiers: Sequence[Mapping[str, Sequence[Mapping[str, Any]]]],
) -> dict[str, list[GroupRow]]:
    """Rows of the groups, with mean areas of the classifiers; mean ends are rather too wide.

    Hospitals are A, B, C in their order, which is the same for all.
    """

    def group_row(name: str, n: int) -> GroupRow:
        rows = [by[name][n] for by in classifiers]
        group = letters(n) if name == "hospital" else rows[0]["group"]
        auc = _mean([row["auc"] for row in rows]) if rows[0]["auc"] else None
        return GroupRow(**{**rows[0], "auc": auc, "group": group})

    return {
        name: [group_row(name, n) for n in range(len(rows))]
        for name, rows in classifiers[0].items()
    }


def _mean(intervals: Sequence[Mapping[str, float]]) -> Interval:
    """Means of the values and of the ends."""
    ends = ("value", "low", "high")
    return Interval(*(float(np.mean([interval[end] for interval in intervals])) for end in ends))


def letters(n: int) -> str:
    """A, B, ..., Z, AA, AB, ... for 0, 1, ...; names of hospitals on the page."""
    return (letters(n // 26 - 1) if n >= 26 else "") + chr(ord("A") + n % 26)


def _operating_point(classifiers: Sequence[Mapping[str, Any] | None]) -> OperatingPoint | None:
    """Mean rates of classifiers; the mean ends are too wide rather than too narrow."""
    points = [point for point in classifiers if point]
    if len(points) < len(classifiers):
        return None

    return OperatingPoint(
        sensitivity=_mean([point["sensitivity"] for point in points]),
        specificity=_mean([point["specificity"] for point in points]),
        allowed=points[0]["allowed"],
        validation_negatives=points[0]["validation_negatives"],
    )


def _scores(tested: Tested) -> list[list[PatientScores]]:
    return [
        [
            patient_scores(np.array(e["logit"]), np.array(e["positive"]), e["patient"])
            for e in of_set
        ]
        for of_set in tested
    ]


def _contrast(
    grid: Grid, tested: Mapping[Mixture, Tested], one: Arm, other: Arm
) -> contents.ContrastRow:
    """The comparison of two arms, by classifiers trained on synthetic radiographs only."""
    axes = _axes(one, other)
    of_one, of_other = (_scores(tested[Mixture(False, arm)]) for arm in (one, other))
    return contents.ContrastRow(
        axis=axes[0] if len(axes) == 1 else "",
        where=in_words(*(getattr(one, axis) for axis in AXES if axis not in axes)),
        first=in_words(*(getattr(one, axis) for axis in axes)),
        second=in_words(*(getattr(other, axis) for axis in axes)),
        is_primary={one, other} == set(grid.primary or ()),
        auc=auc_difference(of_one, of_other),
    )


def _contrasts(grid: Grid, tested: Mapping[Mixture, Tested]) -> list[contents.ContrastRow]:
    """The primary comparison, and all pairs of arms that differ in exactly one axis."""
    pairs = [
        (one, other)
        for one, other in itertools.combinations(grid.arms, 2)
        if len(_axes(one, other)) == 1 and {one, other} != set(grid.primary or ())
    ]
    if grid.primary:
        pairs.insert(0, grid.primary)
    return [_contrast(grid, tested, one, other) for one, other in pairs]


def _axes(one: Arm, other: Arm) -> list[str]:
    """The axes along which two arms differ."""
    return [axis for axis in AXES if getattr(one, axis) != getattr(other, axis)]


def corrected(
    classifiers: Sequence[contents.ClassifierRow], contrasts: Sequence[contents.ContrastRow]
) -> tuple[list[contents.ClassifierRow], list[contents.ContrastRow]]:
    """The same rows with Holm's correction over all comparisons except the primary one."""
    fields = ("against_real", "against_matched")
    compared = [(n, f) for n, row in enumerate(classifiers) for f in fields if getattr(row, f)]
    others = [n for n, row in enumerate(contrasts) if not row.is_primary]
    family = [getattr(classifiers[n], f) for n, f in compared] + [contrasts[n].auc for n in others]
    results = iter(adjusted(family))
    rows, differences = list(classifiers), list(contrasts)
    for n, f in compared:
        rows[n] = dataclasses.replace(rows[n], **{f: next(results)})
    for n in others:
        differences[n] = dataclasses.replace(differences[n], auc=next(results))
    return rows, differences


def _worst_pairs(
    arm: Arm,
    label: str,
    real: RadiographDataset,
    cells: Mapping[Cell, Sequence[RadiographDataset]],
    evaluations: Mapping[Cell, Evaluation],
) -> contents.WorstPairs:
    pairs = []
    for cell, datasets in cells.items():
        if cell.arm != arm:
            continue
        by_label = dict(zip((run.label for run in cell.runs), datasets, strict=True))
        for row in evaluations[cell].copies:
            if row.label == label:
                dataset = by_label.get(label) or by_label[""]
                pairs += [(pair, dataset) for pair in row.pairs]
    # Parts and whole radiographs have different limits, so flagged pairs come first.
    pairs.sort(key=lambda item: (not item[0].is_flagged, item[0].ratio))
    return contents.WorstPairs(
        source=_title(arm),
        label=label,
        pairs=[
            contents.NeighbourPair(
                dataset.read(pair.synthetic),
                real.read(pair.nearest),
                pair.ratio,
                is_flagged=pair.is_flagged,
            )
            for pair, dataset in pairs[:_PAIRS]
        ],
    )


def _sizes(name: str, label: str, radiographs: RadiographSet) -> contents.ImageSizes:
    entries = [dataset.entries[n] for dataset, n in radiographs.members]
    sizes = np.array([(e.height, e.width) for e in entries], int).reshape(-1, 2)
    return contents.ImageSizes(name, label, sizes[:, 0], sizes[:, 1])
