"""The sample stage: what is asked for is made, once, whatever happens on the way."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from femur_jax.data.shards import RadiographDataset
from femur_jax.data.synthetic import draw_requests
from femur_jax.errors import UserError
from femur_jax.run_folder import claim
from femur_jax.stages.sample import sample
from femur_jax.stages.tasks import make_task
from femur_jax.training import loop
from femur_jax.training.checkpoint import Checkpoints
from tests.environment import QUICK

ROOT = Path(__file__).parents[2]


def write_run(config, workdir, seed=0):
    """A run with a checkpoint of random parameters: sampling them is as hard as any."""
    task = make_task(config)
    state = jax.jit(task.init)(jax.random.key(seed))
    leaves, structure = jax.tree.flatten(state.ema)
    keys = jax.random.split(jax.random.key(seed + 1), len(leaves))
    random = [a + 0.05 * jax.random.normal(k, a.shape) for a, k in zip(leaves, keys, strict=True)]
    state = dataclasses.replace(state, ema=structure.unflatten(random), step=state.step + 2)
    claim(workdir, config, stage="train", free=loop.FREE_FIELDS)
    checkpoints = Checkpoints(workdir / "checkpoints")
    checkpoints.save(state, 2, {}, {})
    checkpoints.close()


@pytest.fixture(scope="module")
def config(diffusion_config):
    config = diffusion_config.copy_and_resolve_references()
    config.sample.update(per_label=6, steps=(4, 2), tile_batch=1, megapixels=3e-3)
    return config


@pytest.fixture(scope="module")
def trained(config, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("trained") / "run"
    write_run(config, workdir)
    return workdir


@pytest.fixture
def workdir(trained, tmp_path):
    """A copy of a run with a checkpoint."""
    return shutil.copytree(trained, tmp_path / "run")


@pytest.fixture(scope="module")
def undisturbed(config, trained, tmp_path_factory):
    """The dataset of a run that nothing happened to."""
    workdir = shutil.copytree(trained, tmp_path_factory.mktemp("undisturbed") / "run")
    sample(config, workdir)
    return workdir / "synthetic"


def sample_elsewhere(config, workdir, first="", **environment):
    """Runs the sample stage in a process of its own, after some lines of Python."""
    program = (
        "import json, sys; from pathlib import Path; from ml_collections import ConfigDict\n"
        f"from femur_jax.stages.sample import sample\n{first}\n"
        "sample(ConfigDict(json.loads(sys.argv[1])), Path(sys.argv[2]))"
    )
    return subprocess.run(
        [sys.executable, "-c", program, json.dumps(config.to_dict()), str(workdir)],
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


KILL_AFTER_THREE = """
import os, signal
from femur_jax.data.synthetic import SyntheticSpool
add, added = SyntheticSpool.add, []
def add_and_die(self, number, pixels):
    add(self, number, pixels)
    added.append(number)
    if len(added) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
