"""Collectives as they stand in compiled programs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from femur_jax.gpu_plan import hlo
from femur_jax.gpu_plan.collectives import Collective, collectives, replica_groups


def found_in(program):
    """The collectives of a compiled program on two nodes of four devices."""
    return list(collectives(hlo.parse(program), devices=8, gpus_a_node=4))


@pytest.mark.parametrize(
    ("text", "groups"),
    [
        ("replica_groups={{0,1},{2,3}}", [[0, 1], [2, 3]]),
        ("replica_groups={}", [[0, 1, 2, 3]]),
        ("replica_groups=[2,2]<=[4]", [[0, 1], [2, 3]]),
        ("replica_groups=[2,2]<=[2,2]T(1,0)", [[0, 2], [1, 3]]),
        ("replica_groups=mesh['a'=2,'b'=2] {'b'}", [[0, 1], [2, 3]]),
        ("replica_groups=mesh['a'=2,'b'=2], device_ids=([2,2]T(1,0)) {'b'}", [[0, 2], [1, 3]]),
        ("replica_groups=mesh['a'=2,'b'=2] {'a','b'}", [[0, 1, 2, 3]]),
        ("source_target_pairs={{0,1},{1,0}}", [[0, 1], [1, 0]]),
    ],
)
def test_groups_in_all_forms(text, groups):
    np.testing.assert_array_equal(replica_groups(f"all-reduce(), {text}, metadata={{}}", 4), groups)


def test_another_form_is_refused():
    with pytest.raises(ValueError, match="no replica groups"):
        replica_groups("all-reduce(), replica_groups=@table[3]", 4)


@pytest.mark.parametrize(
    ("kind", "size", "sent"),
    # A ring of 4: what each device sends (Patarasuk and Yuan 2009 for the all-reduce).
    [("all-reduce", 80, 120), ("all-gather", 80, 60), ("reduce-scatter", 20, 60)],
)
def test_what_a_ring_sends(kind, size, sent):
    assert Collective(kind, size, devices=4, in_node=True).sent == sent


def test_a_gradient_over_a_batch_is_one_reduction():
    mesh = jax.make_mesh((2, 4), ("a", "b"), axis_types=(jax.sharding.AxisType.Auto,) * 2)

    def found(batch_axes, part):
        place = NamedSharding(mesh, PartitionSpec(batch_axes))
        x = jax.ShapeDtypeStruct((64, 16), jnp.float32, sharding=place)
        w = jax.ShapeDtypeStruct(
            (16, 32), jnp.float32, sharding=NamedSharding(mesh, PartitionSpec())
        )
        gradient = jax.jit(jax.grad(lambda w, x: jnp.sum(jnp.tanh(x @ w))))
        program = gradient.lower(w, x).compile().as_text()
        return [c for c in found_in(program) if c.bytes > 100] == [
            Collective("all-reduce", 16 * 32 * 4, *part)
        ]

    assert found(("a", "b"), (8, False))
    assert found("b", (4, True))
    assert found("a", (2, False))


def test_collectives_in_loops_count_as_often_as_they_run():
    mesh = jax.make_mesh((8,), ("a",), axis_types=(jax.sharding.AxisType.Auto,))

    def sums(total, row):
        total = jax.lax.fori_loop(0, 3, lambda _, t: jnp.tanh(jax.lax.psum(t * row, "a")), total)
        return jax.lax.psum(total, "a"), None

    def program(rows):  # of 16 numbers on each device: 5 x 3 sums, 5 sums, 1 sum
        total, _ = jax.lax.scan(sums, rows[0], rows)
        return jax.lax.psum(jnp.sin(total), "a")

    over = PartitionSpec(None, "a")
    rows = jax.ShapeDtypeStruct((5, 128), jnp.float32, sharding=NamedSharding(mesh, over))
    summed = jax.shard_map(
        program, mesh=mesh, in_specs=over, out_specs=PartitionSpec(), check_vma=False
    )
    found = found_in(jax.jit(summed).lower(rows).compile().as_text())
    assert {(c.kind, c.bytes, c.devices, c.in_node) for c in found} == {
        ("all-reduce", 16 * 4, 8, False)
    }
    assert sum(c.times for c in found) == 21


def test_a_loop_of_unknown_length_is_refused():
    mesh = jax.make_mesh((8,), ("a",), axis_types=(jax.sharding.AxisType.Auto,))

    def program(x):
        return jax.lax.while_loop(lambda t: t[0] < 9, lambda t: jax.lax.psum(t, "a"), x)

    x = jax.ShapeDtypeStruct((8,), jnp.float32, sharding=NamedSharding(mesh, PartitionSpec("a")))
    looped = jax.shard_map(
        program,
        mesh=mesh,
        in_specs=PartitionSpec("a"),
        out_specs=PartitionSpec("a"),
        check_vma=False,
    )
    program = jax.jit(looped).lower(x).compile().as_text()
    with pytest.raises(ValueError, match="how often"):
        found_in(program)
