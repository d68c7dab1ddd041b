"""Quality of the small denoiser's radiographs, by tools that were not trained on them.

The tools are traced edges of the femur, and a classifier of real (simulated) patients.
"""

import numpy as np
from jaxtyping import Float
from ml_collections import ConfigDict

from benchmarks.datasets import simulated_dataset
from benchmarks.experiments.phantom_classifier import classifier_config
from benchmarks.machine import ROOT, cpu
from benchmarks.records import Goal, Result, measurement
from configs.patch_diffusion import get_config
from femur_jax.classifier.task import ClassifierTask, Predictions, predict
from femur_jax.data.radiograph import LABELS
from femur_jax.data.shards import RadiographDataset
from femur_jax.evaluation.descriptors import trace_shaft
from femur_jax.evaluation.statistics import Interval, patient_scores, roc_auc
from femur_jax.stages.sample import SYNTHETIC, sample
from femur_jax.stages.train import train
from femur_jax.training import loop

_FOLDER = ROOT / "runs" / "diffusion_quality"
_COHORT = {
    "patch": 32,
    "fractions": (0.0, 0.25),
    "patients": 900,
    "images": 2400,
    "hospitals": 24,
    "aff_fraction": 0.4,
    "long_side": (96, 128),
    "coarsest_mm": 0.7,  # so that images show 9 cm of the femur, and fractures are easy to see
    "seed": 5,
}
_SHAPES = ((128, 64), (112, 80))  # of the classifier
_BREAK = 4  # pixels that an edge moves within three rows


@measurement("x", Goal("<=", 1.0), timed=False)
def diffusion_breaks_over_real() -> Result:
    """Breaks of the femur's edges in synthetic radiographs, over those in real ones; an hour.

    The tiny denoiser is trained for longer on 2400 radiographs of 900 simulated patients, 96 to
    128 pixels long, in patches of 32. A break is a row where a traced edge moves by at least 4
    pixels within three rows; both classes have the same weight, since some fractures are breaks.
    The range is the 95% interval, by a bootstrap over radiographs. The details give how well a
    classifier of simulated patients separates the classes, in held-out patients and in synthetic
    radiographs. Trained models stay in runs/diffusion_quality and are used again.
    """
    dataset = cohort()
    task, ema = classifier(dataset)
    synthetic = samples(dataset)
    held_out = dataset.split("test")
    real = predict(task, ema, dataset, held_out)
    predicted = predict(task, ema, synthetic, synthetic.split("train"))
    shares = [breaks_by_class(dataset, held_out)]
    shares.append(breaks_by_class(synthetic, synthetic.split("train")))
    means = [_mean_of_classes(by_class) for by_class in shares]
    auc_real, auc_synthetic = _auc(real), _auc(predicted)
    trained = _diffusion(dataset).train
    return Result(
        value=means[1] / means[0],
        spread=_ratio_interval(shares[1], shares[0]),
        device=cpu(),
        details={
            **{
                f"rows with a break, {label}, {source}": f"{by_class[label].mean():.4f}"
                for source, by_class in zip(("held-out", "synthetic"), shares, strict=True)
                for label in LABELS
            },
            "AUC of the classifier on held-out patients": _interval(auc_real),
            "AUC of the same on synthetic radiographs": _interval(auc_synthetic),
            "synthetic radiographs": len(predicted.patients),
            "training": f"{trained.steps} steps of {trained.batch_size} patches",
        },
    )


def cohort() -> RadiographDataset:
    """The simulated patients."""
    return simulated_dataset(_FOLDER / "data", **_COHORT)


def classifier(dataset: RadiographDataset):
    """The classifier, trained on the training patients, and its averaged parameters."""
    config = classifier_config(dataset, shapes=_SHAPES, steps=1500, by="patient")
    task = ClassifierTask(config, [dataset])
    return task, loop.train(task, config, _FOLDER / "classifier").ema


def _diffusion(dataset: RadiographDataset) -> ConfigDict:
    config = get_config("tiny")
    config.dataset = str(dataset.folder)
    config.train.update(
        steps=6000, warmup_steps=200, checkpoint_every=500, log_every=50, images_every=2000
    )
    config.sample.update(per_label=150)
    return config


def samples(dataset: RadiographDataset) -> RadiographDataset:
    """Radiographs that a denoiser of the training patients generates."""
    folder, config = _FOLDER / "diffusion", _diffusion(dataset)
    if not (folder / SYNTHETIC).is_dir():
        train(config, folder)
        sample(config, folder)
    return RadiographDataset(folder / SYNTHETIC)


def breaks_by_class(
    dataset: RadiographDataset, radiographs: list[int]
) -> dict[str, Float[np.ndarray, "n"]]:
    """Share of rows with a break in each radiograph, by class, since a fracture may be a break."""
    return {
        label: np.array(
            [
                trace_shaft(dataset.read(n)).breaks(_BREAK)
                for n in radiographs
                if dataset.entries[n].label == label
            ]
        )
        for label in LABELS
    }


def _mean_of_classes(by_class: dict[str, Float[np.ndarray, "n"]]) -> float:
    return float(np.mean([shares.mean() for shares in by_class.values()]))


def _ratio_interval(
    above: dict[str, Float[np.ndarray, "n"]], below: dict[str, Float[np.ndarray, "n"]]
) -> tuple[float, float]:
    """The 95% interval of a ratio, by a bootstrap of the radiographs of each class."""
    rng = np.random.default_rng(0)

    def resampled(by_class: dict[str, Float[np.ndarray, "n"]]) -> Float[np.ndarray, "draws"]:
        means = [rng.choice(x, (10_000, len(x))).mean(axis=1) for x in by_class.values()]
        return np.mean(means, axis=0)

    low, high = np.percentile(resampled(above) / resampled(below), [2.5, 97.5])
    return float(low), float(high)


def _auc(predictions: Predictions) -> Interval:
    return roc_auc(patient_scores(predictions.logit, predictions.positive, predictions.patients))


def _interval(auc: Interval) -> str:
    return f"{auc.value:.3f} [{auc.low:.3f}, {auc.high:.3f}]"
