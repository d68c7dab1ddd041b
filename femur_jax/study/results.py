"""The results of a study's runs, gathered for its report."""

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
from femur_jax.evaluation.generators import Evaluation
from femur_jax.evaluation.radiograph_set import RadiographSet, of_split
from femur_jax.evaluation.statistics import (
    Contrast,
    GroupRow,
    Interval,
    PatientScores,
    auc_contrast,
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
    tested = {
        m: json.loads((grid.classifier_folder(m) / EVALUATION).read_text()) for m in grid.mixtures
    }
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
        seeds=tuple(config.seeds),
        wall_seconds=_wall_seconds(finished),
        galleries=[
            contents.Gallery(source, label, _read(images.of(label), _SHOWN_PER_CLASS))
            for source, images in shown.items()
            for label in LABELS
        ],
        curves=_curves(grid, first),
        classifiers=_classifiers(grid, cells, len(shown[REAL_DATA]), tested),
        contrasts=_contrasts(grid, tested),
        generators={
            _title(arm): {seed: evaluations[Cell(arm, seed)] for seed in config.seeds}
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
            "seeds": ", ".join(map(str, config.seeds)),
            "date": datetime.date.today().isoformat(),
            "machine": f"{platform.machine()}, Python {platform.python_version()}",
            **{name: version(name) for name in ("jax", "flax", "optax", "numpy")},
        },
    )


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
    """Losses of one seed's runs; of classifiers, only those trained on one set of radiographs."""
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
        ("classifier", _title(m.arm) if m.arm else REAL_DATA, grid.classifier_folder(m))
        for m in grid.mixtures
        if m.seed == seed and not (m.real and m.arm)
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


def _scores(evaluation: Mapping[str, Any]) -> PatientScores:
    logit, positive = np.array(evaluation["logit"]), np.array(evaluation["positive"])
    return patient_scores(logit, positive, evaluation["patient"])


def _classifiers(
    grid: Grid,
    cells: Mapping[Cell, Sequence[RadiographDataset]],
    n_real: int,
    tested: Mapping[Mixture, Mapping[str, Any]],
) -> list[contents.ClassifierRow]:
    def row(real: bool, arm: Arm | None) -> contents.ClassifierRow:
        of_real, of_row = (
            [tested[Mixture(*mixture, seed)] for seed in grid.config.seeds]
            for mixture in ((True, None), (real, arm))
        )
        first = of_row[0]
        synthetic = cells[Cell(arm, grid.config.seeds[0])] if arm else []
        calibrations = [evaluation["calibration"] for evaluation in of_row]
        return contents.ClassifierRow(
            trained_on=" + ".join([REAL_DATA] * real + ([_title(arm)] if arm else [])),
            is_synthetic=not real,
            n_train=n_real * real + len(of_split(synthetic, "train")),
            auc=seed_spread([_scores(evaluation) for evaluation in of_row]),
            sensitivity=Interval(
                *(
                    float(np.mean([e["sensitivity_at_95_specificity"][end] for e in of_row]))
                    for end in ("value", "low", "high")
                )
            ),
            against_real=_difference(of_row, of_real) if arm else None,
            calibration_error=float(np.mean([c["error"] for c in calibrations])),
            chance_error=float(np.mean([c["chance_error"] for c in calibrations])),
            reliability=[ReliabilityBin(**fields) for fields in first["calibration"]["bins"]],
            groups={
                name: [
                    GroupRow(**r | {"auc": Interval(**r["auc"]) if r["auc"] else None})
                    for r in rows
                ]
                for name, rows in first["by"].items()
            },
        )

    return [row(m.real, m.arm) for m in grid.mixtures if m.seed == grid.config.seeds[0]]


def _difference(
    first: Sequence[Mapping[str, Any]], second: Sequence[Mapping[str, Any]]
) -> Contrast:
    """Mean AUC over the first classifiers less that over the second, on the same patients."""
    weights = [1 / len(first)] * len(first) + [-1 / len(second)] * len(second)
    return auc_contrast([_scores(evaluation) for evaluation in (*first, *second)], weights)


def _contrasts(
    grid: Grid, tested: Mapping[Mixture, Mapping[str, Any]]
) -> list[contents.ContrastRow]:
    """All pairs of arms that differ in exactly one axis."""
    rows = []
    for one, other in itertools.combinations(grid.arms, 2):
        axes = [axis for axis in AXES if getattr(one, axis) != getattr(other, axis)]
        if len(axes) != 1:
            continue
        of_one, of_other = (
            [tested[Mixture(False, arm, seed)] for seed in grid.config.seeds]
            for arm in (one, other)
        )
        rows.append(
            contents.ContrastRow(
                axis=axes[0],
                where=in_words(*(getattr(one, axis) for axis in AXES if axis != axes[0])),
                first=in_words(getattr(one, axes[0])),
                second=in_words(getattr(other, axes[0])),
                auc=_difference(of_one, of_other),
            )
        )
    return rows


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
    # Crops and whole radiographs have different limits, so flagged pairs come first.
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
