"""Chooses pairs of a real and a synthetic radiograph of the same class and of similar size."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

from femur_jax.data.cohort import seeded_hash
from femur_jax.data.radiograph import LABELS
from femur_jax.data.shards import RadiographDataset
from femur_jax.errors import UserError
from femur_jax.reader_study.design import REAL_SOURCE, Design


@dataclass(frozen=True)
class Candidate:
    """A radiograph that may be shown: its dataset, its position in the dataset, and its source."""

    dataset: RadiographDataset
    position: int
    source: str

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        entry = self.dataset.entries[self.position]
        return entry.height, entry.width

    @property
    def patient(self) -> str:
        """Pseudonym of the patient."""
        return self.dataset.entries[self.position].patient


@dataclass(frozen=True)
class MatchedPair:
    """A real and a synthetic radiograph of one class and similar size, with their block."""

    real: Candidate
    synthetic: Candidate
    label: str
    block: str


def matched_pairs(
    design: Design,
    real: RadiographDataset,
    splits: Sequence[str],
    synthetic: Mapping[str, Sequence[RadiographDataset]],
) -> list[MatchedPair]:
    """Chooses the radiographs of all blocks.

    Synthetic radiographs are drawn at random, equally many from each source. Real ones are matched
    to them by height and width, with the assignment that is best for all pairs together. Each
    patient contributes at most one radiograph, so that readings are independent.

    Args:
        design: Settings of the study.
        real: The dataset of real patients.
        splits: Splits from which real radiographs are drawn. No generator may have been trained on
            them.
        synthetic: Synthetic datasets by the name of their source.

    Raises:
        UserError: There are too few radiographs of a class.
    """
    blocks = [block for block, count in design.pairs_per_class().items() for _ in range(count)]
    where = " and ".join(splits)
    pairs: list[MatchedPair] = []
    for label in LABELS:
        taken = {pair.real.patient for pair in pairs}  # some have fractures of both classes
        patients: dict[str, Candidate] = {}
        for n in _shuffled(design, real, label):
            candidate = Candidate(real, n, REAL_SOURCE)
            if real.entries[n].split in splits and candidate.patient not in taken:
                patients.setdefault(candidate.patient, candidate)
        pool = list(patients.values())
        needed = f"patients with {label} in the split {where}"
        _check_enough(len(pool), len(blocks), needed, "real")
        queues = {
            source: [Candidate(d, n, source) for d in datasets for n in _shuffled(design, d, label)]
            for source, datasets in synthetic.items()
        }
        chosen = []
        for turn in range(
            len(blocks)
        ):  # sources take turns, so that each block contains all of them
            source = list(queues)[turn % len(queues)]
            share = len(range(turn % len(queues), len(blocks), len(queues)))
            _check_enough(len(queues[source]) + turn // len(queues), share, label, source)
            chosen.append(queues[source].pop(0))
        for block, candidate, match in zip(blocks, chosen, _best_match(chosen, pool), strict=True):
            pairs.append(MatchedPair(match, candidate, label, block))
    return pairs


def _shuffled(design: Design, dataset: RadiographDataset, label: str) -> list[int]:
    """Positions of the radiographs of a class, in random order."""
    positions = [n for n, entry in enumerate(dataset.entries) if entry.label == label]
    return sorted(positions, key=lambda n: seeded_hash(design.seed, dataset.entries[n].sha256))


def _check_enough(available: int, needed: int, what: str, source: str) -> None:
    if available < needed:
        raise UserError(
            f"The design needs {needed} {source} {what}, but there are {available}; lower "
            "--single, --pairs or --practice, or add radiographs."
        )


def _best_match(chosen: Sequence[Candidate], pool: Sequence[Candidate]) -> list[Candidate]:
    """Returns a different candidate of the pool for each chosen one."""
    logs = [np.log([candidate.size for candidate in group]) for group in (chosen, pool)]
    cost = np.abs(logs[0][:, None] - logs[1][None]).sum(axis=-1)
    _, columns = linear_sum_assignment(cost)
    return [pool[column] for column in columns]
