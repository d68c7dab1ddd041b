"""The GAN's training step and sampling."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from femur_jax.data.letterbox import letterbox_mask
from femur_jax.data.pyramid import fitted_size
from femur_jax.data.requests import Request
from femur_jax.gan.task import GanTask, conditions


@pytest.fixture(scope="module")
def task(dataset, gan_config):
    return GanTask(gan_config, dataset)


@pytest.fixture(scope="module")
def state(task):
    return jax.jit(task.init)(jax.random.key(0))


def batch(task, count=8):
    [(samples, _)] = task.streams()
    rows = [samples[n] for n in range(count)]
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def test_a_step_moves_both_networks_and_follows_the_schedules(task, state):
    after, metrics = jax.jit(task.step)(state, batch(task), jax.random.key(1))
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), after.params, state.params)
    assert any(jax.tree.leaves(moved["generator"]))
    assert any(jax.tree.leaves(moved["discriminator"]))
    # At the start D is zero nearly everywhere: both sides of the relativistic loss are ln 2.
    assert float(metrics["generator_loss"]) == pytest.approx(np.log(2), abs=0.3)
    settings = after.optimizer["generator"].hyperparams
    assert float(settings["learning_rate"]) == pytest.approx(1e-3, rel=1e-3)
    assert float(settings["b2"]) == pytest.approx(0.9, rel=1e-3)


def test_the_average_is_of_the_generator(task, state):
    after, _ = jax.jit(task.step)(state, batch(task), jax.random.key(1))
    decay = 1 / 10  # (1 + step) / (10 + step) at step 0
    expected = jax.tree.map(
        lambda old, new: decay * old + (1 - decay) * new,
        state.ema,
        after.params["generator"],
    )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), after.ema, expected
    )


def test_samples_have_the_requested_shape_and_do_not_depend_on_the_batch(task, state):
    requests = [
        Request(40, 25, 0.2, "AFF"),
        Request(16, 16, 0.0, "NFF"),
        Request(21, 64, 0.1, "NFF"),
        Request(9, 13, 0.1, "AFF"),
        Request(30, 30, 0.1, "AFF"),
    ]
    made = list(task.generate(state.ema, requests, seed=3))
    assert [m.shape for m in made] == [fitted_size((r.height, r.width), (16, 16)) for r in requests]
    assert all(m.dtype == np.uint16 for m in made)
    first = list(task.generate(state.ema, requests[:1], seed=3))
    np.testing.assert_array_equal(first[0], made[0])
    assert (next(iter(task.generate(state.ema, requests[:1], seed=4))) != made[0]).any()


def test_the_surround_does_not_matter(task, state):
    """What lies outside of the letterbox changes neither loss."""
    rows = batch(task)
    changed = dict(rows)
    mask = np.asarray(letterbox_mask(jnp.asarray(rows["box"]), (16, 16)))[..., 0]
    changed["pixels"] = np.where(mask > 0, rows["pixels"], 999).astype(np.uint16)
    step = jax.jit(task.step)
    _, a = step(state, rows, jax.random.key(1))
    _, b = step(state, changed, jax.random.key(1))
    for name in a:
        assert float(a[name]) == pytest.approx(float(b[name]), rel=1e-6), name


def test_conditions_hold_class_and_size():
    box = np.array([[0, 4, 16, 8]], np.int32)
    np.testing.assert_allclose(conditions(np.array([1], np.int32), box, 16), [[0, 1, 1, 0]])
