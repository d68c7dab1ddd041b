"""Requests for synthetic radiographs, and the dataset that they become."""

import dataclasses
import hashlib
import json
import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt16

from femur_jax.data import spool
from femur_jax.data.radiograph import LABELS, Radiograph
from femur_jax.data.records import encode
from femur_jax.data.shards import DatasetWriter, RadiographDataset
from femur_jax.errors import UserError
from femur_jax.files import make_folder, require_absent
from femur_jax.progress import Progress

SMALLEST, LARGEST = 0.1e6, 15e6
"""Range of pixels in a request; the range of the training radiographs extends it."""

JITTER = 0.03
"""Standard deviation of the logarithm of the factors by which models see and make sizes and
spacings that differ from those of the training radiographs."""

_ASPECT_TOLERANCE = 1.01  # sizes are rounded to whole pixels


@dataclass(frozen=True)
class Request:
    """One radiograph to generate: height and width in pixels, spacing in mm (0 for unknown)."""

    height: int
    width: int
    spacing_mm: float
    label: str


def wanted_labels(labels: Sequence[str], shares: Sequence[float]) -> tuple[str, ...]:
    """The classes to generate.

    Args:
        labels: Requested classes; when empty, all that the model was trained on.
        shares: The model's `label_shares` in training; see `loader.Pool`.

    Raises:
        UserError: A class is unknown, or the model was not trained on it.
    """
    trained = [la for n, la in enumerate(LABELS) if not shares or shares[n] > 0]
    for label in labels:
        if label not in LABELS:
            raise UserError(f"config.sample.labels names {label!r}; write {' or '.join(LABELS)}.")
        if label not in trained:
            raise UserError(
                f"The model was not trained on {label} (config.data.draw.label_shares); request "
                f"{' and '.join(trained)} in config.sample.labels, or use another model."
            )
    return tuple(labels) or tuple(trained)


def draw_requests(
    dataset: RadiographDataset,
    *,
    per_label: int,
    seed: int,
    labels: Sequence[str] = LABELS,
    sizes: Sequence[tuple[int, int]] = (),
    by: str = "patient",
    square: int | None = None,
) -> list[Request]:
    """Draws sizes and spacings like the training radiographs', the same number for each label.

    They differ by some percent from those of any radiograph, since an exact size and spacing can
    be a patient's own.

    Args:
        dataset: Dataset that the model was trained on.
        per_label: Number of radiographs of each label.
        seed: Seed of the random draws.
        labels: Classes to generate.
        sizes: Heights and widths to use in turn instead. The spacing is then scaled to keep
            about the area of the drawn radiograph in mm^2.
        by: Kind of the train split; see `RadiographDataset.split`.
        square: Side of the square that a letterboxing model reduces radiographs to. The longer
            side of each of `sizes` must then be within the range of the training radiographs.

    Raises:
        UserError: A label has no training radiograph, or a number or size is out of range.
    """
    if per_label < 1:
        raise UserError(f"config.sample.per_label is {per_label}; give 1 or more.")
    train = [dataset.entries[n] for n in dataset.split("train", by)]
    if sizes:
        _check_sizes(sizes, [(entry.height, entry.width) for entry in train], square)
    rng = np.random.default_rng(seed)
    requests = []
    for label in labels:
        known = [entry for entry in train if entry.label == label]
        if not known:
            raise UserError(
                f"The train split of {dataset.folder} has no radiograph with label {label}; "
                "add some before sampling."
            )
        for number, n in enumerate(rng.integers(len(known), size=per_label)):
            entry = known[n]
            height, width = (
                sizes[number % len(sizes)]
                if sizes
                else (max(1, round(side * _jitter(rng))) for side in (entry.height, entry.width))
            )
            scale = math.sqrt(entry.height * entry.width / (height * width)) * _jitter(rng)
            requests.append(Request(height, width, entry.spacing_mm * scale, label))
    return requests


def _jitter(rng: np.random.Generator) -> float:
    """A factor for a size or a spacing."""
    return math.exp(JITTER * rng.standard_normal())


