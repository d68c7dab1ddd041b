"""Shardings of the arrays of a train state, chosen by rules for parameter paths."""

import re
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

Rules = Sequence[tuple[str, PartitionSpec]]
"""Pairs of a regular expression for paths such as `params/down/0/conv/kernel`, and the mesh axis,
if any, over which each axis of the array is split."""


def state_shardings(state: Any, mesh: Mesh, rules: Rules = ()) -> Any:
    """Chooses a sharding for every array.

    The first rule whose expression matches an array's path applies. Parameters, their moving
    averages and their optimizer state have paths with the same ending and so get the same sharding.
    Without a rule, the longest axis that the mesh's fsdp axis divides is split over it. An array
    that cannot be divided is replicated on each device.

    Args:
        state: A tree of arrays or of their shapes.
        mesh: Mesh of the run's devices, from `make_mesh`.
        rules: Rules for paths; the first match applies.
    """

    def choose(path: tuple, array: jax.ShapeDtypeStruct) -> NamedSharding:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        for expression, spec in rules:
            if re.search(expression, name):
                return NamedSharding(mesh, _divisible(spec, array.shape, mesh))
        return NamedSharding(mesh, _over_fsdp(array.shape, mesh.shape["fsdp"]))

    return jax.tree_util.tree_map_with_path(choose, state)


def _divisible(spec: PartitionSpec, shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
    """The spec without mesh axes that do not divide the array's axes."""
    return PartitionSpec(
        *(
            axis if axis is None or length % mesh.shape[axis] == 0 else None
            for axis, length in zip(spec, shape, strict=False)
        )
    )


def _over_fsdp(shape: tuple[int, ...], devices: int) -> PartitionSpec:
    divisible = [length if length % devices == 0 else 0 for length in shape]
    if devices == 1 or not any(divisible):
        return PartitionSpec()
    axis = int(np.argmax(divisible))
    return PartitionSpec(*[None] * axis, "fsdp")
