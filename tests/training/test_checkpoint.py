"""Checkpoints against damage, full disks, other models and other meshes."""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from femur_jax.errors import UserError
from femur_jax.files import CHECKSUMS
from femur_jax.training.checkpoint import Checkpoints
from femur_jax.training.state import TrainState
from femur_jax.training.transfer import transfer


def a_state(step, size=4096):
    params = {"kernel": step + jnp.arange(size, dtype=jnp.float32).reshape(-1, 8)}
    return TrainState(jnp.int32(step), params, params, {"count": jnp.int32(step)})


def shapes(state):
    return jax.tree.map(
        lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=a.sharding), state
    )


def same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """Checkpoints of steps 2 and 4."""
    folder = tmp_path_factory.mktemp("original") / "checkpoints"
    checkpoints = Checkpoints(folder)
    for step in (2, 4):
        checkpoints.save(a_state(step), step, {"next_batch": step}, {"loss": 1.0})
    checkpoints.close()
    return folder


@pytest.fixture
def folder(original, tmp_path):
    """A copy of `original` to damage."""
    return Path(shutil.copytree(original, tmp_path / "checkpoints"))


def largest(folder):
    return max((f for f in folder.rglob("*") if f.is_file()), key=lambda f: f.stat().st_size)


def flip_a_bit(step):
    file = largest(step)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def cut_short(step):
    file = largest(step)
    os.truncate(file, file.stat().st_size // 2)


DAMAGES = {
    "a flipped bit": flip_a_bit,
    "a file cut short": cut_short,
    "a lost file": lambda step: largest(step).unlink(),
    "a lost list of checksums": lambda step: (step / "state" / CHECKSUMS).unlink(),
    "killed in the middle": lambda step: shutil.rmtree(step / "run"),
    "a lost list of arrays": lambda step: (step / "state" / "_METADATA").write_text(""),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_the_checkpoint_before_a_damaged_one_is_used_and_one_line_says_so(folder, damage, capfd):
    damage(folder / "4")
    reader = Checkpoints(folder, read_only=True)
    assert reader.restore(shapes(a_state(0))).run == {"next_batch": 2}
    reader.close()
    [line] = capfd.readouterr().err.splitlines()
    assert "step 4" in line
    assert (folder / "4").exists()  # another process may still write it

    checkpoints = Checkpoints(folder)
    state, run = checkpoints.restore(shapes(a_state(0)))
    same(state, a_state(2))
    assert run == {"next_batch": 2}
    checkpoints.save(a_state(4), 4, {"next_batch": 4}, {})  # the run comes to that step again
    checkpoints.close()
    same(Checkpoints(folder).restore(shapes(a_state(0))).state, a_state(4))


def test_without_any_whole_checkpoint_the_run_does_not_start_again(folder):
    for step in ("2", "4"):
        flip_a_bit(folder / step)
    with pytest.raises(UserError, match=r"No checkpoint in .* is whole"):
        Checkpoints(folder).restore(shapes(a_state(0)))
    assert (folder / "4").exists()


def test_a_new_run_has_none(tmp_path):
    assert Checkpoints(tmp_path / "new").restore(shapes(a_state(0))) is None


def test_the_best_and_the_last_stay_even_when_opened_again(tmp_path):
    losses = {1: 0.5, 2: 0.1, 3: 0.4, 4: 0.3, 5: 0.6, 6: 0.2}
    for steps in ((1, 2, 3), (4, 5, 6)):
        checkpoints = Checkpoints(tmp_path / "checkpoints")
        for step in steps:
            checkpoints.save(a_state(step), step, {}, {"loss": losses[step]})
        checkpoints.close()
    assert Checkpoints(tmp_path / "checkpoints", read_only=True).steps == [2, 5, 6]


def test_without_a_loss_the_last_stay(tmp_path):
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    for step in (1, 2, 3):
        checkpoints.save(a_state(step), step, {}, {"score": 1.0})
    checkpoints.close()
    assert checkpoints.steps == [2, 3]


@pytest.mark.parametrize("width", [4, 16])
def test_another_model_is_refused(folder, width):
    other = a_state(0)
    other.params = {"kernel": jnp.zeros((512, width))}
    with pytest.raises(UserError, match=r"another model: it differs in 1 arrays.*params/kernel"):
        Checkpoints(folder).restore(shapes(other))


def test_a_model_with_other_arrays_is_refused(folder):
    other = replace(a_state(0), ema={})
    with pytest.raises(UserError, match="ema/kernel"):
        Checkpoints(folder).restore(shapes(other))


def test_restores_on_another_mesh(tmp_path):
    eight = jax.make_mesh((8,), ("fsdp",), axis_types=(jax.sharding.AxisType.Auto,))
    two = jax.make_mesh(
        (2,), ("fsdp",), devices=jax.devices()[:2], axis_types=(jax.sharding.AxisType.Auto,)
    )

    def placed(mesh):
        def put(array):
            spec = PartitionSpec("fsdp") if array.ndim else PartitionSpec()
            return jax.device_put(array, NamedSharding(mesh, spec))

        return jax.tree.map(put, a_state(3))

    checkpoints = Checkpoints(tmp_path / "checkpoints")
    checkpoints.save(placed(eight), 3, {}, {})
    checkpoints.close()
    state = Checkpoints(tmp_path / "checkpoints").restore(shapes(placed(two))).state
    same(state, a_state(3))
    assert state.params["kernel"].sharding == placed(two).params["kernel"].sharding


def test_a_full_disk_is_reported_and_the_checkpoint_before_is_whole(small_disk):
    rng = np.random.default_rng(0)  # zstd would compress regular numbers to nothing
    params = {"kernel": jnp.asarray(rng.random((1 << 18,), np.float32))}

    def big(step):
        return TrainState(jnp.int32(step), params, {}, {})

    checkpoints = Checkpoints(small_disk / "checkpoints", keep=9)
    with pytest.raises(UserError, match=r"disk of .* is full"):
        for step in range(1, 9):
            checkpoints.save(big(step), step, {"next_batch": step}, {"loss": 1.0})
            saved = step
        checkpoints.close()
    restored = Checkpoints(small_disk / "checkpoints").restore(shapes(big(0)))
    assert 1 <= restored.run["next_batch"] <= saved
    same(restored.state, big(restored.run["next_batch"]))


def test_another_model_starts_with_what_fits(folder, capsys):
    """The first 512 of 1024 rows do; a layer of another name does not."""
    everywhere = NamedSharding(jax.make_mesh((8,), ("x",), (AxisType.Auto,)), PartitionSpec("x"))
    params = {
        "kernel": jax.device_put(jnp.zeros((1024, 8)), everywhere),
        "other": jnp.ones((512, 8)),
    }
    state = TrainState(jnp.int32(0), params, params, {"count": jnp.int32(7)})
    checkpoints = Checkpoints(folder, read_only=True)
    step, arrays = checkpoints.matching(state)
    assert step == 4
    started = transfer(state, arrays, "a run")
    share = capsys.readouterr().out
    assert share == "66.7% of the parameters start from a run; new are params/other.\n"
    saved = a_state(4).params["kernel"]
    for tree in (started.params, started.ema):
        assert tree["kernel"].sharding == everywhere
        np.testing.assert_array_equal(tree["kernel"][: len(saved)], saved)
        assert not tree["kernel"][len(saved) :].any() and tree["other"].all()
    assert started.step == 0 and started.optimizer == state.optimizer
    with pytest.raises(UserError, match="No parameter of this model has the name and shape"):
        other = replace(state, params={"other": jnp.ones(3)})
        transfer(other, checkpoints.matching(other)[1], "a run")
    checkpoints.close()
