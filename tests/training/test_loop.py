"""The loop: what it saves, what it refuses, and how it resumes."""

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
import optax
import pytest
from ml_collections import ConfigDict

from femur_jax.data.loader import batches
from femur_jax.errors import UserError
from femur_jax.parallel.distributed import Preempted
from femur_jax.parallel.mesh import batch_sharding, make_mesh
from femur_jax.run_folder import claim
from femur_jax.training import loop
from femur_jax.training.accumulate import mean_over_microbatches
from femur_jax.training.monitor import read_scalars
from femur_jax.training.program import Program
from tests.training.least_squares import KernelMean, LeastSquares, least_squares_config


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
    # The state after a kill at step 8; steps 7, 8 and 9 are logged together.
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
def test_resumes_on_another_mesh(run, config, tmp_path, sizes):
    folder, undisturbed = run
    shutil.copytree(folder, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "9")
    config.mesh.update(dict(zip(("data", "fsdp", "model"), sizes, strict=True)))
    state = loop.train(LeastSquares(), config, tmp_path / "run")
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), state, undisturbed)


class Scheduled(LeastSquares):
    """Its learning rate falls linearly to 0 at the end of the run."""

    def __init__(self, steps):
        super().__init__()
        self.optimizer = optax.adam(optax.linear_schedule(0.05, 0.0, steps))

    def learning_rate(self, step, steps):
        return float(optax.linear_schedule(0.05, 0.0, steps)(step))


