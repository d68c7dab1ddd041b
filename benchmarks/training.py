"""Training the denoiser against PyTorch, and against what the machine can do.

PyTorch trains the same network, or the U-Net of diffusers.
"""

import json
import runpy
import tempfile
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

import jax
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
from femur_jax.diffusion.patches import CHANNELS, CONDITIONS
from femur_jax.diffusion.task import DiffusionTask
from femur_jax.models.functional import Params

_ROOT = Path(__file__).parents[1]
_ROUNDS = 12
_STEPS = 5  # in a round, after one that does not count
_TOLERANCE = 1e-4  # of the largest value


def tiny() -> tuple[ConfigDict, int]:
    """The config that is measured on CPU, and its patch."""
    return _variant("tiny"), 32


def base() -> tuple[ConfigDict, int]:
    """The same on a GPU: without remat, whose second computation is not counted as work done."""
    config = _variant("base")
    config.model.remat = False
    config.train.batch_size = 8
    return config, 256


def _variant(name: str) -> ConfigDict:
    return runpy.run_path(str(_ROOT / "configs" / "patch_diffusion.py"))["get_config"](name)


def over_torch(platform: str, peer_network: str, config: ConfigDict, patch: int) -> Found:
    """Speed of DiffusionTask.step over that of benchmarks/peers/train_torch.py.

    Args:
        platform: "cpu" or "gpu".
        peer_network: "same" (in float32) or "diffusers".
        config: Of patch_diffusion.py.
        patch: Side in pixels.

    Raises:
        RuntimeError: The two networks shall be the same, and are not.
    """
    with tempfile.TemporaryDirectory() as name, jax.default_device(platform_devices(platform)[0]):
        folder = Path(name)
        task = DiffusionTask(config, noise_dataset(folder / "dataset", patch))
        own = StepTrainer(task, config.train.batch_size, platform)
        # Away from the first parameters: zeros in last layers hide what is before them.
        keys = jax.random.split(jax.random.key(1), len(jax.tree.leaves(own.state.params)))
        keys = jax.tree.unflatten(jax.tree.structure(own.state.params), list(keys))
        params = jax.tree.map(
            lambda p, key: p + 0.1 * jax.random.normal(key, p.shape), own.state.params, keys
        )
        inputs = _write_exchange(folder, config, params, own.batch)
        parameters = sum(p.size for p in jax.tree.leaves(params))
        with PeerProcess("train_torch.py", folder, peer_network, platform) as peer:
            checked = {}
            if peer_network == "same":
                difference = _largest_difference(_answers(task, params, inputs), folder)
                if difference > _TOLERANCE or parameters != peer.about["parameters"]:
                    raise RuntimeError(
                        f"the networks differ: by {difference:.1e} of the largest value, "
                        f"{parameters} parameters against {peer.about['parameters']} in PyTorch"
                    )
                checked["largest difference of output and gradient, relative"] = difference
            rounds = []
            for _ in range(_ROUNDS):
                own.seconds(1)
                own_seconds = own.seconds(_STEPS)
                peer.seconds(1)
                rounds.append((own_seconds, peer.seconds(_STEPS)))
    own_seconds, peer_seconds = zip(*rounds, strict=True)
    ratio, spread = ratio_of_rounds(peer_seconds, own_seconds)
    patches = _STEPS * config.train.batch_size
    return Found(
        value=ratio,
        spread=spread,
        device=device_name(platform),
        versions={"torch": peer.about["torch"]},
        details={
            "patches/s": patches / median(own_seconds),
            "patches/s in PyTorch": patches / median(peer_seconds),
            "ms per step": 1000 * median(own_seconds) / _STEPS,
            "ms per step in PyTorch": 1000 * median(peer_seconds) / _STEPS,
            "rounds": f"{_ROUNDS} of {_STEPS} steps of {config.train.batch_size} patches",
            "GFLOP of a step, as XLA counts": own.flops / 1e9,
            "parameters": parameters,
            "parameters in PyTorch": peer.about["parameters"],
            "MFLOP of a patch's forward pass in PyTorch": peer.about["megaflops"],
            **checked,
            "devices": len(platform_devices(platform)),
            "PyTorch's threads": peer.about["threads"],
            "PyTorch's way": peer.about["way"],
            "ms per step of PyTorch's ways": ", ".join(
                f"{way} {ms}" for way, ms in peer.about["ms of each way"].items()
            ),
        },
    )


