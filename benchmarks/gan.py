"""The GAN's training step against the same networks in PyTorch, and what penalties cost."""

import json
import runpy
import tempfile
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from benchmarks.machine import device_name
from benchmarks.measurements import Found
from benchmarks.records import ratio_of_rounds
from benchmarks.trainers import (
    PeerProcess,
    StepTrainer,
    matrix_flops,
    noise_dataset,
    platform_devices,
)
from femur_jax.gan.losses import discriminator_loss, generator_loss
from femur_jax.gan.task import CONDITIONS, GanTask
from femur_jax.models.functional import Functions, Params, functional
from femur_jax.models.r3gan import Discriminator, Generator

_ROOT = Path(__file__).parents[1]
_ROUNDS = 8
_STEPS = 4  # in a round, after one that does not count
TOLERANCE = 1e-6  # of the largest value, in float64


def tiny() -> ConfigDict:
    """The config that is measured on CPU."""
    return _variant("tiny")


def base() -> ConfigDict:
    """The one that is measured on a GPU."""
    config = _variant("base")
    config.train.batch_size = 16
    return config


def _variant(name: str) -> ConfigDict:
    return runpy.run_path(str(_ROOT / "configs" / "gan.py"))["get_config"](name)


def over_torch(platform: str, config: ConfigDict) -> Found:
    """Speed of GanTask.step over that of benchmarks/peers/r3gan_torch.py.

    Args:
        platform: "cpu", where both are compared in float64 before, or "gpu".
        config: Of gan.py.

    Raises:
        RuntimeError: The two do not compute the same.
    """
    with tempfile.TemporaryDirectory() as name, jax.default_device(platform_devices(platform)[0]):
        folder = Path(name)
        task = GanTask(config, noise_dataset(folder / "dataset", config.model.size))
        lazy = config.copy_and_resolve_references()
        lazy.train.penalty_interval = 8
        batch = config.train.batch_size
        own = StepTrainer(task, batch, platform)
        lazy = StepTrainer(GanTask(lazy, task.dataset), batch, platform)
        exchanged = write_exchange(folder, config)
        with PeerProcess("r3gan_torch.py", folder, platform) as peer:
            about = {}
            if platform == "cpu":
                difference = largest_difference(answers(config, *exchanged), folder)
                if difference > TOLERANCE:
                    raise RuntimeError(f"losses or gradients differ by {difference:.1e}")
                about["largest difference of losses and gradients, relative, float64"] = difference
            else:
                about |= _on_gpu(own, folder)
            rounds = []
            for _ in range(_ROUNDS):
                row = []
                for trainer in (own, lazy, peer):
                    trainer.seconds(1)
                    # All eight steps between two penalties.
                    row.append(
                        trainer.seconds(8) / 8
                        if trainer is lazy
                        else trainer.seconds(_STEPS) / _STEPS
                    )
                rounds.append(row)
    own_seconds, lazy_seconds, peer_seconds = zip(*rounds, strict=True)
    ratio, spread = ratio_of_rounds(peer_seconds, own_seconds)
    if platform == "gpu":
        about["share of the matrix product's rate"] = (
            own.flops / median(own_seconds) / 1e12 / about["TFLOP/s of a matrix product"]
        )
    return Found(
        value=ratio,
        spread=spread,
        device=device_name(platform),
        versions={"torch": peer.about["torch"]},
        details={
            "images/s": batch / median(own_seconds),
            "images/s in PyTorch": batch / median(peer_seconds),
            "images/s with penalties at every 8th step": batch / median(lazy_seconds),
            "rounds": f"{_ROUNDS} of {_STEPS} steps of {batch} images",
            "parameters": peer.about["parameters"],
            "PyTorch's threads": peer.about["threads"],
            **about,
        },
    )


def _on_gpu(own: StepTrainer, folder: Path) -> dict[str, float]:
    """The matrix product's rate, and the memory of a step of the two larger presets."""
    large = _variant("large")
    large.train.batch_size = len(own.batch["label"])
    task = GanTask(large, noise_dataset(folder / "large", large.model.size))
    return {
        "TFLOP/s of a matrix product": matrix_flops() / 1e12,
        "GiB of a step at 256 pixels": own.gib,
        "GiB of a step at 512 pixels": StepTrainer(task, large.train.batch_size, "gpu").gib,
    }


