"""Synthetic radiographs become a dataset, in one go or in several."""

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt16
from tqdm import tqdm

from femur_jax.data import spool
from femur_jax.data.radiograph import Radiograph
from femur_jax.data.records import encode
from femur_jax.data.requests import Request
from femur_jax.data.shards import DatasetWriter
from femur_jax.errors import UserError


class SyntheticSpool:
    """Radiographs that were made, on disk until the dataset is written; see `spool`.

    Beside the dataset lies `FOLDER.spool`, a file for each radiograph, named by its number and by a
    digest of all that it follows from. So a run that was killed goes on with what it made, one of
    another config does not take it over, and several processes may fill it.
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
            folder: The dataset.
            requests: All of its radiographs.
            patch: Side of a tile.
            provenance: All that the radiographs follow from beside the requests; kept in the
                dataset.

        Raises:
            UserError: The dataset exists.
        """
        self._folder, self._requests = folder, requests
        self._patch, self._provenance = patch, provenance
        self._spool = folder.with_name(f"{folder.name}.spool")
        if folder.exists():
            shutil.rmtree(self._spool, ignore_errors=True)  # by one killed after it was complete
            raise UserError(f"{folder} exists; remove it or name another folder.")
        self._spool.mkdir(parents=True, exist_ok=True)

    @cached_property
    def finished(self) -> set[int]:
        """Numbers of the radiographs that were found."""
        return {n for n in range(len(self._requests)) if spool.read_facts(self._path(n))}

    def add(self, number: int, pixels: UInt16[np.ndarray, "height width"]) -> None:
        """Keeps the radiograph of a request; the pixels may be fewer than requested.

        Raises:
            UserError: The disk is full.
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
        facts = spool.Facts(encoded.entry, instance="", made_from=(), perceptual_hash=0)
        try:
            spool.write(self._path(number), facts, encoded)
        except OSError as error:
            raise UserError(
                f"{self._spool} cannot be written ({error.strerror}); make room and run again."
            ) from None

    def write(self) -> None:
        """Writes the dataset and removes the spool."""
        writer = DatasetWriter(self._folder, patch=self._patch, provenance=self._provenance)
        with writer:
            for number in tqdm(range(len(self._requests)), "write", disable=None):
                path = self._path(number)
                facts = spool.read_facts(path)
                if facts is None:
                    raise UserError(f"{path} is damaged or missing; sample again.")
                writer.add(spool.read_encoded(path, facts), "train")
        shutil.rmtree(self._spool)

    def _path(self, number: int) -> Path:
        cause = [self._patch, self._provenance, dataclasses.astuple(self._requests[number])]
        digest = hashlib.sha256(json.dumps(cause, sort_keys=True).encode()).hexdigest()
        return self._spool / f"{number:06d}-{digest[:16]}"
