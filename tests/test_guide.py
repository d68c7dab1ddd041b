"""The commands of docs/guide.md, run in order from the document itself on simulated patients."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from femur_jax.commands import run_options
from femur_jax.errors import UserError
from tests.environment import one_device

ROOT = Path(__file__).parents[1]
GUIDE = ROOT / "docs" / "guide.md"

TRAINING = (
    " --config.train.steps=4 --config.train.batch_size=4 --config.train.checkpoint_every=4"
    " --config.train.images_every=9"
)
SMALLER = {
    "AFF:560x240 NFF:1250x800": "AFF:120x80",
    "simulate --out=radiographs": "simulate --out=radiographs --patients=20 --images=30"
    " --hospitals=2 --long_side 40 72 --workers=1",
    "--files=check.csv": "--files=check.csv --workers=1",
    "--patch=256": "--patch=16 --workers=1 --fractions 0.3 0.3",
    "snapshot_every=5000": "snapshot_every=4",
    "((2500, 2000), (3000, 2000))": "((40, 30), (48, 36))",
    "train --config=configs/patch_diffusion.py:base": "train"
    " --config=configs/patch_diffusion.py:tiny --config.train.warmup_steps=1"
    " --config.model.channels=8 --config.model.multipliers='(1,)'"
    " --config.model.attention='(False,)' --config.sample.steps='(2,)'"
    " --config.sample.tile_batch=8"
    " --config.sample.per_label=8 --config.evaluate.per_label=6" + TRAINING,
    "configs/gan.py:base": "configs/gan.py:tiny --config.model.size=8"
    " --config.model.channels='(8, 8)' --config.sample.per_label=8" + TRAINING,
    "configs/classifier.py:base": "configs/classifier.py:tiny --config.folds=3"
    " --config.model.stage_sizes='(1,)' --config.model.width=8"
    " --config.train.warmup_steps=1" + TRAINING,
    "study --config=configs/study.py:base": "study --config=configs/study.py:smoke"
    " --config.grid=\"('gan-letterbox-joint',)\" --config.classifier_seeds='(0,)'"
    " --config.ingest.fractions='(0.3, 0.3)' --config.phantom.patients=24"
    " --config.phantom.images=30"
    " --config.gan.model.size=8 --config.gan.model.channels='(8, 8)'"
    " --config.classifier.model.stage_sizes='(1,)' --config.classifier.model.width=8",
    "--per_class=50": "--per_class=2",
    "--out runs/readers": "--out runs/readers --splits test validation --single=4 --pairs=2"
    " --practice=0",
}
"""The guide's words, and smaller ones that replace them so that the commands take seconds."""

REDUCED = {
    "femur plan_gpu": "femur plan_gpu --help",  # needs a plugin of 2.5 GB
    "femur send": "femur send --help",  # needs a PACS
    "femur readers serve": "femur readers serve --help",  # runs until it is stopped
    "femur readers score": "femur readers score --help",  # needs readers' answers
}
"""The beginnings of commands that need what a test lacks, and the commands run instead."""

ACCEPTED = {"inspect": (0, 1), "release": (0, 2)}
"""Exit codes other than 0 alone: a check of the dataset may fail with few patients, and a release
refuses what four training steps make."""

PROGRAMS = ("femur", "mv")
CONFIGS = [f"configs/{name}.py:base" for name in ("patch_diffusion", "gan", "classifier", "study")]


def code_lines(text):
    """Lines of the code blocks (indented by four spaces), with continued lines joined."""
    joined = re.sub(r"\\\n\s*", "", text)
    return re.findall(r"^    (\S.*)$", joined, flags=re.MULTILINE)


def commands(text):
    """Commands of the guide, in order."""
    return [line for line in code_lines(text) if line.split()[0] in PROGRAMS]


def shrunk(command):
    """What the test runs in place of a command."""
    for start, reduced in REDUCED.items():
        if command.startswith(start):
            return reduced
    for written, smaller in SMALLER.items():
        command = command.replace(written, smaller)
    return command


@pytest.fixture(scope="module")
def written():
    return GUIDE.read_text()


def test_every_command_of_the_guide_works(written, tmp_path):
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    lines = []
    for command in commands(written):
        program, *arguments = shlex.split(shrunk(command))
        line = arguments if program == "femur" else [program, *arguments]
        lines.append((line, ACCEPTED.get(line[0], (0,))))
    result = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "run_commands.py")],
        input=json.dumps(lines),
        cwd=tmp_path,
        env=one_device(),
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert result.returncode == 0, f"{result.stdout}{result.stderr}"
    assert not re.search(r"see femur \w+ --help", result.stderr)  # as after a wrong option
    for result in (
        "runs/fingerprint/fingerprint.html",
        "runs/diffusion/synthetic/README.md",
        "runs/diffusion/evaluation.json",
        "runs/diffusion/audit.json",
        "runs/gan/synthetic/README.md",
        "runs/tstr/evaluation.json",
        "runs/answers/predictions.html",
        "runs/folds/cross_validation.json",
        "runs/study/report.html",
        "reading.cases.csv",
    ):
        assert (tmp_path / result).is_file(), result
    assert list((tmp_path / "for_pacs").rglob("*.dcm"))


def test_the_guide_names_every_command_and_hides_none(written):
    """No command stands in a fence, or behind a prompt, where it would not be run."""
    assert "```" not in written
    assert not [line for line in code_lines(written) if line.startswith(("$", "."))]
    from femur_jax.main import STAGES, TOOLS

    assert {command.split()[1] for command in commands(written) if command[:2] != "mv"} == {
        *STAGES,
        *TOOLS,
    }


def test_each_substitution_and_exception_is_needed(written):
    for text in SMALLER:
        assert text in " ".join(commands(written)), text
    for start in REDUCED:
        assert [c for c in commands(written) if c.startswith(start)], start
    assert {start.split()[1] for start in REDUCED} == {"plan_gpu", "send", "readers"}


# config_flags loads a config's file in a way that Python 3.12 deprecates.
@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")
def test_settings_in_the_text_exist(written):
    """Each `--config.FIELD=VALUE` of the guide's sentences fits one of the configs."""
    settings = re.findall(r"`(--config\.[^`]+)`", written)
    assert len(settings) > 10
    for setting in settings:
        example = setting.replace("STEP", "5")
        if not any(_accepts(config, shlex.split(example)) for config in CONFIGS):
            pytest.fail(f"No config takes {setting}")


def _accepts(config, fields):
    command = "study" if "study" in config else "train"
    try:
        run_options.parse(command, [f"--config={ROOT / config}", "--workdir=x", *fields])
    except UserError:
        return False
    return True
