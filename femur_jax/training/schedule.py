"""How the learning rate changes during a run."""

import optax
from ml_collections import ConfigDict

from femur_jax.errors import UserError


def warm_up_and_decay(
    config: ConfigDict, *, last: float, steps: int | None = None
) -> optax.Schedule:
    """A linear warm-up, then half a cosine.

    Args:
        config: The config's `train`: `learning_rate` (the greatest), `warmup_steps` and `steps`.
        last: The last learning rate, relative to the greatest.
        steps: The length of the run where it is not `config.steps`.

    Raises:
        UserError: The warm-up is not shorter than the run.
    """
    length: int = config.steps if steps is None else steps
    if not 0 <= config.warmup_steps < length:
        raise UserError(
            f"A warm-up of {config.warmup_steps} steps does not fit a run of {length}; "
            "set config.train.warmup_steps to less."
        )
    return optax.schedules.warmup_cosine_decay_schedule(
        0.0,
        config.learning_rate,
        config.warmup_steps,
        length,
        end_value=last * config.learning_rate,
    )
