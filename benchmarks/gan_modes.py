"""Whether the GAN's loss finds all modes of distributions that can be counted."""

from functools import partial
from statistics import median

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Key
from sklearn.datasets import load_digits

from benchmarks.machine import cpu
from benchmarks.measurements import Found
from femur_jax.gan.losses import burn_in, discriminator_loss, generator_loss

_LATENT = 8
_WIDTH = 256
_BATCH = 256
_SEEDS = (0, 1, 2)
_SPREAD = 0.05  # of a Gaussian whose neighbours are 1 away

Vectors = Float[Array, "batch dim"]


def gaussians_found() -> Found:
    """See `measurements.gan_modes`."""
    shares, modes = zip(*(gaussians(seed, steps=6000) for seed in _SEEDS), strict=True)
    return Found(
        value=min(modes),
        device=cpu(),
        spread=(min(modes), max(modes)),
        details={"seeds": len(_SEEDS), "samples within 4 sigma of a mode": median(shares)},
    )


def digits_found() -> Found:
    """See `measurements.gan_stacked_digits`."""
    modes = [stacked_digits(seed, steps=6000) for seed in _SEEDS]
    return Found(
        value=min(modes),
        device=cpu(),
        spread=(min(modes), max(modes)),
        details={"seeds": len(_SEEDS), "samples": 10_000},
    )


def gaussians(seed: int, *, steps: int) -> tuple[float, int]:
    """25 Gaussians on a 5 x 5 grid: share of good samples, and modes with 10 of 2500 or more."""
    grid = jnp.stack(jnp.meshgrid(jnp.arange(5.0), jnp.arange(5.0)), axis=-1).reshape(25, 2) - 2

    def real(key: Key[Array, ""]) -> Vectors:
        place, noise = jax.random.split(key)
        centres = grid[jax.random.randint(place, (_BATCH,), 0, 25)]
        return centres + _SPREAD * jax.random.normal(noise, centres.shape)

    made = trained(real, dim=2, gamma=(0.02, 0.002), steps=steps, seed=seed, samples=2500)
    distance = np.linalg.norm(made[:, None] - np.asarray(grid), axis=-1)
    good = distance.min(axis=1) < 4 * _SPREAD
    counts = np.bincount(distance.argmin(axis=1)[good], minlength=25)
    return float(good.mean()), int(np.sum(counts >= 10))


def stacked_digits(seed: int, *, steps: int) -> int:
    """Of 1000 combinations of three digits, those among 10,000 samples.

    Stacked MNIST (Metz et al. 2017, arXiv 1611.02163) with the 8 x 8 digits of scikit-learn: three
    digits side by side, each named by a classifier.
    """
    from sklearn.svm import SVC

    pixels, labels = load_digits(return_X_y=True)
    pixels = (pixels / 8 - 1).astype(np.float32)
    names = SVC(gamma=0.02).fit(pixels, labels)
    digits = jnp.asarray(pixels)

    def real(key: Key[Array, ""]) -> Vectors:
        chosen = jax.random.randint(key, (_BATCH, 3), 0, len(digits))
        return digits[chosen].reshape(_BATCH, -1)

    made = trained(real, dim=192, gamma=(0.5, 0.05), steps=steps, seed=seed, samples=10_000)
    found = names.predict(made.reshape(-1, 64)).reshape(-1, 3)
    return len(np.unique(found, axis=0))


def trained(
    real, *, dim: int, gamma: tuple[float, float], steps: int, seed: int, samples: int
) -> Float[np.ndarray, "samples dim"]:
    """Samples of a GAN of two plain networks, with the losses and schedules of femur_jax."""
    keys = jax.random.split(jax.random.key(seed), 4)
    params = (_network(keys[0], _LATENT, dim), _network(keys[1], dim, 1))
    schedule = partial(burn_in, steps=steps)
    optimizer = optax.inject_hyperparams(optax.adam)(
        learning_rate=partial(schedule, start=5e-4, end=2e-5),
        b1=0.0,
        b2=0.99,
    )

    def step(carry, key):
        (g, d), (state_g, state_d), average, number = carry
        key_real, key_d, key_g = jax.random.split(key, 3)
        x = real(key_real)

        def fake(g, key):
            return _apply(g, jax.random.normal(key, (_BATCH, _LATENT)))

        def logits(d, images):
            return _apply(d, images.reshape(len(images), dim))[:, 0]

        def loss_d(d):
            images = [v[:, None, None] for v in (x, fake(g, key_d))]
            weight = burn_in(number, *gamma, steps)
            return discriminator_loss(partial(logits, d), *images, weight)[0]

        update, state_d = optimizer.update(jax.grad(loss_d)(d), state_d)
        d = optax.apply_updates(d, update)
        update, state_g = optimizer.update(
            jax.grad(lambda g: generator_loss(logits(d, x), logits(d, fake(g, key_g))))(g), state_g
        )
        g = optax.apply_updates(g, update)
        average = jax.tree.map(lambda a, b: 0.995 * a + 0.005 * b, average, g)
        return ((g, d), (state_g, state_d), average, number + 1), None

    carry = (params, tuple(map(optimizer.init, params)), params[0], 0)
    run = jax.jit(lambda carry, keys: jax.lax.scan(step, carry, keys)[0])
    _, _, average, _ = run(carry, jax.random.split(keys[2], steps))
    return np.asarray(_apply(average, jax.random.normal(keys[3], (samples, _LATENT))))


def _network(key: Key[Array, ""], inputs: int, outputs: int) -> list[tuple[Array, Array]]:
    """Three layers."""
    sizes = (inputs, _WIDTH, _WIDTH, outputs)
    return [
        (jax.random.normal(k, (a, b)) * (2 / a) ** 0.5, jnp.zeros(b))
        for k, a, b in zip(jax.random.split(key, 3), sizes, sizes[1:], strict=False)
    ]


def _apply(layers: list[tuple[Array, Array]], x: Vectors) -> Vectors:
    for w, b in layers[:-1]:
        x = jax.nn.leaky_relu(x @ w + b, 0.2)
    w, b = layers[-1]
    return x @ w + b
