"""Measurements of a generator while it trains."""

import numpy as np
import pytest

from femur_jax.errors import UserError
from femur_jax.stages.evaluators import make_evaluators
from femur_jax.stages.tasks import make_generator
from femur_jax.stages.train import train
from femur_jax.training.monitor import read_scalars


@pytest.fixture
def config(gan_config):
    config = gan_config.copy_and_resolve_references()
    config.evaluate.per_label = 4
    return config


def test_kid_and_copies_are_logged_and_leave_the_training_as_it_is(config, tmp_path):
    train(config, tmp_path / "plain")
    config.evaluate.update(kid_every=2, copies_every=3)
    train(config, tmp_path / "evaluated")
    lines = read_scalars(tmp_path / "evaluated")
    kid = [line for line in lines if "kid/NFF" in line]
    copies = [line for line in lines if "copies/membership_auc" in line]
    assert [line["step"] for line in kid] == [2, 4]
    assert [line["step"] for line in copies] == [3, 4]
    assert all(np.isfinite([line["kid/NFF"], line["kid/AFF"]]).all() for line in kid)
    assert all(0 <= line["copies/membership_auc"] <= 1 for line in copies)
    rest = [line for line in lines if line not in kid and line not in copies]
    assert rest == read_scalars(tmp_path / "plain")


def test_evaluators_are_off_by_default_and_need_enough_radiographs(config):
    task = make_generator(config)
    assert make_evaluators(task, config) == []
    config.evaluate.update(kid_every=2, per_label=3)
    with pytest.raises(UserError, match="4 samples of each class, but there are 4 and 3 for NFF"):
        make_evaluators(task, config)
