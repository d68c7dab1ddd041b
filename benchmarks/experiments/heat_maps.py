"""Whether the heat maps of a classifier's answers point at simulated fractures."""

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.datasets import simulated_dataset
from benchmarks.machine import cpu
from benchmarks.records import Goal, Result, measurement
from configs.classifier import get_config
from femur_jax.classifier.task import ClassifierTask
from femur_jax.data.cohort import Pseudonyms
from femur_jax.evaluation.operating_point import exact_share
from femur_jax.evaluation.statistics import Interval
from femur_jax.prediction.basis import seen
from femur_jax.prediction.heat_maps import WINDOW, HeatMaps, peak, smooth
from femur_jax.training import loop

_COHORT = {
    "patients": 320,
    "images": 480,
    "hospitals": 4,
    "aff_fraction": 0.4,
    "long_side": (96, 128),
    "coarsest_mm": 0.7,
}
"""The cohort of the demo."""


@measurement("share of radiographs", Goal(">=", 0.5), timed=False)
def heat_map_pointing() -> Result:
    """Share of held-out radiographs whose heat map points at the fracture; takes 5 minutes.

    The demo's classifier (64 x 64 pixels, 400 steps) is trained on the demo's simulated patients.
    The map of blurred windows points at the fracture if its strongest pixel lies in the fracture's
    box, grown by half a window on each side (the pointing game, Zhang et al. 2016, arXiv
    1608.00507). Chance is the share of a radiograph that the grown box covers; the maps of other
    radiographs, whose fractures lie in similar places, are a harder control. The range is the
    exact 95% interval.
    """
    kinds, points, boxes, scales, chances = ("windows", "gradients"), [], [], [], []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        dataset = simulated_dataset(folder, patch=32, fractions=(0.12, 0.22), **_COHORT)
        config = get_config("tiny")
        config.dataset = str(dataset.folder)
        task = ClassifierTask(config, [dataset])
        heat_maps = HeatMaps(task, loop.train(task, config, folder / "classifier").ema)
        truth = _fracture_boxes(folder)
        for n in dataset.split("test"):
            entry, radiograph = dataset.entries[n], seen(task, dataset, n)
            if not (box := truth[entry.name]):
                continue
            size = radiograph["box"][2:]
            first, last = np.reshape(box, (2, 2))[:, ::-1] - (entry.crop.top, entry.crop.left)
            boxes.append(np.array([first, last + 1]) / (entry.height, entry.width))
            maps = heat_maps.occlusion(radiograph), smooth(heat_maps.gradients(radiograph))
            points.append([np.array(peak(heat)) / size for heat in maps])
            scales.append(0.5 * WINDOW * min(size) / size)
            grown = np.clip(boxes[-1] + (-scales[-1], scales[-1]), 0, 1)
            chances.append(float(np.prod(grown[1] - grown[0])))

    def share(kind: int, grown: float, turn: int = 0) -> Interval:
        """Share of points, `turn` radiographs later, in boxes that grow by so many half windows."""
        found = [
            bool(
                (box[0] - grown * scale <= points[(n + turn) % len(points)][kind]).all()
                and (points[(n + turn) % len(points)][kind] <= box[1] + grown * scale).all()
            )
            for n, (box, scale) in enumerate(zip(boxes, scales, strict=True))
        ]
        return exact_share(np.array(found))

    value = share(0, 1.0)
    details: dict[str, Any] = {"radiographs": len(points), "chance": float(np.mean(chances))}
    for kind, name in enumerate(kinds):
        for words, grown, turn in (
            ("", 1.0, 0),
            (", the box itself", 0.0, 0),
            (", maps of other radiographs", 1.0, 1),
        ):
            found = share(kind, grown, turn)
            details[name + words] = f"{found.value:.2f} [{found.low:.2f}, {found.high:.2f}]"
    return Result(value=value.value, spread=(value.low, value.high), device=cpu(), details=details)


def _fracture_boxes(folder: Path) -> dict[str, list[float]]:
    """Left, top, right and bottom of each fracture in the recorded image, by radiograph."""
    name = Pseudonyms(folder / "key")
    with (folder / "cohort.truth.jsonl").open() as file:
        records = [json.loads(line) for line in file]
    return {name("file", record["path"]): record["fracture_box"] for record in records}
