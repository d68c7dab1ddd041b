"""The denoiser's optimizers."""

from collections.abc import Callable

import jax
import optax
from jaxtyping import PyTree

from femur_jax.errors import UserError

OPTIMIZERS = ("muon", "adam")

_B2 = 0.99
_RMS = 0.2  # root mean square of Adam's update, which Muon's is scaled to


def clipped_optimizer(
    name: str,
    learning_rate: optax.Schedule,
    by_adam: Callable[[tuple[jax.tree_util.KeyEntry, ...]], bool] = lambda path: False,
) -> optax.GradientTransformation:
    """An optimizer after clipping of the gradient's norm at 1.

    Muon (Jordan et al. 2024) replaces the momentum of each matrix by the nearest orthogonal one;
    a convolution's kernel is the matrix of (height, width, input) by output. Its updates are
    scaled to the size of Adam's (Liu et al. 2025, arXiv 2502.16982, equation 4), so that both take
    the same learning rate. All other parameters follow Adam.

    Args:
        name: One of OPTIMIZERS.
        learning_rate: Learning rate by step.
        by_adam: Whether a matrix at a path of the parameters follows Adam all the same.

    Raises:
        UserError: The optimizer is unknown.
    """
    if name not in OPTIMIZERS:
        raise UserError(
            f"config.train.optimizer is {name!r}; write one of {', '.join(OPTIMIZERS)}."
        )

    def dimensions(params: PyTree) -> PyTree:
        def of(path: tuple[jax.tree_util.KeyEntry, ...], array: jax.Array):
            if array.ndim < 2 or by_adam(path):
                return None
            inputs = tuple(range(array.ndim - 1))
            return optax.contrib.MuonDimensionNumbers(inputs, array.ndim - 1)

        return jax.tree.map_with_path(of, params)

    if name == "adam":
        update = optax.adam(learning_rate, b2=_B2)
    else:
        update = optax.contrib.muon(
            learning_rate,
            adam_b2=_B2,
            consistent_rms=_RMS,
            muon_weight_dimension_numbers=dimensions,
        )
    return optax.chain(optax.clip_by_global_norm(1.0), update)
