"""The GAN's training step against the same networks in PyTorch."""

import json
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from benchmarks.datasets import noise_dataset
from benchmarks.machine import device_name
from benchmarks.peer import PeerProcess, channels_second, largest_difference, save_arrays
from benchmarks.records import Goal, Result, measurement, ratio_of_rounds
from benchmarks.trainers import (
    StepTrainer,
    away_from_init,
    matrix_flops,
    platform_devices,
    seconds_in_turns,
)
from configs.gan import get_config
from femur_jax.gan.losses import discriminator_loss, generator_loss
from femur_jax.gan.task import CONDITIONS, GanTask
from femur_jax.models.functional import Functions, Params, functional
from femur_jax.models.r3gan import Discriminator, Generator
from femur_jax.training.trees import by_path

_ROUNDS = 8
_STEPS = 4  # of a round
TOLERANCE = 1e-6  # in float64, relative to the largest value


@measurement("x", Goal(">=", 1.0))
def gan_over_torch_cpu() -> Result:
    """Training steps per second of the tiny GAN, over those of the same in PyTorch on CPU.

    A step is one update of both networks with R1 and R2, Adam and moving average, on 16 images of
    64 x 64 pixels in float32. femur_jax also augments what the discriminator sees; PyTorch does
    not, runs eagerly (torch.compile cannot differentiate twice) with a fused Adam, in the memory
    format that is faster here, on all cores. Rounds take turns; the value is the ratio of the
    median times. Before, losses, penalties and gradients of both must agree in float64.
    """
    return _over_torch("cpu", get_config("tiny"))


@measurement("x", Goal(">=", 1.2), gpu=True)
def gan_over_torch_gpu() -> Result:
    """The same as gan_over_torch_cpu for the base GAN on one GPU, on 16 images of 256 x 256 pixels.

    PyTorch computes in autocast what the presets compute in bfloat16, and both compute float32
    products as TF32. Nothing is compared in float64. The details have the share of a matrix
    product's rate, as in train_mfu_gpu, and the memory of a step at 256 and at 512 pixels.
    """
    config = get_config("base")
    config.train.batch_size = 16
    return _over_torch("gpu", config)


def _over_torch(platform: str, config: ConfigDict) -> Result:
    """Speed of GanTask.step over that of benchmarks/peers/r3gan_torch.py.

    Args:
        platform: Either "cpu", where both are first compared in float64, or "gpu".
        config: A config of configs/gan.py.

    Raises:
        RuntimeError: The two do not compute the same.
    """
    with tempfile.TemporaryDirectory() as name, jax.default_device(platform_devices(platform)[0]):
        folder = Path(name)
        task = GanTask(config, noise_dataset(folder / "dataset", config.model.size))
        batch = config.train.batch_size
        trainer = StepTrainer(task, batch, platform)
        exchanged = write_exchange(folder, config)
        with PeerProcess("r3gan_torch.py", folder, platform) as peer:
            details = {}
            if platform == "cpu":
                expected = expected_answers(config, *exchanged)
                difference = largest_difference(expected, folder / "outputs.npz")
                if difference > TOLERANCE:
                    raise RuntimeError(f"losses or gradients differ by {difference:.1e}")
                details["largest difference of losses and gradients, relative, float64"] = (
                    difference
                )
            else:
                details |= _gpu_details(trainer, folder)
            our_seconds, peer_seconds = seconds_in_turns(
                (trainer, peer), rounds=_ROUNDS, steps=_STEPS
            )
    ratio, spread = ratio_of_rounds(peer_seconds, our_seconds)
    if platform == "gpu":
        details["share of the matrix product's rate"] = (
            _STEPS * trainer.flops / median(our_seconds) / 1e12
        ) / details["TFLOP/s of a matrix product"]
    return Result(
        value=ratio,
        spread=spread,
        device=device_name(platform),
        versions={"torch": peer.about["torch"]},
        details={
            "images/s": _STEPS * batch / median(our_seconds),
            "images/s in PyTorch": _STEPS * batch / median(peer_seconds),
            "rounds": f"{_ROUNDS} of {_STEPS} steps of {batch} images",
            "parameters": peer.about["parameters"],
            "PyTorch's threads": peer.about["threads"],
            **details,
        },
    )


def _gpu_details(trainer: StepTrainer, folder: Path) -> dict[str, float]:
    """The matrix product's rate, and the memory of a step of the two larger presets."""
    large = get_config("large")
    large.train.batch_size = len(trainer.batch["label"])
    task = GanTask(large, noise_dataset(folder / "large", large.model.size))
    return {
        "TFLOP/s of a matrix product": matrix_flops() / 1e12,
        "GiB of a step at 256 pixels": trainer.gib,
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
    """Writes the files that the peer reads; its docstring lists them.

    Returns:
        Both networks' weights and their inputs, in float64.
    """
    with jax.enable_x64(True):
        model, size, batch = config.model, config.model.size, config.train.batch_size
        rng = np.random.default_rng(0)
        params = {
            name: away_from_init(jax.jit(network.init)(jax.random.key(0)))
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
        save_arrays(folder / "weights.npz", by_path(params))
        save_arrays(folder / "inputs.npz", {n: channels_second(a) for n, a in inputs.items()})
        return params, inputs


def expected_answers(
    config: ConfigDict, params: dict[str, Params], inputs: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Losses, penalties and gradients in float64 that the peer should write."""
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

    (value_d, terms), gradient_d = jax.jit(jax.value_and_grad(loss_d, has_aux=True))(
        params["discriminator"]
    )
    value_g, gradient_g = jax.jit(jax.value_and_grad(loss_g))(params["generator"])
    losses = {
        "discriminator_loss": value_d,
        "r1": terms["r1"],
        "r2": terms["r2"],
        "generator_loss": value_g,
    }
    return losses | by_path({"discriminator": gradient_d, "generator": gradient_g})
