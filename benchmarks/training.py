"""Training the denoiser against PyTorch: the same network, and the U-Net of diffusers."""

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

from benchmarks.machine import cpu
from benchmarks.measurements import Found
from benchmarks.records import ratio_of_rounds
from benchmarks.trainers import PeerProcess, StepTrainer, noise_dataset
from femur_jax.diffusion.patches import CHANNELS, CONDITIONS
from femur_jax.diffusion.task import DiffusionTask
from femur_jax.models.functional import Params

_ROOT = Path(__file__).parents[1]
_PATCH = 32
_ROUNDS = 12
_STEPS = 5  # in a round, after one that does not count
_TOLERANCE = 1e-4  # of the largest value


def over_torch(peer_network: str) -> Found:
    """Speed of DiffusionTask.step over that of benchmarks/peers/train_torch.py, on CPU.

    Args:
        peer_network: "same" or "diffusers".

    Raises:
        RuntimeError: The two networks shall be the same, and are not.
    """
    config = runpy.run_path(str(_ROOT / "configs" / "patch_diffusion.py"))["get_config"]("tiny")
    with tempfile.TemporaryDirectory() as name, jax.default_device(jax.devices("cpu")[0]):
        folder = Path(name)
        task = DiffusionTask(config, noise_dataset(folder / "dataset", _PATCH))
        own = StepTrainer(task, config.train.batch_size)
        # Away from the first parameters: zeros in last layers hide what is before them.
        keys = jax.random.split(jax.random.key(1), len(jax.tree.leaves(own.state.params)))
        keys = jax.tree.unflatten(jax.tree.structure(own.state.params), list(keys))
        params = jax.tree.map(
            lambda p, key: p + 0.1 * jax.random.normal(key, p.shape), own.state.params, keys
        )
        expected = _write_exchange(folder, config, task, params, own.batch)
        parameters = sum(p.size for p in jax.tree.leaves(params))
        with PeerProcess("train_torch.py", folder, peer_network) as peer:
            checked = {}
            if peer_network == "same":
                difference = _largest_difference(expected, folder)
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
        device=cpu(),
        versions={"torch": peer.about["torch"]},
        details={
            "patches/s": patches / median(own_seconds),
            "patches/s in PyTorch": patches / median(peer_seconds),
            "ms per step": 1000 * median(own_seconds) / _STEPS,
            "ms per step in PyTorch": 1000 * median(peer_seconds) / _STEPS,
            "rounds": f"{_ROUNDS} of {_STEPS} steps",
            "parameters": parameters,
            "parameters in PyTorch": peer.about["parameters"],
            "MFLOP of a patch's forward pass in PyTorch": peer.about["megaflops"],
            **checked,
            "devices made of the cores": jax.device_count("cpu"),
            "PyTorch's threads": peer.about["threads"],
            "PyTorch's way": peer.about["way"],
            "ms per step of PyTorch's ways": ", ".join(
                f"{way} {ms}" for way, ms in peer.about["ms of each way"].items()
            ),
        },
    )


def _write_exchange(
    folder: Path,
    config: ConfigDict,
    task: DiffusionTask,
    params: Params,
    batch: dict[str, jax.Array],
) -> dict[str, np.ndarray]:
    """Writes what the peer reads; see there.

    Returns:
        The answers that it should give, channels second.
    """
    (folder / "config.json").write_text(json.dumps(config.to_dict()))
    _save(folder / "batch.npz", batch)
    weights = {
        jax.tree_util.keystr(path, simple=True, separator="/"): value
        for path, value in jax.tree.leaves_with_path(params)
    }
    _save(folder / "weights.npz", weights)
    rng = np.random.default_rng(0)
    shapes = {
        "x": (4, _PATCH, _PATCH, CHANNELS),
        "c_noise": (4,),
        "conditions": (4, CONDITIONS),
        "cotangent": (4, _PATCH, _PATCH, 1),
    }
    inputs = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    _save(folder / "inputs.npz", {n: _channels_second(array) for n, array in inputs.items()})
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
