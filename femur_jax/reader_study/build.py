"""Builds a reader study, with the same processing for real and synthetic radiographs."""

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from femur_jax.data.cohort import seeded_hash
from femur_jax.data.shards import RadiographDataset
from femur_jax.files import new_folder
from femur_jax.progress import Progress
from femur_jax.reader_study import pictures
from femur_jax.reader_study.design import Case, Design
from femur_jax.reader_study.matching import Candidate, MatchedPair, matched_pairs
from femur_jax.reader_study.study import IMAGES, SCHEMA, STUDY_FILE


def build(
    out: Path,
    design: Design,
    real: RadiographDataset,
    synthetic: Mapping[str, Sequence[RadiographDataset]],
    *,
    splits: Sequence[str],
) -> float:
    """Builds a study. The folder appears under its final name only when it is complete.

    Args:
        out: Folder of the new study.
        design: Settings of the study.
        real: The dataset of real patients.
        synthetic: Synthetic datasets by the name of their source.
        splits: Splits from which real radiographs are drawn.

    Returns:
        Mean share of a radiograph's area that is cropped so that pairs have equal aspect ratios.

    Raises:
        UserError: `out` exists, there are too few radiographs, or one is damaged.
        OSError: The disk is full or not writable. No incomplete study remains.
    """
    with new_folder(out, checksums=True) as partial:
        pairs = matched_pairs(design, real, splits, synthetic)
        (partial / IMAGES).mkdir()
        # Threads suffice, since decoding, resizing and compressing release Python's lock.
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            results = pool.map(
                lambda n: _write_pair(partial / IMAGES, design.seed, n, pairs[n]),
                range(len(pairs)),
            )
            written = list(Progress(results, "pairs", len(pairs)))
        cases = [case for both, _ in written for case in both]
        study = {
            "schema": SCHEMA,
            "design": dataclasses.asdict(design),
            "cases": [dataclasses.asdict(case) for case in cases],
        }
        (partial / STUDY_FILE).write_text(json.dumps(study, indent=1))
    return float(np.mean([cropped for _, cropped in written]))


def _write_pair(
    folder: Path, seed: int, number: int, pair: MatchedPair
) -> tuple[list[Case], float]:
    """Writes both radiographs of a pair; returns their cases and the mean share that is cropped."""
    both = (pair.real, pair.synthetic)
    size = pictures.common_size(pair.real.size, pair.synthetic.size)
    files = [pictures.encode(pictures.standardise(c.dataset.read(c.position), size)) for c in both]
    cases = []
    for candidate, file in zip(both, files, strict=True):
        case = _case(seed, number, pair, candidate)
        path = folder / f"{case.image}.bin"
        path.write_bytes(file.ljust(max(map(len, files)), b"\0"))
        os.utime(path, (0, 0))
        cases.append(case)
    return cases, sum(pictures.cropped_share(c.size, size) for c in both) / 2


def _case(seed: int, number: int, pair: MatchedPair, candidate: Candidate) -> Case:
    return Case(
        image=seeded_hash(seed, f"image {number} {candidate.source}")[:16],
        pair=number,
        block=pair.block,
        source=candidate.source,
        label=pair.label,
        radiograph=candidate.dataset.entries[candidate.position].name,
    )
