"""Training the denoiser: its losses in float64, its metrics, and the sharding of its parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm

from configs.patch_diffusion import get_config
from femur_jax.data.loader import batches
from femur_jax.data.radiograph import LABELS
from femur_jax.data.synthetic import JITTER
from femur_jax.diffusion.task import DiffusionTask
from femur_jax.errors import UserError
from femur_jax.models.functional import Functions
from femur_jax.parallel.mesh import batch_sharding, make_mesh
from femur_jax.parallel.rules import state_shardings
from femur_jax.training import ema
from femur_jax.training.program import Program
from femur_jax.training.state import init_state


def changed(config, **sections):
    config = config.copy_and_resolve_references()
    for name, values in sections.items():
        config[name].update(values)
    return config


def pointwise(params, x, c_noise, conditions, key):
    """A network that can be written in float64: it mixes channels and conditions."""
    total = (x * params["channels"]).sum(-1, keepdims=True)
    return (
        jnp.sin(total + c_noise[:, None, None, None])
        + (conditions @ params["conditions"])[:, None, None, None]
    )


def float64_loss(sample, label, levels, context_sigma, noise, sigma, n, params, config):
    """EDM's loss of one patch, from the papers' equations."""
    pixels, context = (sample[name] / 32767.5 - 1 for name in ("pixels", "context"))
    patch, level = len(pixels), int(sample["level"])
    height, width = sample["level_size"]
    rows, columns = (start + np.arange(patch) for start in sample["origin"])
    mask = np.outer(rows < height, columns < width).astype(float)
    half = max(height, width) / 2
    y_at, x_at = np.meshgrid(
        (rows + 0.5 - height / 2) / half, (columns + 0.5 - width / 2) / half, indexing="ij"
    )
    context = (context + context_sigma * noise) * mask[..., None]
    if level == 0:
        context, context_sigma = 0 * context, 0.0
    known = sample["spacing_mm"] > 0
    spacing = sample["spacing_mm"] * max(sample["size"]) / max(height, width)
    numbers = [
        *(np.log2(sample["size"]) - 8),
        np.log(spacing) if known else 0.0,
        known,
        np.log(max(context_sigma, 1e-3)) / 4,
        sample["mirrored"],
    ]
    conditions = [
        *(label == n for n in range(len(LABELS))),
        *np.array(numbers, float) / np.sqrt(6),
        *(level == n for n in range(levels)),
    ]
    sigma_data = config.diffusion.sigma_data
    y = pixels * mask
    x = y + sigma * n * mask
    total = sigma**2 + sigma_data**2
    channels = np.stack([x / np.sqrt(total), context[..., 0], mask, y_at, x_at], -1)
    F = np.sin(channels @ params["channels"] + np.log(sigma) / 4)
    F = F + np.array(conditions, float) @ params["conditions"]
    D = sigma_data**2 / total * x + sigma * sigma_data / np.sqrt(total) * F
    error = (mask * (D - y) ** 2).sum() / mask.sum()
    return total / (sigma * sigma_data) ** 2 * error


@pytest.mark.parametrize(("strategy", "stream"), [("pyramid", 0), ("patch_diffusion", 1)])
def test_losses_are_those_of_the_papers(dataset, diffusion_config, strategy, stream):
    config = changed(diffusion_config, data={"strategy": strategy})
    task = DiffusionTask(config, dataset)
    rng = np.random.default_rng(0)
    params = {
        "channels": rng.standard_normal(5),
        "conditions": rng.standard_normal(8 + task.levels),
    }
    task.model = Functions(task.model.init, pointwise)
    samples = task.streams()[stream].samples
    drawn = [samples[n] for n in range(24)]
    batch = {name: jnp.stack([sample[name] for sample in drawn]) for name in drawn[0]}
    key = jax.random.key(3)
    losses, sigma, _ = task.losses(jax.tree.map(jnp.float32, params), batch, key)

    # The same draws, in the order of the code; everything else from the definitions.
    keys = jax.random.split(key, 7)
    low, high = np.log(config.diffusion.context_sigma)
    dropped = jax.random.bernoulli(keys[0], config.diffusion.label_dropout, (24,))
    context_sigma = np.exp(jax.random.uniform(keys[1], (24,), minval=low, maxval=high))
    noise = np.asarray(jax.random.normal(keys[2], batch["context"].shape), float)
    z = np.asarray(jax.random.normal(keys[5], (24,)), float)
    n = np.asarray(jax.random.normal(keys[6], (*batch["pixels"].shape, 1)), float)[..., 0]
    jitter = np.exp(JITTER * np.asarray(jax.random.normal(keys[3], (24, 3)), float))
    finer = np.minimum(batch["level"], 1)
    P_mean, P_std = (np.array(config.diffusion[name])[finer] for name in ("P_mean", "P_std"))
    expected_sigma = np.exp(P_mean + P_std * z)
    np.testing.assert_allclose(sigma, expected_sigma, rtol=1e-5)
    assert dropped.any() and {int(sample["mirrored"]) for sample in drawn} == {0, 1}
    for i, drawn_sample in enumerate(drawn):
        sample = drawn_sample | {
            "size": np.round(drawn_sample["size"] * jitter[i, :2]),
            "spacing_mm": drawn_sample["spacing_mm"] * jitter[i, 2],
        }
        label = None if dropped[i] else sample["label"]
        expected = float64_loss(
            sample,
            label,
            task.levels,
            context_sigma[i],
            noise[i],
            expected_sigma[i],
            n[i],
            params,
            config,
        )
        assert float(losses[i]) == pytest.approx(expected, rel=1e-3)


@pytest.fixture(scope="module")
def one_device():
    return jax.sharding.SingleDeviceSharding(jax.devices()[0])


@pytest.fixture(scope="module")
def stepped(dataset, diffusion_config, one_device):
    """A step with every option of the model: the task, its batch, and the metrics on one device."""
    model = {"dropout": 0.1, "uncertainty": True, "head_channels": 4}
    task = DiffusionTask(changed(diffusion_config, model=model), dataset)
    batch = next(batches(task.streams(), batch_size=8, start=0, sharding=one_device))
    # Random parameters, since the zeros among the initial ones hide most of the network.
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: 0.2 * rng.standard_normal(leaf.shape, np.float32),
        jax.eval_shape(task.model.init, jax.random.key(0)),
    )
    params = jax.device_put(params, one_device)
    averages = ema.init(params, task.config.train.ema_widths)
    state = init_state(params, averages, task.optimizer)
    step = jax.jit(task.step)
    return task, state, batch, step, step(state, batch, jax.random.key(1))


def test_losses_by_level_and_noise_add_up(stepped):
    task, _, batch, _, (_, metrics) = stepped
    metrics = jax.device_get(metrics)
    levels = np.array([metrics[f"loss_level_{n}"] for n in range(task.dataset.levels)])
    np.testing.assert_array_equal(
        levels[:, 1], np.bincount(batch["level"], minlength=task.dataset.levels)
    )
    noises = np.array([metrics[f"loss_sigma_{n}"] for n in (1, 2, 3, 4)])
    for groups in (levels, noises):
        assert groups[:, 1].sum() == 8
        assert groups[:, 0].sum() / 8 == pytest.approx(float(metrics["loss"]), rel=1e-5)


def test_noise_levels_fall_into_quarters(dataset, diffusion_config):
    task = DiffusionTask(diffusion_config, dataset)
    c = diffusion_config.diffusion
    quantiles = np.arange(40) / 40 + 1 / 80
    level = np.arange(40) % 2
    P_mean, P_std = np.array(c.P_mean)[level], np.array(c.P_std)[level]
    sigma = jnp.asarray(np.exp(P_mean + P_std * norm.ppf(quantiles)), jnp.float32)
    losses = jnp.asarray(quantiles, jnp.float32)
    groups = task._losses_by_group(losses, sigma, jnp.asarray(level))
    for n in range(4):
        total, count = groups[f"loss_sigma_{n + 1}"]
        assert count == 10
        assert float(total) == pytest.approx(quantiles[10 * n : 10 * n + 10].sum(), rel=1e-5)


def test_data_fsdp_and_tensor_parallel_give_the_loss_of_one_device(stepped, diffusion_config):
    task, state, batch, _, (expected_state, expected) = stepped
    mesh = make_mesh(changed(diffusion_config, mesh={"data": 2, "fsdp": 2, "model": 2}).mesh)
    shardings = state_shardings(jax.eval_shape(lambda: state), mesh, task.rules)
    batch = jax.device_put(batch, batch_sharding(mesh))
    key = jax.device_put(jax.random.key(1), jax.NamedSharding(mesh, jax.P()))
    step = jax.jit(task.step, out_shardings=(shardings, None))
    new_state, metrics = step(jax.device_put(state, shardings), batch, key)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4), metrics, expected)
    for tree, single in zip(new_state.ema.values(), expected_state.ema.values(), strict=True):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), tree, single)
    kernel = new_state.ema["0.05"]["up"]["0"]["0"]["conv1"]["kernel"]
    assert kernel.addressable_shards[0].data.shape == (3, 3, 8, 4)


@pytest.mark.parametrize("variant", ["tiny", "large"])
def test_every_large_array_is_split_over_fsdp_and_model(dataset, variant, diffusion_config):
    config = get_config(variant)
    task = DiffusionTask(config, dataset)
    mesh = make_mesh(changed(diffusion_config, mesh={"data": 1, "fsdp": 4, "model": 2}).mesh)
    for path, array in jax.tree.leaves_with_path(Program(task, mesh).state_shapes):
        held = np.prod(array.sharding.shard_shape(array.shape))  # raises where it does not divide
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if array.size > 4096:
            assert held * 4 <= array.size, name
        if name.endswith(("conv1/kernel", "conv2/kernel", "qkv/kernel", "attention/out/kernel")):
            assert held * 8 == array.size, name


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            {"multipliers": (1,) * 6, "attention": (False,) * 6},
            "16 pixels cannot be halved 5 times",
        ),
        ({"attention": (True, False)}, "different lengths"),
        ({"channels": 12}, "channels is 12"),
        ({"dtype": "float16"}, "'float16'; write float32 or bfloat16"),
        ({"channels": 24, "head_channels": 16}, "Heads of 16 channels do not divide a width of 24"),
    ],
)
def test_an_impossible_network_is_an_error(dataset, diffusion_config, model, message):
    with pytest.raises(UserError, match=message):
        DiffusionTask(changed(diffusion_config, model=model), dataset)


def test_the_smallest_patches_must_fit_the_network(dataset, diffusion_config):
    model = {"multipliers": (1,) * 4, "attention": (False,) * 4}
    DiffusionTask(changed(diffusion_config, model=model), dataset)
    with pytest.raises(UserError, match="4 pixels cannot be halved 3 times"):
        config = changed(diffusion_config, model=model, data={"strategy": "patch_diffusion"})
        DiffusionTask(config, dataset)
