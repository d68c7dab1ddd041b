"""Eight devices give the same losses as one, however the mesh divides batch and state."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.random import define_prng_impl
from jax.sharding import AxisType, PartitionSpec
from ml_collections import ConfigDict

from femur_jax.classifier.task import ClassifierTask
from femur_jax.data.loader import batches
from femur_jax.gan.task import GanTask
from femur_jax.parallel.mesh import AXES, batch_sharding, make_mesh
from femur_jax.training.program import Program
from femur_jax.training.trees import by_path
from tests.training.least_squares import LeastSquares

MESHES = [(8, 1, 1), (1, 8, 1), (1, 1, 8), (2, 4, 1), (4, 1, 2), (1, 4, 2), (2, 2, 2)]


def trajectory(task, mesh, *, steps, batch_size=16, key=None):
    """Metrics of each step and the last state."""
    key = jax.random.key(0) if key is None else key
    program = Program(task, mesh)
    state = program.init(key)
    stream = batches(task.streams(), batch_size=batch_size, start=0, sharding=batch_sharding(mesh))
    key = jax.device_put(key, jax.sharding.NamedSharding(mesh, PartitionSpec()))
    history = []
    for _ in range(steps):
        state, metrics = program.update(state, next(stream), key)
        history.append(jax.device_get(metrics))
    return jax.tree.map(lambda *values: np.array(values), *history), state


def over_output_channels(task):
    """A rule for each convolution: sufficient for a test, but not the fastest parallelism."""
    arrays = by_path(jax.eval_shape(task.init, jax.random.key(0)).params)
    return tuple(
        (re.escape(path) + "$", PartitionSpec(None, None, None, "model"))
        for path, array in arrays.items()
        if array.ndim == 4 and array.shape[3] % 2 == 0
    )


def one_device():
    return jax.make_mesh(
        (1, 1, 1), AXES, devices=jax.devices()[:1], axis_types=(AxisType.Auto,) * 3
    )


def eight_devices(sizes):
    return make_mesh(ConfigDict(dict(zip(AXES, sizes, strict=True))))


@pytest.fixture(scope="module")
def expected():
    return trajectory(LeastSquares(), one_device(), steps=20)[0]


@pytest.mark.parametrize("sizes", MESHES)
def test_least_squares(expected, sizes):
    metrics, state = trajectory(LeastSquares(), eight_devices(sizes), steps=20)
    np.testing.assert_allclose(metrics["loss"], expected["loss"], rtol=1e-5)
    _, fsdp, model = sizes
    kernels = (state.params["kernel"], state.ema["kernel"], state.optimizer[1][0].mu["kernel"])
    for kernel in kernels:  # 4 x 8, split over `model` by the rule
        assert kernel.addressable_shards[0].data.shape == (4, 8 // model)
    bias = state.params["bias"]  # 8, split over `fsdp` without a rule
    assert bias.addressable_shards[0].data.shape == (8 // fsdp,)


@pytest.mark.parametrize("family", ["classifier", "gan"])
def test_models_on_all_three_axes(family, dataset, classifier_config, gan_config):
    if family == "classifier":
        task = ClassifierTask(classifier_config, [dataset])
    else:
        config = gan_config.copy_and_resolve_references()
        config.model.update(size=8, channels=(8, 8))
        task = GanTask(config, dataset)
    task.rules = over_output_channels(task)
    expected, _ = trajectory(task, one_device(), steps=2)
    metrics, state = trajectory(task, eight_devices((2, 2, 2)), steps=2)
    for name, values in expected.items():
        # The GAN's first update is the sign of the gradient. If the gradient is nearly zero,
        # rounding determines the sign, and the next logits are sums near zero.
        atol = 1e-4 if name.endswith("_logit") else 1e-5
        np.testing.assert_allclose(metrics[name], values, rtol=1e-3, atol=atol, err_msg=name)
    split = [leaf for leaf in jax.tree.leaves(state.params) if "model" in leaf.sharding.spec]
    assert len(split) > 3


def always_the_same(key, bit_width, shape):
    return jnp.full(shape, 0x9E3779B9, jnp.uint32).astype(f"uint{bit_width}")


# Microbatches get other random numbers than the whole batch, so all random numbers are equal here.
ONE_NUMBER = define_prng_impl(
    key_shape=(1,),
    seed=lambda seed: jnp.zeros(1, jnp.uint32),
    split=lambda key, shape: jnp.zeros((*shape, 1), jnp.uint32),
    random_bits=always_the_same,
    fold_in=lambda key, data: key,
)


def test_two_microbatches_equal_one_batch(dataset, classifier_config):
    mesh, losses = eight_devices((2, 4, 1)), []
    for microbatches in (1, 2):
        config = classifier_config.copy_and_resolve_references()
        config.train.accumulate = microbatches
        key = jax.random.key(0, impl=ONE_NUMBER)
        metrics, _ = trajectory(ClassifierTask(config, [dataset]), mesh, steps=4, key=key)
        losses.append(metrics["loss"])
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4)
    assert np.ptp(losses[0]) > 0.01  # the loss changes, since the classifier learns
