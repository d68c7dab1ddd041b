"""What the runs of a study found, gathered for its report."""

import datetime
import json
import platform
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
from jaxtyping import Float

from femur_jax import stages
from femur_jax import workdir as workdirs
from femur_jax.config import Config
from femur_jax.data.cohort import SPLITS
from femur_jax.data.radiograph import LABELS
from femur_jax.data.shards import RadiographDataset
from femur_jax.evaluation import report
from femur_jax.evaluation.classification import ClassifierTask, predict
from femur_jax.evaluation.correlation import most_correlated
from femur_jax.evaluation.descriptors import DESCRIPTORS, describe, descriptor_distance
from femur_jax.evaluation.distances import (
    frechet_distance,
    frechet_distance_infinity,
    kernel_distance,
)
from femur_jax.evaluation.features import network, radiograph_features, thumbnails
from femur_jax.evaluation.manifold import Manifold, manifold
from femur_jax.evaluation.memorization import audit, membership_inference, verdict
from femur_jax.evaluation.statistics import Interval, auc_contrast, patient_scores
from femur_jax.evaluation.summary import PUBLISHED
from femur_jax.training import loop
from femur_jax.training.monitor import read_scalars

SHOWN = {"real": "real", "diffusion": "diffusion", "gan": "GAN"}
"""How the report calls a source of radiographs."""

_SHOWN_PER_CLASS = 6
_PAIRS = 4
_MANIFOLD_NEIGHBOURS = 5
_DESCRIBED = 200
_FEWEST = 10  # radiographs in a set of which distances are told: FID's extrapolation takes a fifth
_LABEL_SETS = {"both": LABELS, **{label: (label,) for label in LABELS}}
_LOSSES = {"diffusion": ("loss",), "gan": ("discriminator_loss", "generator_loss")}


def gather(
    *,
    datasets: Mapping[str, RadiographDataset],
    runs: Mapping[str, tuple[Config, Path]],
    classifiers: Mapping[tuple[str, ...], tuple[Config, Path]],
    finished: Mapping[str, float],
    config: Config,
) -> report.StudyResults:
    """Reads a finished study.

    Args:
        datasets: By source: real, and each generator's.
        runs: Config and workdir of each generator.
        classifiers: Config and workdir by the sources that were trained on.
        finished: Wall seconds by stage.
        config: Of the study.
    """
    real = datasets["real"]
    synthetic = {name: dataset for name, dataset in datasets.items() if name != "real"}
    all_runs = dict(runs) | {"classifier: " + " + ".join(m): run for m, run in classifiers.items()}
    sides = [max(entry.height, entry.width) for entry in real.entries]
    return report.StudyResults(
        title="Synthetic radiographs of femur fractures",
        simulated=not config.radiographs,
        resolution=(
            f"radiographs with a long side of {min(sides)} to {max(sides)} pixels, "
            f"patches of {real.patch}, GAN at {config.gan.model.size}, classifier at "
            + ", ".join(f"{height} x {width}" for height, width in config.classifier.data.shapes)
        ),
        splits=_splits(real),
        training_steps={name: run[0].train.steps for name, run in all_runs.items()},
        wall_seconds=finished,
        galleries=[
            gallery for name, dataset in datasets.items() for gallery in _galleries(name, dataset)
        ],
        curves=[curve for name, (_, folder) in all_runs.items() for curve in _curves(name, folder)],
        classifiers=[
            _classifier_row(mixture, datasets, folder, classifiers[("real",)][1])
            for mixture, (_, folder) in classifiers.items()
        ],
        feature_extractor="Inception-v3, trained on ImageNet"
        if config.inception
        else "the last layer of the classifier trained on the real train split",
        distances=_distances(real, synthetic, _extractor(config, *classifiers[("real",)])),
        descriptors=_descriptors(real, synthetic),
        published={name: marks["auc"] for name, marks in PUBLISHED.items()},
        neighbours=[n for name, d in synthetic.items() for n in _neighbours(real, name, d)],
        sizes=[size for name, dataset in datasets.items() for size in _sizes(name, dataset)],
        provenance={
            "config": workdirs.config_hash(config),
            "seed": str(config.seed),
            "date": datetime.date.today().isoformat(),
            "machine": f"{platform.machine()}, Python {platform.python_version()}",
            **{name: version(name) for name in ("jax", "flax", "optax", "numpy")},
        },
    )


