"""The whole losses and their gradients against PyTorch, where `make bench` has installed it."""

from pathlib import Path

import pytest

from benchmarks import gan
from benchmarks.peer import FOLDER, PeerProcess, largest_difference
from configs.gan import get_config


@pytest.mark.skipif(not FOLDER.is_dir(), reason="PyTorch is not installed")
def test_losses_penalties_and_gradients_equal_pytorch(tmp_path: Path):
    config = get_config("tiny")
    config.model.update(size=16, channels=(16, 8, 8), latent=4, group_width=8)
    config.train.batch_size = 4
    exchanged = gan.write_exchange(tmp_path, config)
    with PeerProcess("r3gan_torch.py", tmp_path, "cpu"):
        expected = gan.expected_answers(config, *exchanged)
        assert largest_difference(expected, tmp_path / "outputs.npz") < gan.TOLERANCE
