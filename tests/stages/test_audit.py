"""The stage `audit` over the snapshots of a tiny GAN."""

import json
import shutil

import numpy as np
import pytest

from femur_jax.data.shards import RadiographDataset
from femur_jax.errors import UserError
from femur_jax.stages.audit import audit
from femur_jax.stages.sample import sample
from femur_jax.stages.train import train


@pytest.fixture(scope="module")
def run(gan_config, tmp_path_factory):
    """A GAN with two snapshots."""
    config = gan_config.copy_and_resolve_references()
    config.train.snapshot_every = 2
    config.evaluate.per_label = 6
    workdir = tmp_path_factory.mktemp("run")
    train(config, workdir)
    return config, workdir


def test_each_snapshot_is_audited_and_reported(run, capsys):
    config, workdir = run
    audit(config, workdir)
    result = json.loads((workdir / "audit.json").read_text())
    assert [point["step"] for point in result["points"]] == [2, 4]
    assert "membership AUC" in capsys.readouterr().out
    first, last = (RadiographDataset(workdir / "audit" / f"step_{step}") for step in (2, 4))
    assert first.provenance["checkpoint"] == 2
    assert any((first.read(n) != last.read(n)).any() for n in range(12))
    text = (workdir / "audit.json").read_text()
    real = RadiographDataset(config.dataset)
    assert not any(entry.patient in text or entry.name in text for entry in real.entries)
    audit(config, workdir)  # resumes with the radiographs of the first time
    assert json.loads((workdir / "audit.json").read_text()) == result


def test_radiographs_are_sampled_from_the_requested_snapshot(run):
    config, workdir = run
    config = config.copy_and_resolve_references()
    config.sample.update(snapshot=2, per_label=6)
    sample(config, workdir)
    synthetic = RadiographDataset(workdir / "synthetic")
    audited = RadiographDataset(workdir / "audit" / "step_2")
    assert synthetic.provenance["checkpoint"] == 2
    for n in range(12):
        np.testing.assert_array_equal(synthetic.read(n), audited.read(n))


def test_an_unknown_snapshot_is_refused(run):
    config, workdir = run
    config = config.copy_and_resolve_references()
    config.sample.snapshot = 3
    with pytest.raises(UserError, match=r"no snapshot of step 3 .* it has 2, 4"):
        sample(config, workdir)


def test_a_run_without_snapshots_is_refused(run, tmp_path):
    config, workdir = run
    shutil.copytree(workdir, tmp_path / "run", ignore=shutil.ignore_patterns("snapshots"))
    with pytest.raises(UserError, match="no snapshots to audit"):
        audit(config, tmp_path / "run")
