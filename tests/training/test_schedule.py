import math

import pytest
from ml_collections import ConfigDict

from femur_jax.errors import UserError
from femur_jax.training.schedule import warm_up_and_decay


def config(**changes):
    return ConfigDict({"learning_rate": 0.2, "warmup_steps": 4, "steps": 24} | changes)


def test_rises_linearly_and_falls_like_a_cosine():
    schedule = warm_up_and_decay(config(), last=0.1)
    assert float(schedule(1)) == pytest.approx(0.05)
    assert float(schedule(4)) == pytest.approx(0.2)
    for step in (9, 14, 24):
        share = (1 + math.cos(math.pi * (step - 4) / 20)) / 2
        assert float(schedule(step)) == pytest.approx(0.02 + 0.18 * share, rel=1e-5)


def test_a_warm_up_as_long_as_the_run_is_refused():
    with pytest.raises(UserError, match="warm-up of 24 steps"):
        warm_up_and_decay(config(warmup_steps=24), last=0.0)
