"""What a study has done, and how long the rest will take, in a few lines for a terminal."""

import itertools
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ml_collections import ConfigDict

from femur_jax.run_folder import load_config
from femur_jax.study.report.formats import duration
from femur_jax.study.runner import Study
from femur_jax.training.monitor import PICTURES, SCALARS, read_scalars, read_speed

_TRAINS = {"generators": "train", "classifiers": "classifier"}
"""The first word of a stage by the folder of its runs."""


def status(config: ConfigDict, workdir: Path) -> None:
    """Prints the stages done and left by kind, the time left, and where the newest pictures are.

    The study may be running. Nothing is written.

    Args:
        config: Config of the study.
        workdir: Run directory of the study.
    """
    study = Study(config, workdir)
    names, finished = [stage.name for stage in study.stages], study.finished
    begun = {name: run for name, run in _begun(workdir).items() if name not in finished}
    left = {name: _left(name, finished, begun) for name in names if name not in finished}
    print(f"{'stage':<12}{'done':>12}{'took':>16}{'left':>16}")
    for kind in dict.fromkeys(map(_kind, names)):
        took = [seconds for name, seconds in finished.items() if _kind(name) == kind]
        to_do = [seconds for name, seconds in left.items() if _kind(name) == kind]
        done = f"{len(took)} of {len(took) + len(to_do)}"
        print(f"{kind:<12}{done:>12}{_sum(took):>16}{_sum(to_do):>16}")
    for name, run in begun.items():
        print(f"{name}: step {run.step:,} of {run.steps:,}, {duration(run.age)} ago")
    if left:
        print(_sentence(left))
        print(f"Curves and pictures: tensorboard --logdir={workdir}")
    else:
        print(f"Report: {workdir / 'report.html'}")
    if pictures := sorted(workdir.glob(f"generators/*/{PICTURES}"), key=os.path.getmtime):
        print(f"Newest pictures: {pictures[-1]}")


@dataclass(frozen=True)
class _Training:
    """A training that has begun: its last logged step of how many, and that step's age."""

    step: int
    steps: int
    seconds_per_step: float
    age: float


def _begun(workdir: Path) -> dict[str, _Training]:
    """The trainings that have logged something, by their stage."""
    begun = {}
    for folder, kind in _TRAINS.items():
        for file in sorted((workdir / folder).glob(f"*/{SCALARS}")):
            lines, speeds = read_scalars(file.parent), read_speed(file.parent)
            if lines and speeds:
                begun[f"{kind} {file.parent.name}"] = _Training(
                    step=lines[-1]["step"],
                    steps=load_config(file.parent).train.steps,
                    seconds_per_step=1 / speeds[-1]["steps_per_second"],
                    age=max(0.0, time.time() - file.stat().st_mtime),
                )
    return begun


def _left(name: str, finished: Mapping[str, float], begun: Mapping[str, _Training]) -> float | None:
    """Seconds that a stage will take, None where no stage of its kind has finished.

    A stage takes as long as the finished ones of its kind whose names begin most like its own,
    which have the same model or the same data. A training that has begun continues at its speed.
    """
    if name in begun:
        run = begun[name]
        return (run.steps - run.step) * run.seconds_per_step
    alike: dict[int, list[float]] = {}
    for other, seconds in finished.items():
        if _kind(other) == _kind(name):
            same = sum(itertools.takewhile(bool, map(str.__eq__, name, other)))
            alike.setdefault(same, []).append(seconds)
    if not alike:
        return None
    nearest = alike[max(alike)]
    return sum(nearest) / len(nearest)


def _kind(stage: str) -> str:
    return stage.split()[0]


def _sum(seconds: Sequence[float | None]) -> str:
    known = [s for s in seconds if s is not None]
    if len(known) < len(seconds):
        return "unknown"
    return duration(sum(known)) if known else "–"


def _sentence(left: Mapping[str, float | None]) -> str:
    known = [seconds for seconds in left.values() if seconds is not None]
    unknown = dict.fromkeys(_kind(name) for name, s in left.items() if s is None)
    text = f"Left: about {duration(sum(known))}, one stage after the other"
    if unknown:
        text += f", not counting {', '.join(unknown)}, since none has finished"
    return text + "."
