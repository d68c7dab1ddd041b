"""The denoiser that comes with the package, and radiographs that it generates.

It was trained on simulated patients alone; tools/pack_example.py makes its folder of a run.

MODEL/
  model.json      fields of its run's config, and what `Facts` holds
  weights.npz     moving average of the parameters by path, in float16
  MODEL_CARD.md
  SHA256SUMS
"""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, UInt16

from configs import patch_diffusion
from femur_jax.data.radiograph import LABELS
from femur_jax.data.synthetic import Request
from femur_jax.diffusion.denoiser import Denoiser
from femur_jax.errors import UserError
from femur_jax.files import verify_checksums
from femur_jax.run_folder import with_tuples
from femur_jax.training.state import TrainState
from femur_jax.training.transfer import transfer
from femur_jax.training.trees import nested

MODEL = Path(__file__).with_name("model")
FACTS, WEIGHTS = "model.json", "weights.npz"


@dataclass(frozen=True)
class Facts:
    """What the shipped denoiser needs of its training radiographs.

    Attributes:
        patch: Side of a patch in pixels.
        levels: Number of levels.
        pixels: Smallest and largest number of pixels of a radiograph.
        aspects: Smallest and largest height over width.
        spacing: Intercept and slope of the line that gives the logarithm of a pixel's side in mm,
            by the logarithm of the number of pixels.
    """

    patch: int
    levels: int
    pixels: tuple[int, int]
    aspects: tuple[float, float]
    spacing: tuple[float, float]


def facts() -> Facts:
    """Facts of the shipped denoiser; see `opened`."""
    return opened()[1]


@cache
def opened() -> tuple[Denoiser, Facts]:
    """The shipped denoiser, without its parameters, and its facts.

    Raises:
        UserError: A file of the package is missing or has changed.
    """
    verify_checksums(MODEL, (FACTS, WEIGHTS))
    fields = with_tuples(json.loads((MODEL / FACTS).read_text()))
    config = patch_diffusion.get_config("tiny")
    config.update(fields.pop("config"))
    known = Facts(**fields)
    return Denoiser(config, patch=known.patch, levels=known.levels), known


def _arrays() -> dict[str, Array]:
    """The parameters by path, in float32."""
    with np.load(MODEL / WEIGHTS) as file:
        return {name: jnp.asarray(file[name], jnp.float32) for name in file.files}


def request(label: str, height: int, width: int) -> Request:
    """A radiograph to generate, with a spacing that is usual for its size.

    Args:
        label: AFF or NFF.
        height: Height in pixels.
        width: Width in pixels.

    Raises:
        UserError: The class is unknown, or the size is not like one of the training radiographs.
    """
    known = facts()
    if label not in LABELS:
        raise UserError(f"{label!r} is not a class; write {' or '.join(LABELS)}.")
    if min(height, width) < 1 or not known.pixels[0] <= height * width <= known.pixels[1]:
        low, high = (f"{pixels / 1e6:.3g}" for pixels in known.pixels)
        raise UserError(
            f"A radiograph of {height} x {width} pixels is out of the model's range; give {low} to "
            f"{high} megapixels."
        )
    if not known.aspects[0] <= height / width <= known.aspects[1]:
        low, high = (f"{aspect:.2f}" for aspect in known.aspects)
        raise UserError(
            f"A radiograph of {height} x {width} pixels is {height / width:.2f} times as high as "
            f"wide; the model knows {low} to {high} times."
        )
    intercept, slope = known.spacing
    spacing_mm = math.exp(intercept + slope * math.log(height * width))
    return Request(height, width, spacing_mm, label)


def generate(
    requests: Sequence[Request], *, seed: int = 0, progress: bool = False
) -> Iterator[tuple[int, UInt16[np.ndarray, "height width"]]]:
    """Generates radiographs and gives each with its number, as they are finished.

    Args:
        requests: Radiographs to generate; see `request`.
        seed: Seed of the noise.
        progress: Whether to show a progress bar.

    Raises:
        UserError: A file of the package is missing or has changed.
    """
    denoiser, _ = opened()
    sample = denoiser.config.sample.copy_and_resolve_references()
    sample.seed = seed
    params = nested(_arrays())
    return denoiser.generate(params, dict(enumerate(requests)), sample=sample, progress=progress)


def start_from(state: TrainState) -> TrainState:
    """Starts a run with what fits of the shipped parameters, and prints how much that is.

    Args:
        state: State before the first step.

    Raises:
        UserError: A file of the package is missing or has changed, or no parameter fits.
    """
    opened()  # checks the files
    prefixes = ("params", *(f"ema/{width}" for width in state.ema))
    arrays = {f"{p}/{name}": array for name, array in _arrays().items() for p in prefixes}
    return transfer(state, arrays, "the example's model")
