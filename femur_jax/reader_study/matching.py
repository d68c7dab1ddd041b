"""Choosing pairs of a real and a synthetic radiograph that size and class cannot tell apart."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

from femur_jax.data.cohort import seeded_hash
from femur_jax.data.radiograph import LABELS
from femur_jax.data.shards import RadiographDataset
from femur_jax.errors import UserError
from femur_jax.reader_study.design import REAL, Design


@dataclass(frozen=True)
class Candidate:
    """A radiograph that may be shown: its dataset, its place there and its source."""

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
        """Pseudonym."""
        return self.dataset.entries[self.position].patient


@dataclass(frozen=True)
class MatchedPair:
    """A real and a synthetic radiograph of one class and of similar size, and their block."""

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
    """Chooses radiographs for all blocks.

    Synthetic ones are drawn by chance, equally often of each source. Each gets the real one that
    fits it best in height and width, all pairs together being the best assignment. Of each real
    patient one radiograph can be chosen, so readings are independent.

    Args:
        design: Of the study.
        real: The dataset of patients.
        splits: The splits that real ones come from; no generator may have been trained on them.
        synthetic: Datasets by the name of their source.

    Raises:
        UserError: There are too few of a class.
    """
    blocks = [block for block, count in design.pairs_per_class().items() for _ in range(count)]
    where = " and ".join(splits)
    pairs: list[MatchedPair] = []
    for label in LABELS:
        taken = {pair.real.patient for pair in pairs}  # who had fractures of both classes
        patients: dict[str, Candidate] = {}
        for n in _order(design, real, label):
            candidate = Candidate(real, n, REAL)
            if real.entries[n].split in splits and candidate.patient not in taken:
                patients.setdefault(candidate.patient, candidate)
        pool = list(patients.values())
        _enough(len(pool), len(blocks), f"patients with {label} in the split {where}", "real")
        queues = {
            source: [Candidate(d, n, source) for d in datasets for n in _order(design, d, label)]
            for source, datasets in synthetic.items()
        }
        chosen = []
        for turn in range(len(blocks)):  # sources take turns, so each block has all of them
            source = list(queues)[turn % len(queues)]
            share = len(range(turn % len(queues), len(blocks), len(queues)))
            _enough(len(queues[source]) + turn // len(queues), share, label, source)
            chosen.append(queues[source].pop(0))
        for block, candidate, match in zip(blocks, chosen, _best_match(chosen, pool), strict=True):
            pairs.append(MatchedPair(match, candidate, label, block))
    return pairs


def _order(design: Design, dataset: RadiographDataset, label: str) -> list[int]:
    """The radiographs of a class in an order of chance."""
    own = [n for n, entry in enumerate(dataset.entries) if entry.label == label]
    return sorted(own, key=lambda n: seeded_hash(design.seed, dataset.entries[n].sha256))


def _enough(have: int, needed: int, what: str, source: str) -> None:
    if have < needed:
        raise UserError(
            f"The design takes {needed} {source} {what}, and there are {have}; lower --single, "
            "--pairs or --practice, or give more radiographs."
        )


def _best_match(chosen: Sequence[Candidate], pool: Sequence[Candidate]) -> list[Candidate]:
    """For each of the chosen a different one of the pool."""
    logs = [np.log([candidate.size for candidate in group]) for group in (chosen, pool)]
    cost = np.abs(logs[0][:, None] - logs[1][None]).sum(axis=-1)
    _, columns = linear_sum_assignment(cost)
    return [pool[column] for column in columns]