SyntheticSpool.add = add_and_die
"""


def files(folder):
    return {path.relative_to(folder): path for path in folder.rglob("*") if path.is_file()}


def test_killed_and_gone_on_with_is_as_undisturbed(config, workdir, undisturbed):
    killed = sample_elsewhere(config, workdir, first=KILL_AFTER_THREE)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not (workdir / "synthetic").exists()
    spool = workdir / "synthetic.spool"
    [damaged, *_] = kept = sorted(spool.iterdir())
    assert len(kept) == 3
    damaged.write_bytes(damaged.read_bytes()[:-10])  # as a power cut leaves it
    sample(config, workdir)
    assert not spool.exists()
    found, expected = files(workdir / "synthetic"), files(undisturbed)
    assert found.keys() == expected.keys()
    for name in expected:
        assert found[name].read_bytes() == expected[name].read_bytes(), name


def test_one_device_makes_what_eight_make(config, workdir, undisturbed):
    made = sample_elsewhere(config, workdir, XLA_FLAGS=QUICK)
    assert made.returncode == 0, made.stderr
    one, eight = RadiographDataset(workdir / "synthetic"), RadiographDataset(undisturbed)
    assert [e.name for e in one.entries] == [e.name for e in eight.entries]
    for n in range(len(one.entries)):
        difference = one.read(n).astype(np.int32) - eight.read(n).astype(np.int32)
        assert np.abs(difference).max() <= 1  # of 65535, by rounding in another order


def test_the_dataset_says_how_it_was_made(config, undisturbed):
    dataset = RadiographDataset(undisturbed)
    assert [e.label for e in dataset.entries] == ["NFF"] * 6 + ["AFF"] * 6
    about = dataset.provenance
    assert (about["kind"], about["model"], about["checkpoint"]) == ("synthetic", "diffusion", 2)
    assert about["solver"] == config.sample.solver and about["guidance"] == [1.0]
    assert about["seed"] == 0 and len(about["config"]) == 12


def test_sizes_and_class_by_config(config, workdir):
    sizes = ((70, 48), (31, 33))
    asked = config.copy_and_resolve_references()
    asked.sample.update(sizes=sizes, labels=("AFF",), per_label=3)
    asked.sample.update(solver="heun", overlap=0.0, guidance=(1.5,))
    sample(asked, workdir)
    entries = RadiographDataset(workdir / "synthetic").entries
    assert [(e.height, e.width) for e in entries] == [sizes[0], sizes[1], sizes[0]]
    assert {e.label for e in entries} == {"AFF"}
    with pytest.raises(UserError, match="exists"):
        sample(asked, workdir)


def test_sampling_ends_at_the_level_that_is_long_enough(config, workdir):
    asked = config.copy_and_resolve_references()
    asked.sample.update(sizes=((70, 49), (31, 33)), labels=("AFF",), per_label=2, longest=36)
    [plain, small] = draw_requests(
        RadiographDataset(config.dataset),
        per_label=2,
        seed=0,
        labels=["AFF"],
        sizes=((70, 49), (31, 33)),
    )
    sample(asked, workdir)
    entries = RadiographDataset(workdir / "synthetic").entries
    assert [(e.height, e.width) for e in entries] == [(35, 25), (31, 33)]
    assert entries[0].spacing_mm == pytest.approx(2 * plain.spacing_mm)
    assert entries[1].spacing_mm == pytest.approx(small.spacing_mm)


def test_a_gan_of_one_class_makes_that_class_in_sizes_that_fit_its_square(gan_config, tmp_path):
    config = gan_config.copy_and_resolve_references()
    config.data.draw.label_shares = (0.0, 1.0)
    config.sample.update(per_label=3, sizes=((16, 10), (16, 16)))
    workdir = tmp_path / "run"
    write_run(config, workdir)
    for refused, words in (
        ({"labels": ("NFF",)}, "not trained on NFF"),
        ({"sizes": ((400, 300),)}, "400 x 300 pixels.* to 16 pixels"),
    ):
        asked = config.copy_and_resolve_references()
        asked.sample.update(refused)
        with pytest.raises(UserError, match=words):
            sample(asked, workdir)
        assert not (workdir / "synthetic").exists()
    sample(config, workdir)
    entries = RadiographDataset(workdir / "synthetic").entries
    assert [(e.height, e.width, e.label) for e in entries] == [
        (16, 10, "AFF"),
        (16, 16, "AFF"),
        (16, 10, "AFF"),
    ]


def test_autoguidance_by_another_run(config, workdir, tmp_path, undisturbed):
    weaker = config.copy_and_resolve_references()
    weaker.model.attention = (False,)
    write_run(weaker, tmp_path / "weaker", seed=1)
    guided = config.copy_and_resolve_references()
    guided.sample.update(guidance=(2.0,), autoguidance=str(tmp_path / "weaker"))
    sample(guided, workdir)
    dataset, plain = RadiographDataset(workdir / "synthetic"), RadiographDataset(undisturbed)
    assert (dataset.read(0) != plain.read(0)).any()
    assert dataset.provenance["autoguidance"]["checkpoint"] == 2
    assert str(tmp_path) not in json.dumps(dataset.provenance)


def test_what_cannot_be_made_is_told(config, workdir, tmp_path):
    def refused(match, change):
        asked = config.copy_and_resolve_references()
        change(asked)
        with pytest.raises(UserError, match=match):
            sample(asked, workdir)
        assert not (workdir / "synthetic").exists()

    refused("another config", lambda c: c.data.draw.update(label_shares=(1.0, 0.0)))
    refused("config.sample.longest is 15", lambda c: c.sample.update(longest=15))
    refused("'XFF'", lambda c: c.sample.update(labels=("XFF",)))
    refused("holds no run", lambda c: c.sample.update(autoguidance=str(tmp_path / "nothing")))
    shutil.copytree(workdir, tmp_path / "other")
    file = tmp_path / "other" / "config.json"
    file.write_text(file.read_text().replace('"sigma_data": 0.5', '"sigma_data": 0.7'))
    refused("config.diffusion", lambda c: c.sample.update(autoguidance=str(tmp_path / "other")))
    with pytest.raises(UserError, match="checkpoint"):
        sample(config, tmp_path / "new")
