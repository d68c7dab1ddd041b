"""Trees of arrays as dictionaries by path, such as `params/conv1/kernel`."""

from collections.abc import Mapping
from typing import Any

import jax
from jaxtyping import PyTree


def by_path(tree: PyTree, prefix: str = "") -> dict[str, Any]:
    """Returns the leaves of a tree by their path."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {
        prefix + jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in leaves
    }


def nested(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """Returns nested dictionaries of leaves by path, the inverse of `by_path` for dictionaries."""
    tree: dict[str, Any] = {}
    for path, leaf in leaves.items():
        *above, last = path.split("/")
        node = tree
        for part in above:
            node = node.setdefault(part, {})
        node[last] = leaf
    return tree