def _splits(real: RadiographDataset) -> list[report.SplitSize]:
    radiographs = Counter((e.split, e.label) for e in real.entries)
    people = Counter(
        (split, label) for split, label, _ in {(e.split, e.label, e.patient) for e in real.entries}
    )
    return [
        report.SplitSize(split, label, people[split, label], radiographs[split, label])
        for split in SPLITS
        for label in LABELS
    ]


def _of_labels(dataset: RadiographDataset, split: str, labels: Sequence[str]) -> list[int]:
    return [n for n in dataset.split(split) if dataset.entries[n].label in labels]


def _galleries(name: str, dataset: RadiographDataset) -> list[report.Gallery]:
    return [
        report.Gallery(
            SHOWN[name],
            label,
            [dataset.read(n) for n in _of_labels(dataset, "train", [label])[:_SHOWN_PER_CLASS]],
        )
        for label in LABELS
    ]


def _curves(name: str, folder: Path) -> list[report.Curve]:
    lines = read_scalars(folder)
    return [
        report.Curve(
            f"{name}, {loss.replace('_', ' ')}" if loss != "loss" else name,
            np.array([line["step"] for line in lines]),
            np.array([line[loss] for line in lines], float),
            "loss",
        )
        for loss in _LOSSES.get(name, ("loss",))
    ]


def _classifier_row(
    mixture: Sequence[str],
    datasets: Mapping[str, RadiographDataset],
    folder: Path,
    real_folder: Path,
) -> report.ClassifierRow:
    found, real = (
        json.loads((path / stages.EVALUATION).read_text()) for path in (folder, real_folder)
    )
    patients = [
        patient_scores(np.array(e["logit"]), np.array(e["positive"]), e["patient"])
        for e in (found, real)
    ]
    return report.ClassifierRow(
        trained_on=" + ".join(SHOWN[name] for name in mixture),
        n_train=sum(len(datasets[name].split("train")) for name in mixture),
        auc=Interval(**found["auc"]),
        sensitivity=Interval(**found["sensitivity_at_95_specificity"]),
        n_test_patients=found["patients"],
        against_real=auc_contrast(patients, [1.0, -1.0]) if folder != real_folder else None,
        calibration_error=found["calibration"]["error"],
        chance_error=found["calibration"]["chance_error"],
    )


Extractor = Callable[[RadiographDataset, Sequence[int]], np.ndarray]
"""Dataset and positions in it to features, (n, dim)."""


def _extractor(study: Config, config: Config, folder: Path) -> Extractor:
    """Inception where its weights are given, else the classifier that was trained on real ones."""
    if study.inception:
        return partial(radiograph_features, network(Path(study.inception)))
    task = stages.make_task(config)
    assert isinstance(task, ClassifierTask)
    params = loop.restore(task, config, folder).ema
    return lambda dataset, radiographs: predict(task, params, dataset, radiographs).features


