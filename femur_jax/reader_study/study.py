"""A reader study as a folder.

    STUDY/
      study.json        the design and the truth; the page never gets it
      images/NAME.bin   the radiographs, see `pictures.encode`
      SHA256SUMS        of these, as they were when the study was made
      answers.sqlite    readers, their sessions and their answers, see `answers`

Names are drawn by chance. The two files of a matched pair have equal size in pixels and in bytes,
and all files the same time of change, so no property of a file tells what it shows.
"""

import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from femur_jax.data import checksums
from femur_jax.data.cohort import seeded_hash
from femur_jax.data.shards import RadiographDataset
from femur_jax.errors import UserError
from femur_jax.reader_study import pictures
from femur_jax.reader_study.design import Case, Design
from femur_jax.reader_study.matching import Candidate, MatchedPair, matched_pairs

SCHEMA = 1
ANSWERS = "answers.sqlite"
_STUDY = "study.json"
_IMAGES = "images"


@dataclass(frozen=True)
class Study:
    """A study that was made.

    Attributes:
        folder: Where it lies.
        design: Its settings.
        cases: Its radiographs and the truth about them.
        fingerprint: SHA-256 of all of it; other readers' answers belong to another study.
    """

    folder: Path
    design: Design
    cases: list[Case]
    fingerprint: str

    def image(self, name: str) -> Path:
        """The file of a radiograph."""
        return self.folder / _IMAGES / f"{name}.bin"


def open_study(folder: Path) -> Study:
    """Opens a study and checks that nothing of it was changed.

    Raises:
        UserError: There is none, or a file is missing or was changed.
    """
    path = folder / _STUDY
    if not path.is_file():
        raise UserError(
            f"{folder} holds no reader study ({_STUDY} is missing); make one with "
            "tools/reader_study.py build."
        )
    try:
        checksums.verify(folder, [_STUDY])
        found = json.loads(path.read_text())
        if found["schema"] != SCHEMA:
            raise UserError(
                f"{path} has schema {found['schema']}, and this version reads {SCHEMA}."
            )
        return Study(
            folder,
            Design(**found["design"]),
            [Case(**case) for case in found["cases"]],
            hashlib.sha256((folder / checksums.SUMS).read_bytes()).hexdigest(),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged; restore it from a copy.") from error


def build(
    out: Path,
    design: Design,
    real: RadiographDataset,
    synthetic: Mapping[str, Sequence[RadiographDataset]],
    *,
    split: str,
) -> float:
    """Makes a study, which appears under its name only when it is complete.

    Args:
        out: The new folder.
        design: Its settings.
        real: The dataset of patients.
        synthetic: Datasets by the name of their source.
        split: The split that real radiographs come from.

    Returns:
        Mean share of a radiograph's area that was cut off to give pairs equal aspect ratios.

    Raises:
        UserError: `out` exists, the radiographs are too few, or one is damaged.
        OSError: The disk is full, or cannot be written to; nothing is left behind.
    """
    if out.exists():
        raise UserError(f"{out} exists; remove it or name another folder.")
    pairs = matched_pairs(design, real, split, synthetic)
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)  # left by a run that was killed
    (partial / _IMAGES).mkdir(parents=True)
    try:
        # Decoding, resizing and deflating release the lock.
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            made = pool.map(
                lambda n: _write_pair(partial / _IMAGES, design.seed, n, pairs[n]),
                range(len(pairs)),
            )
            written = list(tqdm(made, "pairs", len(pairs), delay=10))
        cases = [case for two, _ in written for case in two]
        study = {
            "schema": SCHEMA,
            "design": dataclasses.asdict(design),
            "cases": [dataclasses.asdict(case) for case in cases],
        }
        (partial / _STUDY).write_text(json.dumps(study, indent=1))
        checksums.write(partial)
        partial.replace(out)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return float(np.mean([lost for _, lost in written]))


def _write_pair(
    folder: Path, seed: int, number: int, pair: MatchedPair
) -> tuple[list[Case], float]:
    """Writes both radiographs of a pair; returns them and the mean share that was cut off."""
    both = (pair.real, pair.synthetic)
    size = pictures.common_size(pair.real.size, pair.synthetic.size)
    files = [pictures.encode(pictures.bring_to(c.dataset.read(c.position), size)) for c in both]
    cases = []
    for candidate, file in zip(both, files, strict=True):
        case = _case(seed, number, pair, candidate)
        path = folder / f"{case.image}.bin"
        path.write_bytes(file.ljust(max(map(len, files)), b"\0"))
        os.utime(path, (0, 0))
        cases.append(case)
    return cases, sum(pictures.lost_share(c.size, size) for c in both) / 2


def _case(seed: int, number: int, pair: MatchedPair, candidate: Candidate) -> Case:
    return Case(
        image=seeded_hash(seed, f"image {number} {candidate.source}")[:16],
        pair=number,
        block=pair.block,
        source=candidate.source,
        label=pair.label,
        radiograph=candidate.dataset.entries[candidate.position].name,
    )
