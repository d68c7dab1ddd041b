"""How the learning rate changes during a run."""

import optax
from ml_collections import ConfigDict

from femur_jax.errors import UserError


def warm_up_and_decay(config: ConfigDict, *, last: float) -> optax.Schedule:
    """A linear warm-up, then half a cosine.

    Args:
        config: With `learning_rate`, the greatest, `warmup_steps`, and `steps`, of the whole run.
        last: The last learning rate, relative to the greatest.

    Raises:
        UserError: The warm-up is not shorter than the run.
    """
    if not 0 <= config.warmup_steps < config.steps:
        raise UserError(
            f"A warm-up of {config.warmup_steps} steps does not fit a run of {config.steps}; "
            "set config.train.warmup_steps to less."
        )
    return optax.schedules.warmup_cosine_decay_schedule(
        0.0,
        config.learning_rate,
        config.warmup_steps,
        config.steps,
        end_value=last * config.learning_rate,
    )
