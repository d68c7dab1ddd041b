"""The denoiser that comes with the package."""

import hashlib
import importlib.util
import re
import shutil
import textwrap
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from benchmarks.datasets import simulated_dataset
from configs.patch_diffusion import get_config
from femur_jax.commands.run_options import parse
from femur_jax.data.loader import batches
from femur_jax.diffusion.task import DiffusionTask
from femur_jax.errors import UserError
from femur_jax.example import EXAMPLE, shipped
from femur_jax.main import main
from femur_jax.parallel.mesh import batch_sharding, make_mesh
from femur_jax.run_folder import claim
from femur_jax.stages.train import train
from femur_jax.training import loop
from femur_jax.training.checkpoint import Checkpoints

ROOT = Path(__file__).parents[2]


def zeros(task):
    """A first state with zeros in all arrays, for which nothing is compiled."""
    shapes = jax.eval_shape(task.init, jax.random.key(0))
    return jax.tree.map(lambda array: jnp.zeros(array.shape, array.dtype), shapes)


@pytest.fixture
def few_steps():
    """Few solver steps, and few tiles for each of the eight devices of the tests."""
    sample = shipped.opened()[0].config.sample
    before = sample.to_dict()
    sample.update(steps=(2, 1), tile_batch=1)
    yield
    sample.update(before)


def test_the_files_are_small_and_whole():
    files = {file.name: file for file in shipped.MODEL.iterdir()}
    assert set(files) == {"model.json", "weights.npz", "MODEL_CARD.md", "SHA256SUMS"}
    assert sum(file.stat().st_size for file in files.values()) < 10e6
    for line in files["SHA256SUMS"].read_text().splitlines():
        digest, name = line.split("  ")
        assert hashlib.sha256(files[name].read_bytes()).hexdigest() == digest
    assert "simulated" in files["MODEL_CARD.md"].read_text()


def test_it_denoises_patients_that_it_has_not_seen(tmp_path, capsys):
    """A run of other data starts with a much lower loss than with F = 0, where D = c_skip x."""
    dataset = simulated_dataset(
        tmp_path,
        patch=32,
        fractions=(0.34, 0.34),
        patients=12,
        images=12,
        hospitals=2,
        aff_fraction=0.5,
        long_side=(128, 160),
        coarsest_mm=0.7,
        seed=77,
    )
    config = get_config("tiny")
    config.dataset = str(dataset.folder)
    task = DiffusionTask(config, dataset)
    assert task.levels < shipped.facts().levels
    state = zeros(task)
    started = shipped.start_from(state)
    assert capsys.readouterr().out == "100.0% of the parameters start from the example's model.\n"
    for tree in started.ema.values():
        jax.tree.map(np.testing.assert_array_equal, tree, started.params)
    sharding = batch_sharding(make_mesh(config.mesh))
    batch = next(iter(batches(task.streams(), batch_size=32, start=0, sharding=sharding)))
    losses = jax.jit(lambda params: task.losses(params, batch, jax.random.key(1))[0])
    trained, zero = losses(started.params), losses(state.params)
    assert trained.mean() < 0.6 * zero.mean()


def test_the_same_seed_gives_the_same_radiographs(few_steps, tmp_path, capsys):
    def pictures(name, *options):
        arguments = ["example", f"--out={tmp_path / name}", *options]
        assert main([*arguments, "--radiographs", "AFF:120x80", "NFF:110x90"]) == 0
        assert capsys.readouterr().out == f"{tmp_path / name / 'all.png'}\n"
        return [np.asarray(Image.open(tmp_path / name / f)) for f in ("1-AFF.png", "2-NFF.png")]

    first, again, other = pictures("a"), pictures("b"), pictures("c", "--seed=1")
    assert [picture.shape for picture in first] == [(120, 80), (110, 90)]
    for picture, same, different in zip(first, again, other, strict=True):
        np.testing.assert_array_equal(picture, same)
        assert np.std(picture / 65535) > 0.05 and np.mean(picture != different) > 0.9


