"""The GAN's training step and sampling."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from femur_jax.data.letterbox import letterbox_mask
from femur_jax.data.pyramid import fitted_size
from femur_jax.data.synthetic import Request
from femur_jax.errors import UserError
from femur_jax.gan.task import GanTask, conditions

KEY = jax.random.key(1)


@pytest.fixture(scope="module")
def task(dataset, gan_config):
    config = gan_config.copy_and_resolve_references()
    config.train.update(ema_images=(0.0, 40.0), ada_images=64)
    return GanTask(config, dataset)


@pytest.fixture(scope="module")
def state(task):
    return jax.jit(task.init)(jax.random.key(0))


@pytest.fixture(scope="module")
def step(task):
    return jax.jit(task.step)


@pytest.fixture(scope="module")
def rows(task):
    [(samples, _)] = task.streams()
    rows = [samples[n] for n in range(8)]
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


@pytest.fixture(scope="module")
def history(step, state, rows):
    """The states and metrics of three steps, the first state first."""
    states, metrics = [state], []
    for n in range(3):
        after, numbers = step(states[-1], rows, jax.random.key(n))
        states.append(after)
        metrics.append(numbers)
    return states, metrics


def test_a_step_moves_both_networks_and_follows_the_schedules(history):
    (before, after, *_), (metrics, *_) = history
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), after.params, before.params)
    assert any(jax.tree.leaves(moved["generator"]))
    assert any(jax.tree.leaves(moved["discriminator"]))
    # Initially D is almost zero everywhere, so both sides of the relativistic loss are ln 2.
    assert float(metrics["generator_loss"]) == pytest.approx(np.log(2), abs=0.3)
    settings = after.optimizer["generator"].hyperparams
    assert float(settings["learning_rate"]) == pytest.approx(1e-3, rel=1e-3)
    assert float(settings["decay"]) == pytest.approx(0.9, rel=1e-3)


def test_a_penalty_that_runs_away_stops_the_training(step, state, rows):
    """The metric becomes infinite, and then the training loop raises its error."""
    steep = jax.tree.map(lambda leaf: leaf, state.params)
    steep["discriminator"]["embed"]["kernel"] *= 1e7  # the logit is linear in it
    _, metrics = step(type(state)(state.step, steep, state.ema, state.optimizer), rows, KEY)
    assert metrics["r1"] == metrics["r2"] == np.inf
    assert np.isfinite(metrics["real_logit"])


def test_the_average_has_the_scheduled_half_life(history):
    """The half-life grows from 0 to 40 images during the first 16 images, 8 in each step."""
    states, _ = history
    for number, half_life in enumerate((0.0, 20.0, 40.0)):
        keep = 0.5 ** (8 / half_life) if half_life else 0.0
        expected = jax.tree.map(
            lambda old, new, keep=keep: keep * old + (1 - keep) * new,
            states[number].ema,
            states[number + 1].params["generator"],
        )
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
            states[number + 1].ema,
            expected,
        )


def test_augmentation_follows_the_signs_of_the_pairs(history):
    states, metrics = history
    for before, after, numbers in zip(states, states[1:], metrics, strict=False):
        p, moved = (s.optimizer["augmentation"]["p"] for s in (before, after))
        r_t = after.optimizer["augmentation"]["r_t"]
        assert float(numbers["augment_p"]) == float(moved)
        assert float(moved) == pytest.approx(max(p + np.sign(r_t - 0.6) * 8 / 64, 0))


def test_microbatches_give_the_gradients_of_the_whole(task, step, state, rows):
    """Apart from rounding, and without augmentations, which are drawn for each microbatch."""
    config = task.config.copy_and_resolve_references()
    config.train.accumulate = 4
    whole, expected = step(state, rows, KEY)
    accumulated, metrics = jax.jit(GanTask(config, task.dataset).step)(state, rows, KEY)
    assert float(expected["r1"]) > 0
    for name, value in expected.items():
        assert float(metrics[name]) == pytest.approx(float(value), rel=1e-4, abs=1e-6), name
    for network, bound in (("discriminator", 1e-5), ("generator", 1e-3)):
        # Adam's averages of squares follow from the gradient alone after one step. Where the
        # discriminator's gradient is almost zero, rounding chooses the update that the generator
        # sees.
        exact, close = (
            np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(_squares(after, network))])
            for after in (whole, accumulated)
        )
        assert np.linalg.norm(close - exact) < bound * np.linalg.norm(exact)


def _squares(state, network):
    return state.optimizer[network].inner_state[0].nu


def test_adam_with_changing_settings(task):
    """The optimizer is Adam (Kingma & Ba 2015, algorithm 1) with beta1 = 0."""
    parameter, v = jnp.asarray([1.0, -2.0, 0.5]), np.zeros(3)
    expected, optimizer = np.array(parameter, float), task.optimizer.init(parameter)
    for t, (rate, beta2) in enumerate(((1e-3, 0.9), (6.5e-4, 0.945), (3e-4, 0.99)), start=1):
        gradient = np.array([0.3, -1.0, 2.0]) * t
        v = beta2 * v + (1 - beta2) * gradient**2
        expected -= rate * gradient / (np.sqrt(v / (1 - beta2**t)) + 1e-8)
        update, optimizer = task.optimizer.update(jnp.asarray(gradient, jnp.float32), optimizer)
        parameter += update
    np.testing.assert_allclose(parameter, expected, rtol=1e-5)


def generate(task, state, requests, *, seed=3, **options):
    sample = task.config.sample.copy_and_resolve_references()
    sample.seed = seed
    return dict(task.generate(state.ema, requests, sample=sample, **options))


def test_samples_have_the_requested_shape_and_depend_on_seed_and_number_alone(task, state):
    requests = [
        Request(40, 25, 0.2, "AFF"),
        Request(16, 16, 0.0, "NFF"),
        Request(21, 64, 0.1, "NFF"),
        Request(9, 13, 0.1, "AFF"),
        Request(30, 30, 0.1, "AFF"),
    ]
    requests = dict(enumerate(requests))
    samples = generate(task, state, requests)
    for number, request in requests.items():
        assert samples[number].shape == fitted_size((request.height, request.width), (16, 16))
        assert samples[number].dtype == np.uint16
    # Two processes share the requests, or a second one resumes what the first has left.
    shared = [generate(task, state, {n: requests[n] for n in half}) for half in ((0, 2, 4), (1, 3))]
    rest = generate(task, state, requests, finished={0, 1, 3})
    assert sorted(rest) == [2, 4]
    for some in (*shared, rest):
        for number, pixels in some.items():
            np.testing.assert_array_equal(pixels, samples[number])
    other = generate(task, state, requests, seed=4)
    assert all((other[number] != samples[number]).any() for number in requests)


def test_the_surround_does_not_matter(step, state, rows):
    """Pixels outside of the letterbox change neither loss, with any augmentation."""
    strong = dict(state.optimizer, augmentation={"p": jnp.float32(0.8), "r_t": jnp.float32(0)})
    state = type(state)(state.step, state.params, state.ema, strong)
    mask = np.asarray(letterbox_mask(jnp.asarray(rows["box"]), (16, 16)))[..., 0]
    changed = dict(rows, pixels=np.where(mask > 0, rows["pixels"], 999).astype(np.uint16))
    _, a = step(state, rows, KEY)
    _, b = step(state, changed, KEY)
    for name in a:
        assert float(a[name]) == pytest.approx(float(b[name]), rel=1e-6), name


def test_conditions_hold_class_and_size():
    box = np.array([[0, 4, 16, 8]], np.int32)
    np.testing.assert_allclose(conditions(np.array([1], np.int32), box, 16), [[0, 1, 1, 0]])


@pytest.mark.parametrize(
    ("section", "field", "value"),
    [
        ("train", "burn_in_images", 0),
        ("train", "ada_images", 0),
        ("model", "dtype", "float31"),
    ],
)
def test_a_setting_out_of_range_is_an_error(dataset, gan_config, section, field, value):
    config = gan_config.copy_and_resolve_references()
    config[section][field] = value
    with pytest.raises(UserError, match=f"config.{section}.{field} is .*{value}"):
        GanTask(config, dataset)
