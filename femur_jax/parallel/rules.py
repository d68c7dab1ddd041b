"""Where each array of a train state lies: a table of rules by parameter path."""

import re
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

Rules = Sequence[tuple[str, PartitionSpec]]
"""Regular expressions for a path like `params/down/0/conv/kernel`, and for each of an array's axes
the mesh axis that it is split over, if any."""


def state_shardings(state: Any, mesh: Mesh, rules: Rules = ()) -> Any:
    """Chooses a sharding for every array.

    The first rule whose expression is found in an array's path holds; parameters, their moving
    averages and their optimizer state have the same path endings and so lie together. Without
    a rule, the longest axis that the mesh's fsdp axis divides is split over it. What cannot be
    divided is whole on each device.

    Args:
        state: A tree of arrays or of their shapes.
        mesh: From `make_mesh`.
        rules: See `Rules`.
    """

    def choose(path: tuple, array: jax.ShapeDtypeStruct) -> NamedSharding:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        for expression, spec in rules:
            if re.search(expression, name):
                return NamedSharding(mesh, _divisible(spec, array.shape, mesh))
        return NamedSharding(mesh, _over_fsdp(array.shape, mesh.shape["fsdp"]))

    return jax.tree_util.tree_map_with_path(choose, state)


def _divisible(spec: PartitionSpec, shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
    """The spec without mesh axes that do not divide the array's."""
    return PartitionSpec(
        *(
            axis if axis is None or length % mesh.shape[axis] == 0 else None
            for axis, length in zip(spec, shape, strict=False)
        )
    )


def _over_fsdp(shape: tuple[int, ...], parts: int) -> PartitionSpec:
    divisible = [length if length % parts == 0 else 0 for length in shape]
    if parts == 1 or not any(divisible):
        return PartitionSpec()
    axis = int(np.argmax(divisible))
    return PartitionSpec(*[None] * axis, "fsdp")
