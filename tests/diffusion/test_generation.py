"""Guidance and the three strategies with a real network."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from femur_jax.data.strategies import STRATEGIES, known_sizes
from femur_jax.data.synthetic import Request
from femur_jax.diffusion.conditioning import NO_LABEL, Conditioning
from femur_jax.diffusion.generation import Model, tile_denoiser
from femur_jax.diffusion.task import DiffusionTask

COUNT, PATCH = 8, 16


def tiles():
    rng = np.random.default_rng(0)

    def normal(*shape):
        return rng.standard_normal(shape).astype(np.float32)

    sigma = np.abs(normal(COUNT)) + 0.1
    conditioning = Conditioning(
        context=normal(COUNT, PATCH, PATCH, 1),
        context_sigma=sigma,
        origin=np.zeros((COUNT, 2), np.int32),
        level_size=np.full((COUNT, 2), PATCH, np.int32),
        size=np.full((COUNT, 2), PATCH, np.int32),
        level=np.zeros(COUNT, np.int32),
        label=np.arange(COUNT, dtype=np.int32) % 2,
        spacing_mm=np.zeros(COUNT, np.float32),
        mirrored=np.zeros(COUNT, np.int32),
    )
    return jax.device_put((normal(COUNT, PATCH, PATCH, 1), sigma, conditioning), jax.devices()[0])


def by_label(params, x, sigma, conditioning):
    """A denoiser that differs for each class and for none; on a device, as networks are."""
    gain = jnp.asarray([1.0, 2.0, 5.0])[conditioning.label][:, None, None, None]
    return params["a"] * gain * x + conditioning.context


def test_without_guidance_the_model_is_plain_and_all_devices_share_the_tiles():
    x, _, conditioning = inputs = tiles()
    shardings = []

    def seen(params, x, sigma, conditioning):
        jax.debug.inspect_array_sharding(x, callback=shardings.append)
        return by_label(params, x, sigma, conditioning)

    D = tile_denoiser(Model(seen, {"a": jnp.float32(3)}))(0, *inputs)
    gain = np.where(np.asarray(conditioning.label) == 1, 2, 1)[:, None, None, None]
    np.testing.assert_allclose(D, 3 * gain * x + conditioning.context, atol=1e-5)
    assert {s.shard_shape(x.shape)[0] for s in shardings} == {COUNT // jax.local_device_count()}
    assert D.sharding == x.sharding


def test_classifier_free_guidance_leads_away_from_no_class():
    x, _, conditioning = inputs = tiles()
    D = tile_denoiser(Model(by_label, {"a": jnp.float32(1)}), guidance=(1.5,))(0, *inputs)
    assert NO_LABEL == 2
    gain = (5 + 1.5 * (np.where(np.asarray(conditioning.label) == 1, 2, 1) - 5))[
        :, None, None, None
    ]
    np.testing.assert_allclose(D, gain * x + conditioning.context, atol=1e-5)


def test_the_weight_of_guidance_depends_on_the_level():
    x, sigma, conditioning = tiles()
    denoise = tile_denoiser(Model(by_label, {"a": jnp.float32(1)}), guidance=(1.5, 1.0))
    gain = np.where(np.asarray(conditioning.label) == 1, 2, 1)[:, None, None, None]
    expected = gain * x + conditioning.context
    np.testing.assert_allclose(denoise(2, x, sigma, conditioning), expected, atol=1e-5)
    assert np.abs(denoise(0, x, sigma, conditioning) - expected).max() > 0.1


def test_autoguidance_leads_away_from_the_weak_model_of_the_same_class():
    x, _, conditioning = inputs = tiles()
    weak = Model(by_label, {"a": jnp.float32(0.5)})
    D = tile_denoiser(Model(by_label, {"a": jnp.float32(1)}), guidance=(3.0,), weak=weak)(
        0, *inputs
    )
    gain = ((0.5 + 3.0 * 0.5) * np.where(np.asarray(conditioning.label) == 1, 2, 1))[
        :, None, None, None
    ]
    np.testing.assert_allclose(D, gain * x + conditioning.context, atol=1e-5)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_each_strategy_makes_its_sizes(strategy, dataset, diffusion_config):
    config = diffusion_config.copy_and_resolve_references()
    config.data.strategy = strategy
    config.sample.update(steps=(2,), tile_batch=2)
    task = DiffusionTask(config, dataset)
    state = jax.eval_shape(task.init, jax.random.key(0))
    params = jax.tree.map(lambda a: 0.02 * jnp.ones(a.shape), state.ema["0.05"])
    requests = {3: Request(50, 37, 0.2, "AFF"), 5: Request(12, 15, 0.0, "NFF")}
    samples = dict(task.generate(params, requests, sample=config.sample))
    for number, request in requests.items():
        sizes = known_sizes(strategy, request.height, request.width, dataset.patch)
        assert samples[number].shape == sizes[-1]
    if strategy != "pyramid":
        assert max(samples[3].shape) <= dataset.patch


def test_images_show_each_class_of_the_model(dataset, diffusion_config):
    config = diffusion_config.copy_and_resolve_references()
    config.data.draw.label_shares = (0.0, 1.0)
    config.sample.update(steps=(1,))
    task = DiffusionTask(config, dataset)
    state = jax.jit(task.init)(jax.random.key(0))
    pictures = task.images(state)["samples"]
    assert pictures.shape[0] == 4 and pictures.shape[3] == 1
    assert 0 <= pictures.min() < pictures.max() <= 1
    again = task.images(dataclasses.replace(state, step=state.step + 1))["samples"]
    np.testing.assert_array_equal(again, pictures)
