"""The loop's smallest task, which compiles in a moment."""

import hashlib

import grain
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import PartitionSpec
from ml_collections import ConfigDict

from femur_jax.data.loader import Stream
from femur_jax.training.state import TrainState


class LeastSquares:
    """Fits y = x W + b, with noise, by Adam."""

    name = "least squares"
    rules = ((r"kernel$", PartitionSpec(None, "model")),)
    sample_bytes = 0

    def __init__(self, *, shift: float = 0.0, width: int = 8):
        self.shift, self.width = shift, width
        self.optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(0.05))

    def init(self, key):
        params = {"kernel": jax.random.normal(key, (4, self.width)), "bias": jnp.zeros(8)}
        return TrainState(jnp.int32(0), params, params, self.optimizer.init(params))

    def streams(self):
        rng = np.random.default_rng(0)
        x = rng.normal(size=(64, 4)).astype(np.float32) + np.float32(self.shift)
        rows = [{"x": row, "y": np.outer(row, np.ones(8))[0]} for row in x]
        return [Stream(grain.MapDataset.source(rows).seed(0).shuffle().repeat())]

    def data_digest(self):
        samples = LeastSquares.streams(self)[0].samples
        return hashlib.sha256(b"".join(samples[n]["x"].tobytes() for n in range(64))).hexdigest()

    def learning_rate(self, step, steps):
        return 0.05

    def step(self, state, batch, key):
        def loss(params):
            estimate = batch["x"] @ params["kernel"] + params["bias"]
            noise = 0.1 * jax.random.normal(key, estimate.shape)
            return jnp.mean((estimate + noise - batch["y"]) ** 2)

        value, gradient = jax.value_and_grad(loss)(state.params)
        update, optimizer = self.optimizer.update(gradient, state.optimizer)
        params = optax.apply_updates(state.params, update)
        ema = jax.tree.map(lambda e, p: 0.9 * e + 0.1 * p, state.ema, params)
        return TrainState(state.step + 1, params, ema, optimizer), {"loss": value}

    def images(self, state):
        return {"samples": np.full((2, 8, 8, 1), float(state.step) / 9, np.float32)}


class KernelMean:
    """Measures the mean of the averaged kernel."""

    name = "kernel"
    every = 4

    def run(self, state):
        return {"mean": float(np.mean(state.ema["kernel"]))}


def least_squares_config():
    """Nine steps; checkpoints and logs fall on different ones."""
    train = {
        "steps": 9,
        "batch_size": 16,
        "log_every": 3,
        "checkpoint_every": 2,
        "images_every": 100,
    }
    mesh = {"data": -1, "fsdp": 1, "model": 1}
    return ConfigDict({"seed": 0, "profile": 0, "mesh": mesh, "train": train})
