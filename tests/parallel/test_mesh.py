import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec
from ml_collections import ConfigDict

from femur_jax.errors import UserError
from femur_jax.parallel.mesh import check_batch_size, make_mesh
from femur_jax.parallel.rules import state_shardings


def mesh_config(data, fsdp, model):
    return ConfigDict({"data": data, "fsdp": fsdp, "model": model})


def test_axis_of_minus_one_takes_the_remaining_devices():
    assert dict(make_mesh(mesh_config(-1, 2, 1)).shape) == {"data": 4, "fsdp": 2, "model": 1}


@pytest.mark.parametrize("sizes", [(3, 1, 1), (-1, 3, 1), (-1, -1, 1), (16, 1, 1), (8, 0, 1)])
def test_sizes_that_do_not_fit_are_refused(sizes):
    with pytest.raises(UserError, match="8 devices"):
        make_mesh(mesh_config(*sizes))


def test_an_axis_that_a_rule_cannot_divide_is_not_split():
    """An example is an axis of 128 channels with 512 devices along fsdp."""
    mesh = make_mesh(mesh_config(1, 4, 2))
    rules = (("kernel", PartitionSpec(None, "fsdp", "model")),)
    state = {f"kernel{n}": jax.ShapeDtypeStruct((3, n, n), jnp.float32) for n in (3, 6, 8)}
    specs = jax.tree.map(lambda s: s.spec, state_shardings(state, mesh, rules))
    assert specs["kernel3"] == PartitionSpec(None, None, None)
    assert specs["kernel6"] == PartitionSpec(None, None, "model")
    assert specs["kernel8"] == PartitionSpec(None, "fsdp", "model")


def test_a_process_with_parts_of_two_model_groups_is_refused(monkeypatch):
    make_mesh(mesh_config(1, 1, 8))
    monkeypatch.setattr(jax, "local_device_count", lambda: 3)
    with pytest.raises(UserError, match=r"model axis of 8 .* the 3 devices"):
        make_mesh(mesh_config(1, 1, 8))


def test_batch_must_be_divisible():
    mesh = make_mesh(mesh_config(4, 2, 1))
    check_batch_size(16, mesh)
    for batch_size in (0, 12):
        with pytest.raises(UserError, match=f"batch of {batch_size}"):
            check_batch_size(batch_size, mesh)
    check_batch_size(16, mesh, accumulate=2)
    with pytest.raises(UserError, match="in 4 microbatches"):
        check_batch_size(16, mesh, accumulate=4)


def test_rules_come_first_and_fsdp_takes_the_longest_axis():
    mesh = make_mesh(mesh_config(2, 2, 2))
    state = {
        "params": {"conv": {"kernel": jnp.zeros((3, 6, 4))}, "head": {"kernel": jnp.zeros((4, 8))}},
        "count": jnp.zeros(()),
        "odd": jnp.zeros((3, 5)),
    }
    rules = ((r"head/kernel", PartitionSpec(None, "model")),)
    shapes = jax.eval_shape(lambda: state)
    specs = jax.tree.map(lambda s: s.spec, state_shardings(shapes, mesh, rules))
    assert specs["params"]["conv"]["kernel"] == PartitionSpec(None, "fsdp")
    assert specs["params"]["head"]["kernel"] == PartitionSpec(None, "model")
    assert specs["count"] == specs["odd"] == PartitionSpec()