def test_the_readme_says_how_from_python(few_steps, capsys):
    """Its code runs, here with smaller sizes."""
    blocks = re.findall(r"(?:^(?: {4}.*)?\n)+", (ROOT / "README.md").read_text(), re.MULTILINE)
    [code] = [textwrap.dedent(block) for block in blocks if "import" in block]
    for size, smaller in (("560", "120"), ("240", "80"), ("1250", "110"), ("800", "90")):
        assert size in code
        code = code.replace(size, smaller)
    exec(code, {})
    assert "(120, 80) uint16" in (printed := capsys.readouterr().out) and "(110, 90)" in printed


def test_a_radiograph_has_a_spacing_that_its_size_makes_likely():
    small, large = shipped.request("AFF", 160, 100), shipped.request("AFF", 1250, 800)
    intercept, slope = shipped.facts().spacing
    assert small.spacing_mm == pytest.approx(np.exp(intercept) * 16000**slope)
    assert small.spacing_mm > large.spacing_mm > 0.1


@pytest.mark.parametrize(
    ("radiograph", "message"),
    [
        ("AFF", "'AFF' is not a class and a size; write CLASS:HEIGHTxWIDTH"),
        ("AFF:-5x80", "is not a class and a size"),
        ("XFF:120x80", "'XFF' is not a class; write NFF or AFF."),
        ("AFF:12x8", "A radiograph of 12 x 8 pixels is out of the model's range; give 0.0084 to"),
        ("AFF:9000x8000", "is out of the model's range"),
        ("AFF:80x320", "is 0.25 times as high as wide; the model knows"),
    ],
)
def test_a_wrong_request_costs_one_sentence(tmp_path, capsys, radiograph, message):
    assert main(["example", f"--out={tmp_path / 'new'}", "--radiographs", radiograph]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_changed_file_is_refused(tmp_path, monkeypatch):
    shutil.copytree(shipped.MODEL, tmp_path / "model")
    with (tmp_path / "model" / "weights.npz").open("r+b") as file:
        file.seek(1000)
        file.write(b"\0\1\2")
    monkeypatch.setattr(shipped, "MODEL", tmp_path / "model")
    shipped.opened.cache_clear()
    with pytest.raises(UserError, match=r"weights\.npz"):
        shipped.request("AFF", 160, 100)
    monkeypatch.undo()
    shipped.opened.cache_clear()


def test_a_run_can_be_packed(dataset, diffusion_config, tmp_path, monkeypatch, capsys):
    task = DiffusionTask(diffusion_config, dataset)
    state = zeros(task)
    rng = np.random.default_rng(0)
    averages = {
        width: jax.tree.map(lambda a: jnp.asarray(rng.normal(size=a.shape), a.dtype), params)
        for width, params in state.ema.items()
    }
    claim(tmp_path / "run", diffusion_config, stage="train")
    checkpoints = Checkpoints(tmp_path / "run" / loop.CHECKPOINTS)
    checkpoints.save(replace(state, ema=averages), 1, {"next_batch": 1}, {})
    checkpoints.close()
    spec = importlib.util.spec_from_file_location("pack_example", ROOT / "tools/pack_example.py")
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    tool.pack(tmp_path / "run", tmp_path / "model")
    monkeypatch.setattr(shipped, "MODEL", tmp_path / "model")
    shipped.opened.cache_clear()
    started = shipped.start_from(state)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6),
        started.params,
        averages[str(diffusion_config.sample.ema)],
    )
    monkeypatch.undo()
    shipped.opened.cache_clear()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # absl loads config files as of old
def test_training_starts_from_it(dataset, tmp_path):
    arguments = ["--config=configs/patch_diffusion.py:tiny", f"--workdir={tmp_path}"]
    options = parse("train", [*arguments, "--from_example"])
    assert options.config.pretrained == EXAMPLE
    gan = [
        "--config=configs/gan.py:tiny",
        f"--config.dataset={dataset.folder}",
        f"--workdir={tmp_path}",
    ]
    with pytest.raises(UserError, match="is a diffusion model, not gan"):
        train(parse("train", [*gan, "--from_example"]).config, tmp_path)
