"""Training the denoiser against PyTorch, and against what the machine can do.

PyTorch trains the same network, or the U-Net of diffusers.
"""

import json
import tempfile
from pathlib import Path
from statistics import median

import jax
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
from configs.patch_diffusion import get_config
from femur_jax.diffusion.conditioning import CHANNELS, vector_length
from femur_jax.diffusion.task import DiffusionTask
from femur_jax.models.functional import Params
from femur_jax.training.trees import by_path

_ROUNDS = 12
_STEPS = 5  # of a round
_TOLERANCE = 1e-4  # relative to the largest value


@measurement("x", Goal(">=", 1.0))
def train_over_torch_cpu() -> Result:
    """Training steps per second of the tiny denoiser, over those of the same in PyTorch on CPU.

    Both run the whole step (noise, forward, EDM loss, backward, gradient clipping, Adam, moving
    average) on the same batch of 32 patches of 32 x 32 pixels in float32. PyTorch has a fused
    Adam, runs eagerly or compiled and in the memory format that is fastest here, on all cores.
    Rounds take turns; the value is the ratio of the median times. Before, both networks are given
    the same weights and must agree in the output and in its gradient.
    """
    return _over_torch("cpu", "same", _tiny(), patch=32)


@measurement("x", Goal(">=", 1.0))
def train_over_diffusers_cpu() -> Result:
    """The same as train_over_torch_cpu, with UNet2DModel of diffusers as PyTorch's network.

    Its widths are those that come nearest in parameters and floating-point operations.
    """
    return _over_torch("cpu", "diffusers", _tiny(), patch=32)


@measurement("x", Goal(">=", 1.3), gpu=True)
def train_over_torch_gpu() -> Result:
    """Training steps per second of the base denoiser, over those of UNet2DModel, on one GPU.

    As in train_over_diffusers_cpu, but with 8 patches of 256 x 256 pixels in bfloat16 and without
    remat; diffusers' network runs in PyTorch's autocast.
    """
    return _over_torch("gpu", "diffusers", _base(), patch=256)


@measurement("", Goal(">=", 0.5), gpu=True)
def train_mfu_gpu() -> Result:
    """Arithmetic of the base denoiser's training step, over that of a matrix product, on one GPU.

    FLOPs of the compiled step, 8 patches of 256 x 256 pixels without remat, as XLA's cost analysis
    counts them, divided by its time; over the rate of a product of two 8192 x 8192 matrices of
    bfloat16. Rounds take turns; the value is of the median times.
    """
    (device,) = platform_devices("gpu")
    config = _base()
    with tempfile.TemporaryDirectory() as name, jax.default_device(device):
        task = DiffusionTask(config, noise_dataset(Path(name) / "dataset", 256))
        trainer = StepTrainer(task, config.train.batch_size, "gpu")
        rounds = []
        for _ in range(_ROUNDS):
            trainer.seconds(1)
            rounds.append((_STEPS * trainer.flops / trainer.seconds(_STEPS), matrix_flops()))
    rate, limit = (median(column) for column in zip(*rounds, strict=True))
    shares = [of_training / of_product for of_training, of_product in rounds]
    return Result(
        value=rate / limit,
        spread=(min(shares), max(shares)),
        device=device_name("gpu"),
        details={
            "TFLOP/s of training": rate / 1e12,
            "TFLOP/s of the matrix product": limit / 1e12,
            "GFLOP of a step, as XLA counts": trainer.flops / 1e9,
            "ms per step": 1000 * trainer.flops / rate,
            "GiB of a step": trainer.gib,
            "rounds": f"{_ROUNDS} of {_STEPS} steps of {config.train.batch_size} patches",
        },
    )


def _tiny() -> ConfigDict:
    """The config on a CPU, with the optimizer and the batch that PyTorch has."""
    config = get_config("tiny")
    config.train.update(optimizer="adam", batch_size=32)
    return config


def _base() -> ConfigDict:
    """The config on a GPU, with the optimizer and the batch that PyTorch has."""
    config = get_config("base")
    config.train.update(optimizer="adam", batch_size=8, accumulate=1)
    return config


