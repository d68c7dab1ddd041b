"""Losses by group and moving averages in the loop, on a model of one number."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from femur_jax.data.loader import Pool, random_patches
from femur_jax.errors import UserError
from femur_jax.training import ema, loop
from femur_jax.training.checkpoint import Snapshots
from femur_jax.training.monitor import read_scalars
from femur_jax.training.state import init_state, update_state


class Falling:
    """Its parameter after step t is -t, and so is its loss; level 1 breaks at a given step."""

    name = "falling"
    rules = ()
    sample_bytes = 0

    def __init__(self, dataset, *, breaks_at):
        self.dataset, self.breaks_at = dataset, breaks_at
        self.optimizer = optax.sgd(1.0)

    def init(self, key):
        params = {"x": jnp.zeros(())}
        return init_state(params, ema.init(params, (0.1,)), self.optimizer)

    def streams(self):
        return random_patches(Pool([self.dataset]), level_weights=(1.0,), seed=0)

    def data_digest(self):
        return Pool([self.dataset]).digest()

    def learning_rate(self, step, steps):
        return 1.0

    def step(self, state, batch, key):
        state = update_state(state, {"x": jnp.ones(())}, self.optimizer, ema.update)
        t = state.step.astype(jnp.float32)
        level_1 = jnp.where(state.step == self.breaks_at, jnp.nan, 10.0)
        even = 1 - t % 2
        return state, {
            "loss": -t,
            "loss_level_0": jnp.stack([t * even, 4 * even]),  # nothing to add in odd steps
            "loss_level_1": jnp.stack([level_1, jnp.float32(8)]),
            "loss_level_2": jnp.zeros(2),
        }

    def images(self, state):
        return {}


def test_sums_are_divided_by_counts_and_nan_is_reported(dataset, diffusion_config, tmp_path):
    config = diffusion_config.copy_and_resolve_references()
    config.train.update(steps=8, log_every=2, checkpoint_every=2, snapshot_every=1)
    task = Falling(dataset, breaks_at=5)
    with pytest.raises(UserError, match="loss_level_1: nan at step 5"):
        loop.train(task, config, tmp_path)
    lines = read_scalars(tmp_path)
    assert [line["step"] for line in lines] == [2, 4]
    for line in lines:
        t = line["step"]
        assert line["loss"] == pytest.approx(0.5 - t)  # the mean of steps t - 1 and t
        assert line["loss_level_0"] == pytest.approx(t / 4)  # from the even step alone
        assert line["loss_level_1"] == pytest.approx(10 / 8)
        assert "loss_level_2" not in line
    snapshots = Snapshots(tmp_path / "snapshots")
    state = loop.restore(task, config, tmp_path)
    assert int(state.step) == 4
    assert {2, 4} <= set(snapshots.steps)
    for step in (2, 4):
        gamma = ema.gamma_of(0.1)
        share = 1 - (1 - 1 / np.arange(1.0, step + 1)) ** (gamma + 1)
        expected = 0.0
        for number, s in enumerate(share, start=1):
            expected = (1 - s) * expected - s * number
        stored = snapshots.restore(step, state.ema)["0.1"]["x"]
        assert float(stored) == pytest.approx(expected, rel=1e-5)
    snapshots.close()
