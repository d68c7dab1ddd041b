"""A generator that starts from another run's model, of another size or other data."""

import jax
import numpy as np
import pytest

from femur_jax.classifier.protocol import origin
from femur_jax.data.shards import RadiographDataset
from femur_jax.errors import UserError
from femur_jax.stages.sample import sample
from femur_jax.stages.tasks import make_task
from femur_jax.stages.train import train
from femur_jax.training import loop


@pytest.fixture(scope="module")
def first(gan_config, tmp_path_factory):
    """The config and the run directory of a GAN of 8 x 8 pixels."""
    config = gan_config.copy_and_resolve_references()
    config.model.update(size=8, channels=(8, 8))
    config.train.update(steps=1, checkpoint_every=1, log_every=1)
    workdir = tmp_path_factory.mktemp("first") / "run"
    train(config, workdir)
    return config, workdir


def test_a_larger_gan_starts_from_a_smaller_one(first, tmp_path, capsys):
    config, folder = first
    larger = config.copy_and_resolve_references()
    larger.model.update(size=16, channels=(8, 8, 8))
    larger.pretrained = str(folder)
    larger.train.learning_rate = (0.0, 0.0)
    train(larger, tmp_path / "run")
    printed = capsys.readouterr().out
    assert f"of the parameters start from step 1 of {folder}; new are" in printed
    small = loop.restore(make_task(config), config, folder)
    large = loop.restore(make_task(larger), larger, tmp_path / "run")
    for network in ("generator", "discriminator"):
        of_small, of_large = (state.params[network]["layers"] for state in (small, large))
        assert {"0", "1", "3"} < set(of_small)  # 2 has no parameters, 4 reads or writes pixels
        for n in ("0", "1", "3"):
            for a, b in zip(
                jax.tree.leaves(of_small[n]), jax.tree.leaves(of_large[n]), strict=True
            ):
                np.testing.assert_array_equal(a, b)
    larger.sample.per_label = 1
    sample(larger, tmp_path / "run")
    data = RadiographDataset(config.dataset)
    provenance = RadiographDataset(tmp_path / "run" / "synthetic").provenance
    assert provenance["started_from"] == [origin(data, "patient")]


def test_a_run_of_another_family_or_without_its_dataset_is_refused(
    first, diffusion_config, tmp_path
):
    config, folder = first
    other = diffusion_config.copy_and_resolve_references()
    other.pretrained = str(folder)
    with pytest.raises(UserError, match="trains another model, gan; name a run of diffusion"):
        train(other, tmp_path / "run")
    again = config.copy_and_resolve_references()
    again.pretrained = str(tmp_path / "none")
    with pytest.raises(UserError, match="holds no run"):
        train(again, tmp_path / "run")
    assert not (tmp_path / "run").exists()
