"""Arithmetic of a function as its author wrote it, counted before any compiler changes it."""

import math
from collections.abc import Iterator
from typing import Any

from jax.extend import core


def matrix_flops(jaxpr: core.Jaxpr) -> int:
    """Operations of all convolutions and matrix products; a product and a sum count as two.

    Args:
        jaxpr: A function as `jax.make_jaxpr` returns it, in its attribute `jaxpr`. Loops of a known
            length count as often as they run; of other loops and of branches each counts once.
    """
    return sum(_flops(equation) for equation in jaxpr.eqns)


def _flops(equation: Any) -> int:
    parameters = equation.params
    if equation.primitive.name == "dot_general":
        left, result = equation.invars[0].aval, equation.outvars[0].aval
        (axes, _), _ = parameters["dimension_numbers"]
        return 2 * result.size * math.prod(left.shape[axis] for axis in axes)
    if equation.primitive.name == "conv_general_dilated":
        kernel, result = equation.invars[1].aval, equation.outvars[0].aval
        channels = kernel.shape[parameters["dimension_numbers"].rhs_spec[0]]
        zeros = math.prod(parameters["lhs_dilation"])  # which a dilated input holds for each value
        return 2 * result.size * kernel.size // channels // zeros
    times = parameters["length"] if equation.primitive.name == "scan" else 1
    return times * sum(matrix_flops(inner) for inner in _functions(parameters))


def _functions(parameters: dict[str, Any]) -> Iterator[core.Jaxpr]:
    for value in parameters.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            if isinstance(item, core.ClosedJaxpr):
                yield item.jaxpr
            elif isinstance(item, core.Jaxpr):
                yield item
