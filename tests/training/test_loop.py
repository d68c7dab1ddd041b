"""The loop: what it saves, what it refuses, and how it goes on."""

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from femur_jax.data.loader import batches
from femur_jax.errors import UserError
from femur_jax.parallel.distributed import Preempted
from femur_jax.parallel.mesh import batch_sharding, make_mesh
from femur_jax.parallel.rules import state_shardings
from femur_jax.run_folder import claim
from femur_jax.training import loop
from femur_jax.training.accumulate import mean_over_parts
from femur_jax.training.monitor import read_scalars
from tests.training.least_squares import LeastSquares, least_squares_config


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """An undisturbed run: its folder and last state."""
    folder = tmp_path_factory.mktemp("run") / "run"
    return folder, loop.train(LeastSquares(), least_squares_config(), folder)


def same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_a_run_that_was_killed_ends_like_an_undisturbed_one(run, config, tmp_path):
    folder, undisturbed = run
    shutil.copytree(folder, tmp_path / "run")
    # What a kill after step 8 leaves; 7, 8 and 9 are logged together.
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "9")
    same(loop.train(LeastSquares(), config, tmp_path / "run"), undisturbed)
    assert read_scalars(tmp_path / "run") == read_scalars(folder)
    assert [line["step"] for line in read_scalars(folder)] == [3, 6, 9]


def test_a_finished_run_only_restores(run, config):
    folder, undisturbed = run
    before = sorted(path.name for path in folder.iterdir())
    same(loop.train(LeastSquares(), config, folder), undisturbed)
    same(loop.restore(LeastSquares(), config, folder), undisturbed)
    assert sorted(path.name for path in folder.iterdir()) == before


@pytest.mark.parametrize("sizes", [(1, 8, 1), (2, 2, 2)])
def test_goes_on_on_another_mesh(run, config, tmp_path, sizes):
    folder, undisturbed = run
    shutil.copytree(folder, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "9")
    config.mesh.update(dict(zip(("data", "fsdp", "model"), sizes, strict=True)))
    state = loop.train(LeastSquares(), config, tmp_path / "run")
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), state, undisturbed)


def test_another_config_is_refused(run, config):
    config.train.batch_size = 8
    with pytest.raises(UserError, match=r"another config .*config\.train\.batch_size"):
        loop.train(LeastSquares(), config, run[0])


def test_a_batch_that_the_mesh_cannot_divide_leaves_nothing(config, tmp_path):
    config.train.batch_size = 12
    with pytest.raises(UserError, match="batch of 12"):
        loop.train(LeastSquares(), config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_restoring_without_a_checkpoint_is_told(config, tmp_path):
    with pytest.raises(UserError, match="no checkpoint"):
        loop.restore(LeastSquares(), config, tmp_path)
    assert not list(tmp_path.iterdir())


class Signalled(LeastSquares):
    """Gets a SIGTERM when its sample of some number is read."""

    def __init__(self, sample):
        super().__init__()
        self._sample = sample

    def streams(self):
        def read(index, row):
            if index == self._sample:
                os.kill(os.getpid(), signal.SIGTERM)
            return row

        [stream] = super().streams()
        return [stream._replace(samples=stream.samples.map_with_index(read))]


def test_after_sigterm_no_step_is_lost(config, tmp_path):
    config.train.update(steps=60, checkpoint_every=10)
    undisturbed = loop.train(LeastSquares(), config, tmp_path / "undisturbed")
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Preempted):
        # Read up to 32 batches ahead, where there are 16 cores.
        loop.train(Signalled(16 * 45), config, tmp_path / "run")
    assert signal.getsignal(signal.SIGTERM) is before
    stopped = int(loop.restore(LeastSquares(), config, tmp_path / "run").step)
    lines = read_scalars(tmp_path / "run")
    assert 10 < stopped < 60
    assert lines[-1]["step"] == stopped - stopped % 3  # nothing was done after it
    same(loop.train(LeastSquares(), config, tmp_path / "run"), undisturbed)
    assert read_scalars(tmp_path / "run") == read_scalars(tmp_path / "undisturbed")


def test_goes_on_with_the_same_data_only(run, config):
    with pytest.raises(UserError, match="other data"):
        loop.train(LeastSquares(shift=1.0), config, run[0])


def test_another_model_in_the_same_folder_is_refused(run, config):
    with pytest.raises(UserError, match="another model"):
        loop.train(LeastSquares(width=16), config, run[0])


class Broken(LeastSquares):
    """Its loss or its parameters are no numbers from some step on."""

    def __init__(self, what):
        super().__init__()
        self._what = what

    def step(self, state, batch, key):
        healthy, metrics = super().step(state, batch, key)
        broken = jnp.where(state.step >= 4, jnp.nan, 1.0)
        if self._what == "loss":
            return healthy, {"loss": metrics["loss"] * broken}
        params = jax.tree.map(lambda array: array * broken, healthy.params)
        return replace(healthy, params=params), metrics


@pytest.mark.parametrize(
    ("what", "log_every", "message"),
    [
        ("loss", 1, "loss: nan at step 5"),
        ("loss", 100, "loss: nan at step 5"),
        ("params", 100, "parameter is not finite at step 6"),
    ],
)
def test_divergence_is_told_and_never_saved(config, tmp_path, what, log_every, message):
    config.train.log_every = log_every
    with pytest.raises(UserError, match=message):
        loop.train(Broken(what), config, tmp_path)
    assert int(loop.restore(LeastSquares(), config, tmp_path).step) == 4


