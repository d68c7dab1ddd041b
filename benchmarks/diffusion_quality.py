"""What the small denoiser learns of simulated radiographs, judged by tools that were not trained
on its images: traced edges, and a classifier of real (simulated) patients."""

import runpy
from pathlib import Path

import numpy as np
from jaxtyping import Float
from ml_collections import ConfigDict

from benchmarks.cohorts import simulated_dataset
from benchmarks.machine import cpu
from benchmarks.measurements import Found
from benchmarks.phantom_classifier import classifier_config
from femur_jax.classifier.task import ClassifierTask, Predictions, predict
from femur_jax.data.radiograph import LABELS
from femur_jax.data.shards import RadiographDataset
from femur_jax.evaluation.shaft import trace_shaft
from femur_jax.evaluation.statistics import patient_scores, roc_auc
from femur_jax.stages.sample import SYNTHETIC, sample
from femur_jax.stages.train import train
from femur_jax.training import loop

_ROOT = Path(__file__).parents[1]
_FOLDER = _ROOT / "runs" / "diffusion_quality"
_COHORT = {
    "patch": 32,
    "fractions": (0.0, 0.25),
    "patients": 900,
    "images": 2400,
    "hospitals": 24,
    "aff_fraction": 0.4,
    "long_side": (96, 128),
    "coarsest_mm": 0.7,  # so that images show 9 cm of the femur, and fractures are plain to see
    "seed": 5,
}
_JUDGE_SHAPES, _JUDGE_STEPS = ((128, 64), (112, 80)), 1500
_BREAK = 4  # pixels that an edge moves within three rows


def quality() -> Found:
    """Breaks of the femur's edges in synthetic radiographs, over those in real ones.

    What was trained before stays in runs/diffusion_quality and is not trained again.
    """
    dataset = cohort()
    task, ema = classifier(dataset)
    synthetic = samples(dataset)
    held_out = dataset.split("test")
    real = predict(task, ema, dataset, held_out)
    made = predict(task, ema, synthetic, synthetic.split("train"))
    shares = [breaks_by_class(dataset, held_out)]
    shares.append(breaks_by_class(synthetic, synthetic.split("train")))
    means = [_mean_of_classes(by_class) for by_class in shares]
    auc_real, auc_made = _auc(real), _auc(made)
    trained = _diffusion(dataset).train
    return Found(
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
            "AUC of the same on synthetic radiographs": _interval(auc_made),
            "synthetic radiographs": len(made.patients),
            "training": f"{trained.steps} steps of {trained.batch_size} patches",
        },
    )


def cohort() -> RadiographDataset:
    """The simulated patients."""
    return simulated_dataset(_FOLDER / "data", **_COHORT)


def classifier(dataset: RadiographDataset):
    """The judge, trained on the training patients."""
    config = classifier_config(dataset, shapes=_JUDGE_SHAPES, steps=_JUDGE_STEPS, by="patient")
    task = ClassifierTask(config, [dataset])
    return task, loop.train(task, config, _FOLDER / "classifier").ema


def _diffusion(dataset: RadiographDataset) -> ConfigDict:
    config = runpy.run_path(str(_ROOT / "configs" / "patch_diffusion.py"))["get_config"]("tiny")
    config.dataset = str(dataset.folder)
    config.train.update(
        steps=6000, warmup_steps=200, checkpoint_every=500, log_every=50, images_every=2000
    )
    config.sample.update(per_label=150)
    return config


def samples(dataset: RadiographDataset) -> RadiographDataset:
    """Radiographs by a denoiser of the training patients."""
    folder, config = _FOLDER / "diffusion", _diffusion(dataset)
    if not (folder / SYNTHETIC).is_dir():
        train(config, folder)
        sample(config, folder)
    return RadiographDataset(folder / SYNTHETIC)


def breaks_by_class(
    dataset: RadiographDataset, radiographs: list[int]
) -> dict[str, Float[np.ndarray, "n"]]:
    """Share of rows with a break of each radiograph, by class: a fracture may be one."""
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
    """95% interval, by a bootstrap of the radiographs of each class."""
    rng = np.random.default_rng(0)

    def resampled(by_class: dict[str, Float[np.ndarray, "n"]]) -> Float[np.ndarray, "draws"]:
        means = [rng.choice(x, (10_000, len(x))).mean(axis=1) for x in by_class.values()]
        return np.mean(means, axis=0)

    low, high = np.percentile(resampled(above) / resampled(below), [2.5, 97.5])
    return float(low), float(high)


def _auc(found: Predictions):
    return roc_auc(patient_scores(found.logit, found.positive, found.patients))


def _interval(found) -> str:
    return f"{found.value:.3f} [{found.low:.3f}, {found.high:.3f}]"
