"""Whether the metrics rank sets that are known to be worse behind better ones.

Training radiographs of simulated patients take the place of generated ones: as they are, and
degraded in ways whose order is known.
"""

import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt16
from scipy.ndimage import gaussian_filter

from benchmarks.experiments.gan_quality import simulated
from benchmarks.machine import cpu
from benchmarks.records import Goal, Result, measurement
from configs.classifier import get_config
from femur_jax.data.radiograph import Radiograph
from femur_jax.data.records import RadiographEntry, encode
from femur_jax.data.shards import DatasetWriter, RadiographDataset
from femur_jax.evaluation.distances import frechet_distance
from femur_jax.evaluation.features import Extractor, patch_features, pixels, radiograph_features
from femur_jax.evaluation.kernels import kernel_distance
from femur_jax.stages.evaluate import EVALUATION, evaluate
from femur_jax.stages.train import train

_STEPS = 400
_LAYOUT = ("NHWC", "HWIO", "NHWC")

Image = UInt16[np.ndarray, "_height _width"]


def random_network() -> Extractor:
    """Means over a patch of three layers of random convolutions, which respond to fine detail."""
    rng = np.random.default_rng(0)
    kernels = [rng.normal(size=(3, 3, c, 16)) * np.sqrt(2 / (9 * c)) for c in (1, 16, 16)]

    def extract(images: Float[Array, "n side side"]) -> Float[Array, "n dim"]:
        spread = images.std(axis=(1, 2), keepdims=True) + 1e-3
        x, means = ((images - images.mean(axis=(1, 2), keepdims=True)) / spread)[..., None], []
        for kernel in kernels:
            x = jax.lax.conv_general_dilated(
                x, jnp.asarray(kernel, x.dtype), (1, 1), "SAME", dimension_numbers=_LAYOUT
            )
            x = jax.nn.relu(x)
            means.append(x.mean(axis=(1, 2)))
            x = x.reshape(len(x), x.shape[1] // 2, 2, x.shape[2] // 2, 2, -1).mean(axis=(2, 4))
        return jnp.concatenate(means, axis=-1)

    return Extractor("random network", 48, extract)


def blurred(sigma: float) -> Callable[[Image, int], Image]:
    """Gaussian blur with a sigma in pixels."""
    return lambda image, _: _grey(gaussian_filter(image.astype(float), sigma))


def noisy(amount: float) -> Callable[[Image, int], Image]:
    """White noise with a standard deviation as a share of the grey scale."""

    def add(image: Image, seed: int) -> Image:
        rng = np.random.default_rng(seed)
        return _grey(image + amount * 65535 * rng.normal(size=image.shape))

    return add


PIXELS: dict[str, tuple[Callable[[Image, int], Image], ...]] = {
    "blur": (blurred(2.5), blurred(6.0)),
    "noise": (noisy(0.05), noisy(0.2)),
}
"""A little and much of each degradation."""


def dropped_modes(entries: Sequence[RadiographEntry], chosen: Sequence[int]) -> list[int]:
    """Radiographs of one hospital in four, repeated to the same number."""
    hospitals = sorted({entries[n].hospital for n in chosen})
    kept = set(hospitals[: max(1, len(hospitals) // 4)])
    return _repeated([n for n in chosen if entries[n].hospital in kept], len(chosen))


def wrong_balance(entries: Sequence[RadiographEntry], chosen: Sequence[int]) -> list[int]:
    """One AFF in twenty radiographs; repeated NFF replace the others."""
    aff, nff = ([n for n in chosen if entries[n].label == la] for la in ("AFF", "NFF"))
    few = aff[: max(1, len(chosen) // 20)]
    return few + _repeated(nff, len(chosen) - len(few))


def copied(entries: Sequence[RadiographEntry], chosen: Sequence[int]) -> list[int]:
    """Six radiographs of each class, repeated to the same number."""
    some = [[n for n in chosen if entries[n].label == la][:6] for la in ("AFF", "NFF")]
    return _repeated(some[0] + some[1], len(chosen))


CHOICES: dict[str, Callable[[Sequence[RadiographEntry], Sequence[int]], list[int]]] = {
    "dropped modes": dropped_modes,
    "wrong class balance": wrong_balance,
    "copied": copied,
}


def features_for(kind: str) -> Extractor:
    """Pixels show changes in the choice of radiographs, the random network blur and noise."""
    return pixels(12) if kind in CHOICES else random_network()


@measurement("pairs", Goal("<=", 0.0), timed=False)
def degraded_sets() -> Result:
    """Pairs of sets that FID, KID or a classifier trained on them order wrongly; takes minutes.

    Some 500 radiographs of simulated patients are compared as they are, with a little and much
    blur, with a little and much noise, from one hospital in four alone, with one AFF in twenty, and
    with twelve of them repeated. Each degraded set must rank behind the unchanged one, and much
    degradation behind a little, in FID and KID of pixels against held-out patients and in the AUC
    of a tiny classifier trained on the set.
    """
    with tempfile.TemporaryDirectory() as folder:
        return _ranked(Path(folder))


def _ranked(folder: Path) -> Result:
    real = simulated(folder)
    train = real.split("train")
    sets: dict[str, tuple[list[int], Callable[[Image, int], Image] | None]] = {
        "as they are": (train, None)
    }
    for kind, (little, much) in PIXELS.items():
        sets |= {f"little {kind}": (train, little), f"much {kind}": (train, much)}
    sets |= {kind: (choose(real.entries, train), None) for kind, choose in CHOICES.items()}
    metrics = {}
    for name, (chosen, change) in sets.items():
        degraded = _written(folder / name.replace(" ", "_"), real, chosen, change)
        metrics[name] = {"TSTR AUC": _tstr(folder, real, degraded)}
        for extractor, features_of in (
            (pixels(12), radiograph_features),
            (random_network(), patch_features),
        ):
            reference, features = (
                features_of(extractor, dataset, dataset.split(split))
                for dataset, split in ((real, "test"), (degraded, "train"))
            )
            metrics[name] |= {
                f"FID, {extractor.name}": frechet_distance(reference, features),
                f"KID, {extractor.name}": kernel_distance(reference, features).value,
            }
    pairs = [("as they are", name, name) for name in CHOICES]
    for kind in PIXELS:
        pairs += [
            ("as they are", f"little {kind}", kind),
            (f"little {kind}", f"much {kind}", kind),
        ]
    wrong = []
    for better, worse, kind in pairs:
        features = features_for(kind).name
        for metric, sign in ((f"FID, {features}", 1), (f"KID, {features}", 1), ("TSTR AUC", -1)):
            if sign * (metrics[worse][metric] - metrics[better][metric]) <= 0:
                wrong.append(f"{metric}: {worse} before {better}")
    return Result(
        value=len(wrong),
        device=cpu(),
        details={"pairs": 3 * len(pairs), "in the wrong order": wrong, "metrics": metrics},
    )


def _written(
    folder: Path,
    real: RadiographDataset,
    chosen: Sequence[int],
    change: Callable[[Image, int], Image] | None,
) -> RadiographDataset:
    """A dataset of the chosen radiographs after a change."""
    if not folder.exists():
        with DatasetWriter(folder, patch=real.patch, provenance={"kind": "degraded"}) as writer:
            for number, n in enumerate(chosen):
                entry, image = real.entries[n], real.read(n)
                radiograph = Radiograph(
                    pixels=change(image, number) if change else image,
                    name=str(number),
                    label=entry.label,
                    patient=str(number),
                    hospital="",
                    spacing_mm=entry.spacing_mm,
                    spacing_source=entry.spacing_source,
                )
                writer.add(encode(radiograph, real.patch), "train")
    return RadiographDataset(folder)


def _tstr(folder: Path, real: RadiographDataset, degraded: RadiographDataset) -> float:
    """AUC on real test patients of a classifier that is trained on a degraded set."""
    config = get_config("tiny")
    config.dataset, config.train_datasets = str(real.folder), (str(degraded.folder),)
    config.train.steps = _STEPS
    workdir = folder / f"{degraded.folder.name}_classifier"
    train(config, workdir)
    evaluate(config, workdir)
    return json.loads((workdir / EVALUATION).read_text())["auc"]["value"]


def _repeated(chosen: Sequence[int], count: int) -> list[int]:
    return [chosen[n % len(chosen)] for n in range(count)]


def _grey(image: np.ndarray) -> Image:
    return np.round(np.clip(image, 0, 65535)).astype(np.uint16)