def test_a_folder_that_cannot_be_written_is_told(config, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file/run cannot be written"):
        loop.train(LeastSquares(), config, tmp_path / "file" / "run")


HOLDER = """
import fcntl, sys
lock = open(sys.argv[1], "a+")
fcntl.flock(lock, fcntl.LOCK_EX)
print("process 1 on elsewhere", file=lock, flush=True)
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def held(tmp_path):
    """A folder that another process trains in, and this process."""
    folder = tmp_path / "run"
    folder.mkdir()
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder / "train.lock")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert holder.stdout.readline() == b"held\n"
    yield folder, holder
    holder.kill()
    holder.communicate()


def test_a_second_run_in_a_folder_is_refused_until_the_first_is_dead(config, held):
    folder, holder = held
    with pytest.raises(UserError, match=r"in use by another run .*process 1 on elsewhere"):
        loop.train(LeastSquares(), config, folder)
    assert [path.name for path in folder.iterdir()] == ["train.lock"]
    holder.kill()
    holder.wait()
    claim(folder, config, stage="train", free=loop.FREE_FIELDS)
    # And this process has it now.
    with (folder / "train.lock").open() as file, pytest.raises(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_job_that_comes_back_waits_for_the_lock_of_its_dead_node(config, held, monkeypatch):
    folder, holder = held
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    threading.Timer(1.0, holder.kill).start()
    claim(folder, config, stage="train", free=loop.FREE_FIELDS)


class Copying(loop.Update):
    """Needs something from the host in each step."""

    def __call__(self, state, batch, key):
        jnp.sin(np.zeros(16, np.float32))
        return super().__call__(state, batch, key)


def test_nothing_goes_to_the_devices_unseen(config, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "Update", Copying)
    with pytest.raises(jax.errors.JaxRuntimeError, match="Disallowed host-to-device transfer"):
        loop.train(LeastSquares(), config, tmp_path / "run")


def test_an_update_takes_the_memory_of_the_state(config):
    task, mesh = LeastSquares(), make_mesh(config.mesh)
    key = jax.random.key(0)
    shardings = state_shardings(jax.eval_shape(task.init, key), mesh, task.rules)
    before = jax.jit(task.init, out_shardings=shardings)(key)
    batch = next(batches(task.streams(), batch_size=16, start=0, sharding=batch_sharding(mesh)))
    key = jax.device_put(key, NamedSharding(mesh, PartitionSpec()))
    loop.Update(task, shardings)(before, batch, key)
    assert before.optimizer[1][0].mu["kernel"].is_deleted()
    assert before.params["kernel"].is_deleted()


@pytest.mark.parametrize("parts", [2, 4])
def test_the_gradient_of_parts_is_that_of_the_whole(parts):
    mesh = make_mesh(ConfigDict({"data": 2, "fsdp": 4, "model": 1}))
    key = jax.random.key(0)
    params = jax.random.normal(key, (4, 8))
    x = np.random.default_rng(0).normal(size=(32, 4)).astype(np.float32)
    batch = jax.device_put({"x": x}, batch_sharding(mesh))

    def loss(params, batch):
        return jnp.mean(jnp.tanh(batch["x"] @ params) ** 2)

    @jax.jit
    def accumulated(params, batch):
        return mean_over_parts(
            lambda part, _: jax.value_and_grad(loss)(params, part), batch, key, parts
        )

    value, gradient = accumulated(params, batch)
    hidden = np.tanh(x.astype(float) @ np.asarray(params, float))
    expected = x.T @ (2 * hidden * (1 - hidden**2)) / hidden.size
    np.testing.assert_allclose(value, np.mean(hidden**2), rtol=1e-5)
    np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-7)


class Validated(LeastSquares):
    """Its validation losses are given, one for each checkpoint."""

    def __init__(self, *losses):
        super().__init__()
        self._losses = iter(losses)

    def validate(self, ema):
        return {"loss": next(self._losses), "mean": float(ema["kernel"].mean())}


@pytest.mark.parametrize(
    ("losses", "patience", "last", "best"),
    [
        ((5.0, 4.0, 4.5, 4.2, 3.0), 2, 8, 4),  # ended before the 3.0
        ((5.0, 4.0, 4.5, 3.0, 3.5), 2, 9, 8),
        ((5.0, 1.0, 4.5, 3.0, 3.5), 0, 9, 4),
        ((5.0, 4.0, 4.0, 4.5, 4.5), 2, 9, 6),  # the last of equals
    ],
)
def test_ends_without_a_better_validation_and_keeps_the_best(
    config, tmp_path, losses, patience, last, best
):
    config.train.update(patience=patience)
    state = loop.train(Validated(*losses), config, tmp_path / "run")
    assert int(state.step) == last
    assert int(loop.restore(LeastSquares(), config, tmp_path / "run").step) == best
    logged = [line for line in read_scalars(tmp_path / "run") if "validation/loss" in line]
    count = len(logged)
    assert [line["step"] for line in logged] == [2, 4, 6, 8, 9][:count]
    # It has ended: nothing is done any more.
    same(loop.train(Validated(), config, tmp_path / "run"), state)
    # What a kill leaves ends in the same way.
    shutil.rmtree(tmp_path / "run" / "checkpoints" / str(last))
    same(loop.train(Validated(*losses[count - 1 :]), config, tmp_path / "run"), state)
    assert int(loop.restore(LeastSquares(), config, tmp_path / "run").step) == best


def test_a_stop_between_validations_is_never_the_best(config, tmp_path):
    config.train.update(log_every=1, checkpoint_every=4)
    signalled = Signalled(1)
    signalled.validate = lambda ema: {"loss": 0.0}
    with pytest.raises(Preempted):
        loop.train(signalled, config, tmp_path / "run")
    assert int(loop.restore(LeastSquares(), config, tmp_path / "run").step) < 4
    loop.train(Validated(99.0, 100.0, 101.0), config, tmp_path / "run")  # more than in training
    assert int(loop.restore(LeastSquares(), config, tmp_path / "run").step) == 4