def _distances(
    real: RadiographDataset, synthetic: Mapping[str, RadiographDataset], extract: Extractor
) -> list[report.DistanceRow]:
    """Distances to the real test split, which neither generators nor features have seen.

    The floor is the validation split's: real radiographs of other patients, unseen as well.
    Sets of fewer than ten radiographs have no row: they must not cost a whole study its report.
    """
    compared = {"real": (real, "validation")} | {n: (d, "train") for n, d in synthetic.items()}
    rows = []
    for shown, labels in _LABEL_SETS.items():
        reference = extract(real, _of_labels(real, "test", labels))
        for name, (dataset, split) in compared.items():
            features = extract(dataset, _of_labels(dataset, split, labels))
            if min(len(reference), len(features)) < _FEWEST:
                continue
            kid = kernel_distance(reference, features)
            rows.append(
                report.DistanceRow(
                    source=SHOWN[name],
                    label=shown,
                    n_real=len(reference),
                    n_compared=len(features),
                    kid=kid.value,
                    kid_error=kid.standard_error,
                    fid=frechet_distance(reference, features),
                    fid_infinity=frechet_distance_infinity(reference, features),
                    manifold=_manifold(reference, features),
                    floor=name == "real",
                )
            )
    return rows


def _manifold(
    real: Float[np.ndarray, "real dim"], compared: Float[np.ndarray, "compared dim"]
) -> Manifold | None:
    enough = min(len(real), len(compared)) > _MANIFOLD_NEIGHBOURS
    return manifold(real, compared, _MANIFOLD_NEIGHBOURS) if enough else None


def _descriptors(
    real: RadiographDataset, synthetic: Mapping[str, RadiographDataset]
) -> list[report.DescriptorRow]:
    """Distances to the real test split by class, of at most 200 radiographs of each set."""

    def some(dataset: RadiographDataset, split: str, label: str) -> list[int]:
        found = _of_labels(dataset, split, [label])
        return found[:: -(-len(found) // _DESCRIBED) or 1]

    compared = {"real": (real, "validation")} | {n: (d, "train") for n, d in synthetic.items()}
    rows = []
    for label in LABELS:
        test = some(real, "test", label)
        if len(test) < 2:
            continue
        reference = {name: describe(f, real, test) for name, f in DESCRIPTORS.items()}
        for source, (dataset, split) in compared.items():
            chosen = some(dataset, split, label)
            if chosen:
                found = {
                    name: descriptor_distance(reference[name], describe(f, dataset, chosen))
                    for name, f in DESCRIPTORS.items()
                }
                rows.append(report.DescriptorRow(SHOWN[source], label, found, source == "real"))
    return rows


def _neighbours(
    real: RadiographDataset, name: str, dataset: RadiographDataset
) -> list[report.Neighbours]:
    result = []
    for label in LABELS:
        train = _of_labels(real, "train", [label])
        held_out = _of_labels(real, "validation", [label]) + _of_labels(real, "test", [label])
        made = _of_labels(dataset, "train", [label])
        pictures = thumbnails(dataset, made), thumbnails(real, train), thumbnails(real, held_out)
        found = audit(*pictures, most_correlated)
        patients = ([real.entries[n].patient for n in split] for split in (train, held_out))
        attack = membership_inference(*pictures, *patients, search=most_correlated)
        result.append(
            report.Neighbours(
                source=SHOWN[name],
                label=label,
                n=len(made),
                pairs=[
                    report.NeighbourPair(
                        dataset.read(made[n]),
                        real.read(train[found.index[n]]),
                        float(found.ratio[n]),
                    )
                    for n in np.argsort(found.ratio)[:_PAIRS]
                ],
                threshold=found.threshold,
                flagged_share=found.flagged_share,
                chance_share=found.chance_share,
                copies=int(found.copies.sum()),
                authentic_share=float(found.authentic.mean()),
                membership_auc=attack.auc,
                verdict=verdict({"correlation": found}).sentence,
            )
        )
    return result


def _sizes(name: str, dataset: RadiographDataset) -> list[report.ImageSizes]:
    result = []
    for label in LABELS:
        entries = [dataset.entries[n] for n in _of_labels(dataset, "train", [label])]
        sizes = np.array([(e.height, e.width) for e in entries], int)
        result.append(report.ImageSizes(SHOWN[name], label, sizes[:, 0], sizes[:, 1]))
    return result
