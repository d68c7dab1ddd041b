"""Makes the folder of the denoiser that comes with the package, of a run on simulated patients.

    femur simulate --out=runs/cohort ...
    femur ingest --dicom=runs/cohort --labels=runs/cohort/labels.csv --out=data/simulated --patch=32
    femur train --config=configs/patch_diffusion.py:tiny --workdir=runs/example \\
        --config.dataset=data/simulated
    python tools/pack_example.py runs/example femur_jax/example/model

docs/decisions.md has the settings of the run that was packed.
"""

import argparse
import dataclasses
import json
from pathlib import Path

import numpy as np

from femur_jax import run_folder
from femur_jax.example.shipped import FACTS, WEIGHTS, Facts
from femur_jax.files import new_folder
from femur_jax.stages import cards
from femur_jax.stages.sample import average
from femur_jax.stages.tasks import make_generator
from femur_jax.training import loop
from femur_jax.training.trees import by_path

_FIELDS = ("model", "diffusion", "sample")
"""The groups of the config that generating needs."""


_SIMULATED = "All patients are simulated: no radiograph of a patient was used.\n"


def pack(workdir: Path, out: Path) -> None:
    """Writes the folder; see `femur_jax.example.shipped`.

    Args:
        workdir: Run directory of a denoiser with the strategy pyramid.
        out: A new folder.
    """
    config = run_folder.load_config(workdir)
    task = make_generator(config)
    state = loop.restore(task, config, workdir)
    params = average(state, config, workdir)
    config.train.steps = int(state.step)  # for the card: the run may have been stopped before
    train = [task.dataset.entries[n] for n in task.dataset.split("train", config.data.draw.by)]
    pixels = np.array([entry.height * entry.width for entry in train])
    aspects = [entry.height / entry.width for entry in train]
    spacing = np.polyfit(np.log(pixels), np.log([entry.spacing_mm for entry in train]), 1)
    facts = Facts(
        patch=task.dataset.patch,
        levels=task.dataset.levels,
        pixels=(int(pixels.min()), int(pixels.max())),
        aspects=(min(aspects), max(aspects)),
        spacing=(float(spacing[1]), float(spacing[0])),
    )
    fields = {name: config[name].to_dict() for name in _FIELDS}
    with new_folder(out, checksums=True) as folder:
        text = json.dumps({"config": fields, **dataclasses.asdict(facts)}, indent=1)
        (folder / FACTS).write_text(text + "\n")
        arrays = {name: np.asarray(a, np.float16) for name, a in by_path(params).items()}
        np.savez(folder / WEIGHTS, allow_pickle=False, **arrays)
        card = cards.model_card(config, None)
        (folder / cards.MODEL_CARD).write_text(f"{card}\n{_SIMULATED}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("workdir", type=Path, help="run directory of the denoiser")
    parser.add_argument("out", type=Path, help="a new folder")
    args = parser.parse_args()
    pack(args.workdir, args.out)