def _networks(config: ConfigDict) -> dict[str, Functions]:
    model = config.model
    shape = {"blocks": model.blocks, "group_width": model.group_width}
    return {
        "generator": functional(
            lambda rngs: Generator(
                model.size, model.channels, model.latent, CONDITIONS, **shape, rngs=rngs
            )
        ),
        "discriminator": functional(
            lambda rngs: Discriminator(
                model.size, model.channels, 2, CONDITIONS, **shape, rngs=rngs
            )
        ),
    }


def write_exchange(
    folder: Path, config: ConfigDict
) -> tuple[dict[str, Params], dict[str, np.ndarray]]:
    """Writes what the peer reads; see there.

    Returns:
        Both networks' weights and their inputs, in float64.
    """
    with jax.enable_x64(True):
        model, size, batch = config.model, config.model.size, config.train.batch_size
        rng = np.random.default_rng(0)
        # Away from the first parameters: zeros in last layers hide what is before them.
        params = {
            name: jax.tree.map(
                lambda leaf: leaf + 0.1 * rng.normal(size=leaf.shape),
                jax.jit(network.init)(jax.random.key(0)),
            )
            for name, network in _networks(config).items()
        }
        mask = np.zeros((batch, size, size, 1))
        for n in range(batch):
            mask[n, n % 5 : size - n % 3, n % 7 :] = 1
        inputs = {
            "real": rng.normal(size=mask.shape),
            "mask": mask,
            "condition": rng.normal(size=(batch, CONDITIONS)),
            "z": rng.normal(size=(batch, model.latent)),
            "z2": rng.normal(size=(batch, model.latent)),
        }
        (folder / "config.json").write_text(json.dumps(config.to_dict()))
        _save(folder / "weights.npz", _by_path(params))
        _save(
            folder / "inputs.npz",
            {n: np.moveaxis(a, -1, 1) if a.ndim == 4 else a for n, a in inputs.items()},
        )
        return params, inputs


def answers(
    config: ConfigDict, params: dict[str, Params], inputs: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Losses, penalties and gradients in float64 that the peer should find."""
    with jax.enable_x64(True):
        given = {name: jnp.asarray(array) for name, array in inputs.items()}
        return jax.tree.map(np.asarray, _answers(config, _networks(config), params, given))


def _answers(config: ConfigDict, networks: dict, params: dict, given: dict) -> dict[str, Any]:
    def logits(params_d: Any, images: jax.Array) -> jax.Array:
        each = len(images) // len(given["mask"])
        mask, condition = (jnp.repeat(given[n], each, axis=0) for n in ("mask", "condition"))
        seen = jnp.concatenate([images * mask, mask], axis=-1)
        return networks["discriminator"].apply(params_d, seen, condition)

    def fake(params_g: Any, z: str) -> jax.Array:
        return networks["generator"].apply(params_g, given[z], given["condition"])

    def loss_d(params_d: Any):
        return discriminator_loss(
            lambda images: logits(params_d, images),
            given["real"],
            fake(params["generator"], "z"),
            config.train.gamma[0],
        )

    def loss_g(params_g: Any):
        fakes = logits(params["discriminator"], fake(params_g, "z2"))
        return generator_loss(logits(params["discriminator"], given["real"]), fakes)

    (value_d, found), gradient_d = jax.jit(jax.value_and_grad(loss_d, has_aux=True))(
        params["discriminator"]
    )
    value_g, gradient_g = jax.jit(jax.value_and_grad(loss_g))(params["generator"])
    losses = {
        "discriminator_loss": value_d,
        "r1": found["r1"],
        "r2": found["r2"],
        "generator_loss": value_g,
    }
    return losses | _by_path({"discriminator": gradient_d, "generator": gradient_g})


def largest_difference(expected: dict[str, np.ndarray], folder: Path) -> float:
    """Between the peer's answers and the expected ones, relative to the largest value of each."""
    with np.load(folder / "outputs.npz") as found:
        assert found.keys() == expected.keys()
        return max(
            float(np.abs(found[name] - value).max() / np.abs(value).max())
            for name, value in expected.items()
        )


def _by_path(tree: Any) -> dict[str, Any]:
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): value
        for path, value in jax.tree.leaves_with_path(tree)
    }


def _save(path: Path, arrays: Mapping[str, Any]) -> None:
    np.savez(path, allow_pickle=False, **{name: np.asarray(a) for name, a in arrays.items()})
