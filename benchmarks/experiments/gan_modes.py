"""Modes that the GAN's losses cover, in distributions whose modes can be counted.

The losses and the burn-in are those that train on radiographs; the networks are plain.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, Key
from sklearn.datasets import load_digits
from sklearn.model_selection import cross_val_score
from sklearn.svm import SVC

from benchmarks.machine import cpu
from benchmarks.records import Goal, Result, measurement
from femur_jax.gan.losses import burn_in, discriminator_loss, generator_loss

SEEDS = (0, 1, 2)
_BATCH = 256

# 25 Gaussians: neighbours 2 apart with deviations of 0.05, all divided by 2 sqrt 2.
CENTRES = np.stack(np.meshgrid(*2 * [np.linspace(-(2**0.5), 2**0.5, 5)]), -1).reshape(25, 2)
DEVIATION = 0.05 / 8**0.5
_GAUSSIANS = 2500  # samples
_ENOUGH = 20  # samples for a mode to count as covered

_CLASSES = 10
_DIGITS = 25_600  # samples, as usual for stacked MNIST

Vectors = Float[Array, "batch dim"]
Layers = list[tuple[Array, Array]]


class Recipe(NamedTuple):
    """Sizes and schedules; pairs are the first and the last value of the burn-in."""

    steps: int
    width: int
    latent: int
    learning_rate: tuple[float, float]
    gamma: tuple[float, float]


GRID = Recipe(6000, width=128, latent=2, learning_rate=(3e-3, 1e-4), gamma=(0.1, 0.01))
STACKED = Recipe(3000, width=256, latent=64, learning_rate=(1e-3, 1e-4), gamma=(1.0, 0.1))


class Modes(NamedTuple):
    """Modes of the 25 Gaussians that samples cover."""

    covered: int
    """Number of modes with 20 of 2500 samples or more within three deviations."""
    near: float
    """Share of samples within three deviations of a mode."""


@measurement("of 25", Goal(">=", 25.0), timed=False)
def gan_modes() -> Result:
    """Modes that the GAN's losses cover of 25 Gaussians on a grid, the worst of three seeds.

    Neighbours are 40 standard deviations apart. A mode is covered if 20 of 2500 samples or more
    are within three deviations of it. Networks are plain, with three hidden layers.
    """
    with_penalties = [gaussians(GRID, seed) for seed in SEEDS]
    without = [gaussians(GRID._replace(gamma=(0.0, 0.0)), seed) for seed in SEEDS]
    modes = [each.covered for each in with_penalties]
    return Result(
        value=min(modes),
        spread=(min(modes), max(modes)),
        device=cpu(),
        details={
            "share of samples within three deviations, by seed": [m.near for m in with_penalties],
            "modes without R1 and R2, by seed": [m.covered for m in without],
            "recipe": GRID._asdict(),
        },
    )


@measurement("of 1000", Goal(">=", 1000.0), timed=False)
def gan_stacked_digits() -> Result:
    """Combinations of three stacked digits that the GAN's losses cover, the worst of three seeds.

    Like stacked MNIST, but with scikit-learn's 1797 digits of 8 x 8 pixels: 25,600 samples, each
    digit named by a support vector machine. Networks are plain, with three hidden layers.
    """
    pixels, classes = load_digits(return_X_y=True)
    classifier = SVC(C=10)
    accuracy = float(cross_val_score(classifier, pixels, classes).mean())
    classifier.fit(pixels, classes)

    def count(stacks: Float[np.ndarray, "samples dim"]) -> tuple[int, float]:
        named = classifier.predict(8 * (stacks.reshape(-1, 64) + 1)).reshape(-1, 3)
        return modes_and_divergence(named @ np.array([100, 10, 1]), np.bincount(classes))

    counts = [count(stacked_digits(STACKED, seed)) for seed in SEEDS]
    without = count(stacked_digits(STACKED._replace(gamma=(0.0, 0.0)), SEEDS[0]))
    real = np.random.default_rng(0).choice(pixels / 8 - 1, (_DIGITS, 3)).reshape(_DIGITS, -1)
    modes, divergence = zip(*counts, strict=True)
    return Result(
        value=min(modes),
        spread=(min(modes), max(modes)),
        device=cpu(),
        details={
            "reverse KL divergence in nats, by seed": divergence,
            "modes and divergence without R1 and R2": without,
            "modes and divergence of as many real stacks": count(real),
            "accuracy of the classifier, cross-validated": accuracy,
            "recipe": STACKED._asdict(),
        },
    )


def gaussians(recipe: Recipe, seed: int) -> Modes:
    """Trains on a 5 x 5 grid of Gaussians and counts those that samples cover."""

    def real(key: Key[Array, ""]) -> Vectors:
        mode, noise = jax.random.split(key)
        centres = jnp.asarray(CENTRES)[jax.random.randint(mode, (_BATCH,), 0, len(CENTRES))]
        return centres + DEVIATION * jax.random.normal(noise, centres.shape)

    samples = trained(real, recipe, dim=2, seed=seed, samples=_GAUSSIANS)
    distance = np.linalg.norm(samples[:, None] - CENTRES, axis=-1)
    near = distance.min(axis=1) < 3 * DEVIATION
    counts = np.bincount(distance.argmin(axis=1)[near], minlength=len(CENTRES))
    return Modes(int(np.sum(counts >= _ENOUGH)), float(near.mean()))


def stacked_digits(recipe: Recipe, seed: int) -> Float[np.ndarray, "samples 192"]:
    """Trains on stacks of three random digits of 8 x 8 pixels, -1 to 1, and returns samples.

    The test is stacked MNIST (Metz et al. 2017, arXiv 1611.02163), with scikit-learn's digits.
    """
    pixels, _ = load_digits(return_X_y=True)
    digits = jnp.asarray(pixels / 8 - 1, jnp.float32)

    def real(key: Key[Array, ""]) -> Vectors:
        return digits[jax.random.randint(key, (_BATCH, 3), 0, len(digits))].reshape(_BATCH, -1)

    return trained(real, recipe, dim=192, seed=seed, samples=_DIGITS)


def modes_and_divergence(
    stacks: Int[np.ndarray, " samples"], class_counts: Int[np.ndarray, "10"]
) -> tuple[int, float]:
    """Number of modes that occur, and KL(samples || real) in nats.

    Args:
        stacks: The three classes of each stack as a number of three digits.
        class_counts: Number of real digits of each class, from which stacks are drawn.
    """
    p = class_counts / class_counts.sum()
    p = np.einsum("a,b,c->abc", p, p, p).ravel()
    q = np.bincount(stacks, minlength=_CLASSES**3) / len(stacks)
    occurs = q > 0
    return int(occurs.sum()), float(np.sum(q[occurs] * np.log(q[occurs] / p[occurs])))


def trained(
    real: Callable[[Key[Array, ""]], Vectors],
    recipe: Recipe,
    *,
    dim: int,
    seed: int,
    samples: int,
) -> Float[np.ndarray, "samples dim"]:
    """Samples of the moving average of a generator that is trained with femur_jax's losses."""
    keys = jax.random.split(jax.random.key(seed), 4)

    def schedule(step: Int[Array, ""], start: float, end: float) -> Float[Array, ""]:
        return burn_in(step, start, end, recipe.steps)

    optimizer = optax.inject_hyperparams(optax.adam)(
        learning_rate=lambda step: schedule(step, *recipe.learning_rate),
        b1=0.0,
        b2=lambda step: schedule(step, 0.9, 0.99),
    )

    def fake(g: Layers, key: Key[Array, ""], count: int = _BATCH) -> Vectors:
        return _apply(g, jax.random.normal(key, (count, recipe.latent)))

    def logits(d: Layers, images: Float[Array, "batch ..."]) -> Float[Array, " batch"]:
        return _apply(d, images.reshape(len(images), dim))[:, 0]

    def update(loss: Callable, layers: Layers, state: Any) -> tuple[Layers, Any]:
        change, state = optimizer.update(jax.grad(loss)(layers), state)
        return jax.tree.map(jnp.add, layers, change), state

    def step(carry: tuple, key: Key[Array, ""]) -> tuple[tuple, None]:
        g, state_g, d, state_d, average, number = carry
        key_real, key_d, key_g = jax.random.split(key, 3)
        x = real(key_real)

        def loss_d(d: Layers) -> Float[Array, ""]:
            # The losses take images: one pixel with a channel for each number.
            images, fakes = (v[:, None, None] for v in (x, fake(g, key_d)))
            gamma = schedule(number, *recipe.gamma)
            return discriminator_loss(partial(logits, d), images, fakes, gamma)[0]

        d, state_d = update(loss_d, d, state_d)

        def loss_g(g: Layers) -> Float[Array, ""]:
            return generator_loss(logits(d, x), logits(d, fake(g, key_g)))

        g, state_g = update(loss_g, g, state_g)
        average = jax.tree.map(lambda a, b: 0.995 * a + 0.005 * b, average, g)
        return (g, state_g, d, state_d, average, number + 1), None

    g = _network(keys[0], (recipe.latent, *3 * [recipe.width], dim))
    d = _network(keys[1], (dim, *3 * [recipe.width], 1))
    run = jax.jit(lambda start, keys: jax.lax.scan(step, start, keys)[0])
    start = (g, optimizer.init(g), d, optimizer.init(d), g, 0)
    average = run(start, jax.random.split(keys[2], recipe.steps))[-2]
    return np.asarray(fake(average, keys[3], samples))


def _network(key: Key[Array, ""], widths: tuple[int, ...]) -> Layers:
    """He-initialised linear layers."""
    keys = jax.random.split(key, len(widths) - 1)
    return [
        (jax.random.normal(k, (a, b)) * (2 / a) ** 0.5, jnp.zeros(b))
        for k, a, b in zip(keys, widths, widths[1:], strict=False)
    ]


def _apply(layers: Layers, x: Vectors) -> Vectors:
    """The network's output, with ReLU between layers."""
    for weight, bias in layers[:-1]:
        x = jax.nn.relu(x @ weight + bias)
    weight, bias = layers[-1]
    return x @ weight + bias
