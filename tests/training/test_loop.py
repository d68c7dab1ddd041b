"""The loop, checked on the smallest denoiser."""

import json
import shutil

import jax
import numpy as np
import pytest

from femur_jax.data.loader import batches
from femur_jax.diffusion.task import DiffusionTask
from femur_jax.errors import UserError
from femur_jax.parallel.mesh import batch_sharding, make_mesh
from femur_jax.parallel.rules import state_shardings
from femur_jax.training import loop
from femur_jax.training.checkpoint import Checkpoints
from femur_jax.training.monitor import read_scalars


@pytest.fixture(scope="module")
def run(dataset, diffusion_config, tmp_path_factory):
    """An undisturbed run: its folder and last state."""
    folder = tmp_path_factory.mktemp("run") / "run"
    state = loop.train(DiffusionTask(diffusion_config, dataset), diffusion_config, folder)
    return folder, jax.device_get(state)


def same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_a_run_that_was_killed_ends_like_an_undisturbed_one(
    run, dataset, diffusion_config, tmp_path
):
    folder, undisturbed = run
    shutil.copytree(folder, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "6")  # what a kill after step 4 leaves
    task = DiffusionTask(diffusion_config, dataset)
    state = loop.train(task, diffusion_config, tmp_path / "run")
    assert int(state.step) == 6
    same(jax.device_get(state), undisturbed)
    assert read_scalars(tmp_path / "run") == read_scalars(folder)


def test_a_finished_run_only_restores(run, dataset, diffusion_config):
    folder, undisturbed = run
    before = sorted(path.name for path in folder.iterdir())
    task = DiffusionTask(diffusion_config, dataset)
    same(jax.device_get(loop.train(task, diffusion_config, folder)), undisturbed)
    same(jax.device_get(loop.restore(task, diffusion_config, folder)), undisturbed)
    assert sorted(path.name for path in folder.iterdir()) == before


def test_scalars_and_images_are_in_the_event_file(run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder, _ = run
    events = EventAccumulator(str(folder), size_guidance={"tensors": 0}).Reload()
    lines = read_scalars(folder)
    assert [line["step"] for line in lines] == [2, 4, 6]
    assert {"loss", "samples"} <= {tag.split("/")[0] for tag in events.Tags()["tensors"]}
    logged = [
        float(
            np.frombuffer(
                e.tensor_proto.tensor_content or np.float32(e.tensor_proto.float_val[0]).tobytes(),
                np.float32,
            )[0]
        )
        for e in events.Tensors("loss")
    ]
    np.testing.assert_allclose(logged, [line["loss"] for line in lines], rtol=1e-6)


@pytest.mark.parametrize("sizes", [(8, 1, 1), (2, 4, 1)])
def test_eight_devices_give_the_loss_of_one(dataset, diffusion_config, sizes):
    """The same losses and gradients, whether the batch, the state, or both are divided."""
    task = DiffusionTask(diffusion_config, dataset)
    key = jax.random.key(0)

    def losses(mesh):
        shardings = state_shardings(jax.eval_shape(task.init, key), mesh, task.rules)
        state = jax.jit(task.init, out_shardings=shardings)(key)
        step = jax.jit(task.step, out_shardings=(shardings, None))
        stream = batches(task.streams(), batch_size=8, start=0, sharding=batch_sharding(mesh))
        found = []
        for _ in range(3):
            state, metrics = step(state, next(stream), key)
            found.append([float(metrics["loss"]), float(metrics["gradient_norm"])])
        return found, state

    one = jax.make_mesh(
        (1, 1, 1),
        ("data", "fsdp", "model"),
        devices=jax.devices()[:1],
        axis_types=(jax.sharding.AxisType.Auto,) * 3,
    )
    config = diffusion_config.mesh.copy_and_resolve_references()
    config.update(data=sizes[0], fsdp=sizes[1], model=sizes[2])
    eight = make_mesh(config)
    expected, _ = losses(one)
    found, state = losses(eight)
    np.testing.assert_allclose(found, expected, rtol=2e-4)
    kernel = state.params["up"]["0"]["0"]["conv1"]["kernel"]
    held = kernel.addressable_shards[0].data.size
    assert held * sizes[1] == kernel.size


def test_another_config_is_refused(run, dataset, diffusion_config):
    folder, _ = run
    config = diffusion_config.copy_and_resolve_references()
    config.train.learning_rate = 0.5
    with pytest.raises(UserError, match=r"another config .*config\.train\.learning_rate"):
        loop.train(DiffusionTask(config, dataset), config, folder)


def test_a_batch_that_the_mesh_cannot_divide_leaves_nothing(dataset, diffusion_config, tmp_path):
    config = diffusion_config.copy_and_resolve_references()
    config.train.batch_size = 12
    with pytest.raises(UserError, match="batch of 12"):
        loop.train(DiffusionTask(config, dataset), config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_divergence_is_told_and_the_last_checkpoint_kept(dataset, diffusion_config, tmp_path):
    config = diffusion_config.copy_and_resolve_references()
    config.train.update(steps=8, log_every=1, checkpoint_every=1)
    task = DiffusionTask(config, dataset)
    healthy = task.step

    def step(state, batch, key):
        state, metrics = healthy(state, batch, key)
        return state, metrics | {"loss": jax.numpy.where(state.step == 4, np.nan, metrics["loss"])}

    task.step = step
    with pytest.raises(UserError, match="nan at step 4"):
        loop.train(task, config, tmp_path)
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    assert checkpoints.steps == [2, 3]
    checkpoints.close()


def test_restoring_without_a_checkpoint_is_told(dataset, diffusion_config, tmp_path):
    with pytest.raises(UserError, match="no checkpoint"):
        loop.restore(DiffusionTask(diffusion_config, dataset), diffusion_config, tmp_path)


def test_a_line_cut_short_by_a_kill_is_left_out(tmp_path):
    (tmp_path / "scalars.jsonl").write_text(json.dumps({"step": 1}) + '\n{"step": 2, "lo')
    assert read_scalars(tmp_path) == [{"step": 1}]