def test_a_finished_run_can_be_made_longer(config, tmp_path, capsys):
    config.train.steps = 6
    loop.train(Scheduled(6), config, tmp_path)
    config.train.update(steps=12, log_every=2, checkpoint_every=4)
    state = loop.train(Scheduled(12), config, tmp_path)
    assert "at step 6: 0.025 instead of 0, and 0 at the end." in capsys.readouterr().out
    assert [line["step"] for line in read_scalars(tmp_path)] == [3, 6, 8, 10, 12]
    # The same by hand: six steps of each schedule, on the batches of one run.
    mesh = make_mesh(config.mesh)
    programs = [Program(Scheduled(steps), mesh) for steps in (6, 12)]
    key = programs[0].key(config.seed)
    stream = batches(
        LeastSquares().streams(), batch_size=16, start=0, sharding=batch_sharding(mesh)
    )
    expected = programs[0].init(jax.random.key(config.seed))
    for step in range(12):
        expected, _ = programs[step // 6].update(expected, next(stream), key)
    same(state, expected)


def test_intervals_of_zero_leave_the_end(config, tmp_path):
    config.train.update(steps=4, log_every=0, checkpoint_every=0, images_every=0)
    assert int(loop.train(LeastSquares(), config, tmp_path).step) == 4
    assert [line["step"] for line in read_scalars(tmp_path)] == [4]


def test_a_constant_learning_rate_is_reported_as_unchanged(config, tmp_path, capsys):
    config.train.steps = 2
    loop.train(LeastSquares(), config, tmp_path)
    config.train.steps = 4
    assert int(loop.train(LeastSquares(), config, tmp_path).step) == 4
    assert "4 instead of 2. Learning rate at step 2: unchanged, 0.05." in capsys.readouterr().out


def test_evaluations_are_logged_at_their_steps_and_at_the_end(run, config, tmp_path):
    folder, undisturbed = run
    same(loop.train(LeastSquares(), config, tmp_path, [KernelMean()]), undisturbed)
    lines = read_scalars(tmp_path)
    evaluations = [line for line in lines if "kernel/mean" in line]
    assert [line["step"] for line in evaluations] == [4, 8, 9]
    assert evaluations[-1]["kernel/mean"] == float(np.mean(undisturbed.ema["kernel"]))
    assert [line for line in lines if line not in evaluations] == read_scalars(folder)


def test_another_config_is_refused(run, config):
    config.train.batch_size = 8
    with pytest.raises(UserError, match=r"another config .*config\.train\.batch_size"):
        loop.train(LeastSquares(), config, run[0])


def test_a_batch_that_the_mesh_cannot_divide_leaves_nothing(config, tmp_path):
    config.train.batch_size = 12
    with pytest.raises(UserError, match="batch of 12"):
        loop.train(LeastSquares(), config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_restoring_without_a_checkpoint_is_an_error(config, tmp_path):
    with pytest.raises(UserError, match="no checkpoint"):
        loop.restore(LeastSquares(), config, tmp_path)
    assert not list(tmp_path.iterdir())


class Signalled(LeastSquares):
    """Sends a SIGTERM when the sample of some number is read."""

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
        # The loader reads up to 32 batches ahead on 16 cores.
        loop.train(Signalled(16 * 45), config, tmp_path / "run")
    assert signal.getsignal(signal.SIGTERM) is before
    stopped = int(loop.restore(LeastSquares(), config, tmp_path / "run").step)
    lines = read_scalars(tmp_path / "run")
    assert 10 < stopped < 60
    assert lines[-1]["step"] == stopped - stopped % 3  # nothing happened after it
    same(loop.train(LeastSquares(), config, tmp_path / "run"), undisturbed)
    assert read_scalars(tmp_path / "run") == read_scalars(tmp_path / "undisturbed")


def test_resumes_with_the_same_data_only(run, config):
    with pytest.raises(UserError, match="other data"):
        loop.train(LeastSquares(shift=1.0), config, run[0])


def test_another_model_in_the_same_folder_is_refused(run, config):
    with pytest.raises(UserError, match="another model"):
        loop.train(LeastSquares(width=16), config, run[0])


class Broken(LeastSquares):
    """Its loss or its parameters become NaN at some step."""

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
def test_divergence_is_reported_and_never_saved(config, tmp_path, what, log_every, message):
    config.train.log_every = log_every
    with pytest.raises(UserError, match=message):
        loop.train(Broken(what), config, tmp_path)
    assert int(loop.restore(LeastSquares(), config, tmp_path).step) == 4


def test_a_folder_that_cannot_be_written_is_an_error(config, tmp_path):
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
    """A folder that another process trains in, and that process."""
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
    # Now this process holds it.
    with (folder / "train.lock").open() as file, pytest.raises(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_restarted_job_waits_for_the_lock_of_its_dead_node(config, held, monkeypatch):
    folder, holder = held
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    threading.Timer(1.0, holder.kill).start()
    claim(folder, config, stage="train", free=loop.FREE_FIELDS)
    assert holder.wait(timeout=10) == -signal.SIGKILL  # it held the lock until its death
    assert str(os.getpid()) in (folder / "train.lock").read_text()


class Copying(Program):
    """A program that needs something from the host in each step."""

    def update(self, state, batch, key):
        jnp.sin(np.zeros(16, np.float32))
        return super().update(state, batch, key)


def test_nothing_goes_to_the_devices_unseen(config, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "Program", Copying)
    with pytest.raises(jax.errors.JaxRuntimeError, match="Disallowed host-to-device transfer"):
        loop.train(LeastSquares(), config, tmp_path / "run")


def test_an_update_takes_the_memory_of_the_state(config):
    task, mesh = LeastSquares(), make_mesh(config.mesh)
    program = Program(task, mesh)
    before = program.init(jax.random.key(0))
    batch = next(batches(task.streams(), batch_size=16, start=0, sharding=batch_sharding(mesh)))
    program.update(before, batch, program.key(0))
    assert before.optimizer[1][0].mu["kernel"].is_deleted()
    assert before.params["kernel"].is_deleted()


@pytest.mark.parametrize("microbatches", [2, 4])
def test_the_gradient_of_microbatches_is_that_of_the_whole(microbatches):
    mesh = make_mesh(ConfigDict({"data": 2, "fsdp": 4, "model": 1}))
    key = jax.random.key(0)
    params = jax.random.normal(key, (4, 8))
    x = np.random.default_rng(0).normal(size=(32, 4)).astype(np.float32)
    batch = jax.device_put({"x": x}, batch_sharding(mesh))

    def loss(params, batch):
        return jnp.mean(jnp.tanh(batch["x"] @ params) ** 2)

    @jax.jit
    def accumulated(params, batch):
        return mean_over_microbatches(
            lambda batch, _: jax.value_and_grad(loss)(params, batch), batch, key, microbatches
        )

    value, gradient = accumulated(params, batch)
    hidden = np.tanh(x.astype(float) @ np.asarray(params, float))
    expected = x.T @ (2 * hidden * (1 - hidden**2)) / hidden.size
    np.testing.assert_allclose(value, np.mean(hidden**2), rtol=1e-5)
    np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-7)


class Losses:
    """An evaluator whose losses are given."""

    name = "validation"

    def __init__(self, *losses, every=2):
        self.every = every
        self._losses = iter(losses)

    def run(self, state):
        return {"loss": next(self._losses), "mean": float(state.ema["kernel"].mean())}


@pytest.mark.parametrize(
    ("losses", "patience", "last", "best"),
    [
        ((5.0, 4.0, 4.5, 4.2, 3.0), 2, 8, 4),  # stops before the 3.0
        ((5.0, 4.0, 4.5, 3.0, 3.5), 2, 9, 8),
        ((5.0, 1.0, 4.5, 3.0, 3.5), 0, 9, 4),
        ((5.0, 4.0, 4.0, 4.5, 4.5), 2, 9, 6),  # the last of equals
    ],
)
def test_stops_without_a_better_evaluation_and_keeps_the_best(
    config, tmp_path, losses, patience, last, best
):
    config.train.update(patience=patience)
    state = loop.train(LeastSquares(), config, tmp_path / "run", [Losses(*losses)])
    assert int(state.step) == last
    assert int(loop.restore(LeastSquares(), config, tmp_path / "run").step) == best
    logged = [line for line in read_scalars(tmp_path / "run") if "validation/loss" in line]
    count = len(logged)
    assert [line["step"] for line in logged] == [2, 4, 6, 8, 9][:count]
    # The run is over: another call changes nothing.
    same(loop.train(LeastSquares(), config, tmp_path / "run", [Losses()]), state)
    # A killed run ends in the same way.
    shutil.rmtree(tmp_path / "run" / "checkpoints" / str(last))
    rest = Losses(*losses[count - 1 :])
    same(loop.train(LeastSquares(), config, tmp_path / "run", [rest]), state)
    assert int(loop.restore(LeastSquares(), config, tmp_path / "run").step) == best


def test_a_stop_between_evaluations_is_never_the_best(config, tmp_path):
    config.train.update(log_every=1, checkpoint_every=4)
    with pytest.raises(Preempted):
        loop.train(Signalled(1), config, tmp_path / "run", [Losses(0.0, every=4)])
    assert int(loop.restore(LeastSquares(), config, tmp_path / "run").step) < 4
    losses = Losses(99.0, 100.0, 101.0, every=4)  # higher than the losses of training
    loop.train(LeastSquares(), config, tmp_path / "run", [losses])
    assert int(loop.restore(LeastSquares(), config, tmp_path / "run").step) == 4