def _over_torch(platform: str, peer_network: str, config: ConfigDict, patch: int) -> Result:
    """Speed of DiffusionTask.step over that of benchmarks/peers/train_torch.py.

    Args:
        platform: Either "cpu" or "gpu".
        peer_network: Either "same" (in float32) or "diffusers".
        config: A config of configs/patch_diffusion.py.
        patch: Side of a patch in pixels.

    Raises:
        RuntimeError: The two networks should be the same but differ.
    """
    with tempfile.TemporaryDirectory() as name, jax.default_device(platform_devices(platform)[0]):
        folder = Path(name)
        task = DiffusionTask(config, noise_dataset(folder / "dataset", patch))
        trainer = StepTrainer(task, config.train.batch_size, platform)
        params = away_from_init(trainer.state.params)
        inputs = _write_exchange(folder, task, params, trainer.batch)
        parameters = sum(p.size for p in jax.tree.leaves(params))
        with PeerProcess("train_torch.py", folder, peer_network, platform) as peer:
            checked = {}
            if peer_network == "same":
                expected = _expected_answers(task, params, inputs)
                difference = largest_difference(expected, folder / "outputs.npz")
                if difference > _TOLERANCE or parameters != peer.about["parameters"]:
                    raise RuntimeError(
                        f"the networks differ: by {difference:.1e} of the largest value, "
                        f"{parameters} parameters against {peer.about['parameters']} in PyTorch"
                    )
                checked["largest difference of output and gradient, relative"] = difference
            our_seconds, peer_seconds = seconds_in_turns(
                (trainer, peer), rounds=_ROUNDS, steps=_STEPS
            )
    ratio, spread = ratio_of_rounds(peer_seconds, our_seconds)
    patches = _STEPS * config.train.batch_size
    return Result(
        value=ratio,
        spread=spread,
        device=device_name(platform),
        versions={"torch": peer.about["torch"]},
        details={
            "patches/s": patches / median(our_seconds),
            "patches/s in PyTorch": patches / median(peer_seconds),
            "ms per step": 1000 * median(our_seconds) / _STEPS,
            "ms per step in PyTorch": 1000 * median(peer_seconds) / _STEPS,
            "rounds": f"{_ROUNDS} of {_STEPS} steps of {config.train.batch_size} patches",
            "GFLOP of a step, as XLA counts": trainer.flops / 1e9,
            "parameters": parameters,
            "parameters in PyTorch": peer.about["parameters"],
            "MFLOP of a patch's forward pass in PyTorch": peer.about["megaflops"],
            **checked,
            "devices": len(platform_devices(platform)),
            "PyTorch's threads": peer.about["threads"],
            "PyTorch's mode": peer.about["mode"],
            "ms per step of PyTorch's modes": ", ".join(
                f"{mode} {ms}" for mode, ms in peer.about["ms of each mode"].items()
            ),
        },
    )


def _write_exchange(
    folder: Path, task: DiffusionTask, params: Params, batch: dict[str, jax.Array]
) -> dict[str, np.ndarray]:
    """Writes the files that the peer reads; its docstring lists them.

    Returns:
        The network's inputs, channels last.
    """
    (folder / "config.json").write_text(json.dumps(task.config.to_dict()))
    save_arrays(folder / "batch.npz", batch)
    save_arrays(folder / "weights.npz", by_path(params))
    rng, patch = np.random.default_rng(0), batch["pixels"].shape[1]
    conditions = vector_length(task.levels)
    shapes = {
        "x": (4, patch, patch, CHANNELS),
        "c_noise": (4,),
        "conditions": (4, conditions),
        "cotangent": (4, patch, patch, 1),
    }
    inputs = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    save_arrays(folder / "inputs.npz", {n: channels_second(array) for n, array in inputs.items()})
    return inputs


def _expected_answers(
    task: DiffusionTask, params: Params, inputs: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """The arrays that the peer should write for its inputs, channels second."""
    F, pull_back = jax.vjp(
        lambda x: task.model.apply(params, x, inputs["c_noise"], inputs["conditions"]), inputs["x"]
    )
    (gradient,) = pull_back(inputs["cotangent"])
    return {"F": channels_second(F), "gradient": channels_second(gradient)}
