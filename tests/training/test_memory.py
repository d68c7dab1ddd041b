"""Steps that do not fit the memory of a device are refused before they are compiled."""

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from femur_jax.errors import UserError
from femur_jax.parallel.mesh import make_mesh
from femur_jax.training.memory import check_memory, device_memory
from femur_jax.training.program import Program
from tests.training.least_squares import LeastSquares

SAMPLE = 1000


@pytest.fixture
def program():
    return Program(LeastSquares(), make_mesh(ConfigDict({"data": 4, "fsdp": 2, "model": 1})))


def config(accumulate):
    return ConfigDict({"train": {"batch_size": 8 * 12, "accumulate": accumulate}})


def test_state_bytes_are_those_on_the_first_device(program):
    state = program.init(jax.random.key(0))
    shards = [leaf.addressable_shards[0].data for leaf in jax.tree.leaves(state)]
    assert program.state_bytes == sum(np.asarray(shard).nbytes for shard in shards)


def test_a_refusal_names_the_microbatches_that_fit(program):
    limit = program.state_bytes + 4 * SAMPLE  # 4 of the 12 samples of a device at once
    check_memory(config(3), program, SAMPLE, limit)
    with pytest.raises(UserError, match=r"12 samples on each device .*accumulate=3\."):
        check_memory(config(1), program, SAMPLE, limit)
    with pytest.raises(UserError, match=r"a larger config\.mesh\.fsdp"):
        check_memory(config(3), program, SAMPLE, program.state_bytes)


def test_nothing_is_refused_where_memory_or_need_is_unknown(program):
    assert device_memory() is None  # on a CPU
    check_memory(config(1), program, SAMPLE, None)
    check_memory(config(1), program, 0, 1)