def _check_sizes(
    sizes: Sequence[tuple[int, int]], known: Sequence[tuple[int, int]], square: int | None
) -> None:
    pixels = [height * width for height, width in known]
    low, high = min(SMALLEST, *pixels), max(LARGEST, *pixels)
    aspects = [height / width for height, width in known]
    flattest, tallest = min(aspects) / _ASPECT_TOLERANCE, max(aspects) * _ASPECT_TOLERANCE
    longer = sorted(min(square or 0, max(size)) for size in known)
    for height, width in sizes:
        requested = f"config.sample.sizes requests {height} x {width} pixels"
        if square:
            if min(height, width) < 1 or not longer[0] <= max(height, width) <= longer[-1]:
                raise UserError(
                    f"{requested}, but this model was trained on radiographs with {longer[0]} to "
                    f"{longer[-1]} pixels on the longer side; give a longer side in this range, "
                    "and the shorter side by the aspect ratio."
                )
        elif min(height, width) < 1 or not low <= height * width <= high:
            raise UserError(
                f"{requested}; give a height and a width of {low / 1e6:.3g} to "
                f"{high / 1e6:.3g} megapixels in total."
            )
        if not flattest <= height / width <= tallest:
            raise UserError(
                f"{requested}, {height / width:.3g} times as high as wide; stay within the range "
                f"of the training radiographs, {min(aspects):.3g} to {max(aspects):.3g} times."
            )


class SyntheticSpool:
    """Generated radiographs on disk until the dataset is written; see `spool`.

    The folder `FOLDER.spool` next to the dataset holds a file for each radiograph, named by its
    number and a digest of everything that determines it. A killed run therefore resumes with the
    radiographs that it had generated, a run with another config does not reuse them, and several
    processes may fill the spool.
    """

    def __init__(
        self,
        folder: Path,
        requests: Sequence[Request],
        *,
        patch: int,
        provenance: dict[str, Any],
    ):
        """Opens the spool of a dataset.

        Args:
            folder: Folder of the future dataset.
            requests: Requests for all of its radiographs.
            patch: Side of a tile in pixels.
            provenance: Everything that determines the radiographs in addition to the requests;
                the dataset keeps it.

        Raises:
            UserError: The dataset exists.
        """
        self._folder, self._requests = folder, requests
        self._patch, self._provenance = patch, provenance
        self._spool = folder.with_name(f"{folder.name}.spool")
        if folder.exists():  # a process was killed between the dataset's completion and this
            shutil.rmtree(self._spool, ignore_errors=True)
        require_absent(folder)
        make_folder(self._spool)

    @cached_property
    def finished(self) -> set[int]:
        """Numbers of the radiographs that an earlier run left in the spool."""
        return {n for n in range(len(self._requests)) if spool.read_facts(self._path(n))}

    def add(self, number: int, pixels: UInt16[np.ndarray, "height width"]) -> None:
        """Stores the radiograph of a request; it may have fewer pixels than requested.

        Raises:
            UserError: The spool cannot be written to.
        """
        request, name = self._requests[number], f"synthetic-{number:06d}"
        radiograph = Radiograph(
            pixels=pixels,
            name=name,
            label=request.label,
            patient=name,
            hospital="synthetic",
            spacing_mm=request.spacing_mm * request.height / pixels.shape[0],
            spacing_source="calibrated" if request.spacing_mm else "unknown",
        )
        encoded = encode(radiograph, self._patch)
        facts = spool.FileFacts(encoded.entry, instance="", made_from=(), perceptual_hash=0)
        spool.write(self._path(number), facts, encoded)

    def write(self) -> None:
        """Writes the dataset and removes the spool."""
        writer = DatasetWriter(self._folder, patch=self._patch, provenance=self._provenance)
        with writer:
            for number in Progress(range(len(self._requests)), "write"):
                path = self._path(number)
                facts = spool.read_facts(path)
                if facts is None:
                    raise UserError(f"{path} is damaged or missing; sample again.")
                writer.add(spool.read_encoded(path, facts), "train")
        shutil.rmtree(self._spool)

    def _path(self, number: int) -> Path:
        inputs = [self._patch, self._provenance, dataclasses.astuple(self._requests[number])]
        digest = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()
        return self._spool / f"{number:06d}-{digest[:16]}"
