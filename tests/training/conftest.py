import pytest

from tests.training.least_squares import least_squares_config


@pytest.fixture
def config():
    return least_squares_config()