def share_of_matrix_rate(config: ConfigDict, patch: int) -> Found:
    """Arithmetic of DiffusionTask.step on a GPU, over that of a large product of bfloat16."""
    (device,) = platform_devices("gpu")
    with tempfile.TemporaryDirectory() as name, jax.default_device(device):
        task = DiffusionTask(config, noise_dataset(Path(name) / "dataset", patch))
        own = StepTrainer(task, config.train.batch_size, "gpu")
        rounds = []
        for _ in range(_ROUNDS):
            own.seconds(1)
            rounds.append((_STEPS * own.flops / own.seconds(_STEPS), matrix_flops()))
    rate, limit = (median(column) for column in zip(*rounds, strict=True))
    shares = [of_training / of_product for of_training, of_product in rounds]
    return Found(
        value=rate / limit,
        spread=(min(shares), max(shares)),
        device=device_name("gpu"),
        details={
            "TFLOP/s of training": rate / 1e12,
            "TFLOP/s of the matrix product": limit / 1e12,
            "GFLOP of a step, as XLA counts": own.flops / 1e9,
            "ms per step": 1000 * own.flops / rate,
            "GiB of a step": own.gib,
            "rounds": f"{_ROUNDS} of {_STEPS} steps of {config.train.batch_size} patches",
        },
    )


def _write_exchange(
    folder: Path, config: ConfigDict, params: Params, batch: dict[str, jax.Array]
) -> dict[str, np.ndarray]:
    """Writes what the peer reads; see there.

    Returns:
        The network's inputs, channels last.
    """
    (folder / "config.json").write_text(json.dumps(config.to_dict()))
    _save(folder / "batch.npz", batch)
    weights = {
        jax.tree_util.keystr(path, simple=True, separator="/"): value
        for path, value in jax.tree.leaves_with_path(params)
    }
    _save(folder / "weights.npz", weights)
    rng, patch = np.random.default_rng(0), batch["pixels"].shape[1]
    shapes = {
        "x": (4, patch, patch, CHANNELS),
        "c_noise": (4,),
        "conditions": (4, CONDITIONS),
        "cotangent": (4, patch, patch, 1),
    }
    inputs = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    _save(folder / "inputs.npz", {n: _channels_second(array) for n, array in inputs.items()})
    return inputs


def _answers(
    task: DiffusionTask, params: Params, inputs: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """What the peer should write for its inputs, channels second."""
    F, pull_back = jax.vjp(
        lambda x: task.model.apply(params, x, inputs["c_noise"], inputs["conditions"]), inputs["x"]
    )
    (gradient,) = pull_back(inputs["cotangent"])
    return {"F": _channels_second(F), "gradient": _channels_second(gradient)}


def _save(path: Path, arrays: Mapping[str, Any]) -> None:
    np.savez(path, allow_pickle=False, **{name: np.asarray(a) for name, a in arrays.items()})


def _channels_second(array: Any) -> np.ndarray:
    return np.moveaxis(array, -1, 1) if np.ndim(array) == 4 else np.asarray(array)


def _largest_difference(expected: dict[str, np.ndarray], folder: Path) -> float:
    """Between the peer's answers and the expected ones, relative to the largest value of each."""
    with np.load(folder / "outputs.npz") as found:
        return max(
            float(np.abs(found[name] - value).max() / np.abs(value).max())
            for name, value in expected.items()
        )
