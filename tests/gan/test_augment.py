"""Augmentation against what each transformation does by definition, and its non-leaking mixture."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import nnls

from femur_jax.gan import augment as module
from femur_jax.gan.augment import P_LIMIT, adapt, augment

SIDE = 16
REPEATS = 4000
rng = np.random.default_rng(0)


@pytest.fixture(scope="module")
def apply():
    return jax.jit(augment)


@pytest.fixture(scope="module")
def smooth():
    """Smooth images, so that interpolating them is nearly exact."""
    y, x = np.mgrid[:SIDE, :SIDE] / SIDE
    phases = rng.uniform(0, 6, size=(6, 2, 1, 1))
    waves = np.sin(2 * y + phases[:, 0]) * np.cos(3 * x + phases[:, 1])
    return jnp.asarray(waves[..., None], jnp.float32)


def whole(images):
    return jnp.ones_like(images)


def without(**draws):
    """All transformations left out but those named, for six images."""
    nothing = {name: jnp.zeros(6) for name in (*module._UNIFORM, *module._NORMAL)}
    return nothing | {name: jnp.full(6, value) for name, value in draws.items()}


def moved(images, **draws):
    return module._move(images, whole(images), without(**draws))[0]


def test_p_0_changes_nothing(apply, smooth):
    images, mask = apply(smooth, whole(smooth), jax.random.key(0), 0.0)
    np.testing.assert_array_equal(images, smooth)
    np.testing.assert_array_equal(mask, 1)


def test_each_transformation_is_applied_with_probability_p():
    draws = module._draw(jax.random.key(0), 4000, 0.3)
    for name, values in draws.items():
        assert np.mean(values != 0) == pytest.approx(0.3, abs=0.03), name
    together = np.mean((draws["flip"] != 0) & (draws["curve"] != 0))
    assert together == pytest.approx(0.09, abs=0.02)


def test_moves_are_what_they_are_called(smooth):
    np.testing.assert_allclose(moved(smooth, flip=-1.0), smooth[:, :, ::-1], atol=1e-5)
    down = moved(smooth, whole_pixels_y=2.1 / SIDE)
    np.testing.assert_allclose(down[:, 2:], smooth[:, :-2], atol=1e-5)
    np.testing.assert_array_equal(down[:, :2], 0)
    np.testing.assert_allclose(
        moved(smooth, shift_x=0.5 / SIDE)[:, :, 1:],
        (smooth[:, :, 1:] + smooth[:, :, :-1]) / 2,
        atol=1e-5,
    )
    # A picture of its own coordinates: rotated and scaled by the definition.
    centre = (SIDE - 1) / 2
    y, x = np.mgrid[:SIDE, :SIDE] - centre
    image = np.broadcast_to((2 * y + 3 * x)[..., None], (6, SIDE, SIDE, 1)).astype(np.float32)
    angle, scale = 0.2, 1.25
    back_y = (np.cos(angle) * y - np.sin(angle) * x) / scale
    back_x = (np.sin(angle) * y + np.cos(angle) * x) / scale
    made = moved(jnp.asarray(image), rotation=angle, log2_scale=np.log2(scale))
    inner = slice(2, -2)
    np.testing.assert_allclose(
        made[0, inner, inner, 0], (2 * back_y + 3 * back_x)[inner, inner], atol=1e-4
    )


def test_the_mask_moves_with_its_image():
    mask = jnp.zeros((6, SIDE, SIDE, 1)).at[:, :, 4:12].set(1.0)
    images, masks = module._move(3 * mask, mask, without(rotation=0.2, shift_x=0.1, flip=-1.0))
    np.testing.assert_allclose(images, 3 * masks, atol=1e-5)


def test_grey_values_follow_their_definitions(smooth):
    key = jax.random.key(0)

    def shaded(**draws):
        return module._shade(smooth, without(**draws), key)

    np.testing.assert_allclose(shaded(brightness=0.3), smooth + 0.3, atol=1e-6)
    np.testing.assert_allclose(shaded(log2_contrast=1.0), 2 * smooth, atol=1e-6)
    np.testing.assert_allclose(shaded(curve=0.5), smooth + 0.5 * (1 - smooth**2), atol=1e-6)
    assert np.std(shaded(noise=0.2) - smooth) == pytest.approx(0.2, rel=0.1)
    grey = jnp.linspace(-2, 2, SIDE**2 * 6).reshape(smooth.shape)
    curved = module._shade(grey, without(curve=module._UNIFORM["curve"]), key)
    assert np.all(np.diff(curved.ravel()) >= 0)


def test_cutout_is_a_square_of_half_the_side(smooth):
    cut = module._cut_out(smooth + 5, without(cutout=1.0), jax.random.key(3))
    holes = np.asarray(cut == 0)[..., 0]
    height, width = holes.any(2).sum(1), holes.any(1).sum(1)
    np.testing.assert_array_equal(holes.sum((1, 2)), height * width)  # rectangles
    assert np.all(height <= SIDE // 2) and np.all(width <= SIDE // 2)
    np.testing.assert_array_equal(cut[~holes], (smooth + 5)[~holes])


def test_differentiable_twice(smooth):
    """The penalties differentiate through the augmentation, which is linear but for its curve."""
    mask = whole(smooth)

    @jax.jit
    def penalty(images):
        def score(images):
            return jnp.sum(augment(images, mask, jax.random.key(1), 0.7)[0] ** 3)

        return jnp.sum(jax.grad(score)(images) ** 2)

    direction = jnp.asarray(rng.normal(size=smooth.shape), jnp.float32)
    with jax.enable_x64(True):
        x, v, step = (jnp.asarray(a, jnp.float64) for a in (smooth / 2, direction, 1e-6))
        numerical = (penalty(x + step * v) - penalty(x - step * v)) / (2 * step)
        np.testing.assert_allclose(jnp.sum(jax.grad(penalty)(x) * v), numerical, rtol=1e-5)


@pytest.fixture(scope="module")
def real():
    """A radiograph, as it was recorded: asymmetric, so that its augmentations differ from it."""
    real = np.full((SIDE, SIDE, 1), -0.4, np.float32)
    real[2:9, 2:5] = 0.8
    real[10:12, 6:14] = 0.5
    return real


def seen(prototypes, apply, p):
    """What a discriminator compares: many augmented images of each prototype, matched filtered.

    Filters are the prototypes' differences; with squares and third powers.
    """
    flat = np.stack([np.ravel(image) for image in prototypes])
    filters = np.linalg.svd(flat - flat.mean(0), full_matrices=False)[2][: len(flat) - 1]
    for seed, image in enumerate((prototypes[0], *prototypes)):
        images = jnp.broadcast_to(image, (REPEATS, SIDE, SIDE, 1))
        made, _ = apply(images, jnp.ones_like(images), jax.random.key(seed), p)
        found = np.asarray(made).reshape(REPEATS, -1) @ filters.T
        yield np.concatenate([found, found**2, found**3], axis=1)


def test_below_the_limit_the_generator_is_not_augmented(apply, real):
    """Of all mixtures of real and augmented images, the real ones fit best what is seen.

    That is what a generator learns that has to match means of the discriminator's features.
    """
    augmented = [
        real[:, ::-1],
        np.roll(real, (1, 2), (0, 1)),
        1.3 * real,
        real + 0.2,
        real + 0.3 * (1 - real**2),
    ]
    target, *made = seen([real, *augmented], apply, 0.5)
    deviation = target.std(0)
    table = np.stack([features.mean(0) / deviation for features in made], axis=1)
    # A last row, of great weight, for shares that sum to one.
    table = np.vstack([table, np.full(len(made), 100.0)])
    shares, _ = nnls(table, np.append(target.mean(0) / deviation, 100.0))
    assert shares[0] > 0.8, shares


def test_beyond_the_limit_it_cannot_know(apply, real):
    """At p = 1 a flipped image's augmentations are those of the image itself."""

    def standard_errors(p):
        target, _, flipped = seen([real, real[:, ::-1]], apply, p)
        error = np.sqrt((target.var(0) + flipped.var(0)) / REPEATS)
        return np.max(np.abs(target.mean(0) - flipped.mean(0)) / error)

    assert standard_errors(P_LIMIT) > 8
    assert standard_errors(1.0) < 4


def test_p_rises_with_overfitting_and_stays_in_its_range():
    wins, loses = jnp.ones(()), -jnp.ones(())
    settings = {"target": 0.6, "batch_size": 10, "images": 1000}
    state = module.init()
    for _ in range(200):
        state = adapt(state, wins, **settings)
    assert float(state["p"]) == pytest.approx(P_LIMIT)
    assert float(state["r_t"]) == pytest.approx(1.0)
    falling = adapt(state, loses, **settings)
    # r_t moves a quarter of the way from 1 to -1, which is below the target.
    assert float(falling["r_t"]) == pytest.approx(0.5)
    assert float(falling["p"]) == pytest.approx(P_LIMIT - 10 / 1000)
    for _ in range(200):
        falling = adapt(falling, loses, **settings)
    assert float(falling["p"]) == 0
