"""Random training batches from datasets, through grain.

Each sample is drawn by a generator keyed by (seed, position in the global stream), so a batch
does not depend on the number of processes, and a run that continues at step k sees what an
undisturbed one would.
"""

from collections.abc import Iterator, Sequence
from typing import Any, TypedDict

import grain
import jax
import numpy as np
from jaxtyping import Int32, UInt16

from femur_jax.data.letterbox import Letterbox, letterbox
from femur_jax.data.pyramid import double
from femur_jax.data.radiograph import LABELS
from femur_jax.data.shards import RadiographDataset
from femur_jax.errors import UserError

_ENDLESS = 2**40


class Patch(TypedDict):
    """A square of one level, with the same place one level coarser."""

    pixels: UInt16[np.ndarray, "patch patch"]
    """Grey values; beyond the radiograph's border the nearest one."""
    context: UInt16[np.ndarray, "patch patch"]
    """The coarser level's crop, interpolated to this level; zeros at level 0."""
    origin: Int32[np.ndarray, "2"]
    """Row and column of the first pixel within the level."""
    level_size: Int32[np.ndarray, "2"]
    """Height and width of the radiograph at this level."""
    size: Int32[np.ndarray, "2"]
    """Height and width of the radiograph as it was recorded."""
    level: np.int32
    label: np.int32
    """Index into LABELS."""
    spacing_mm: np.float32
    """Of a native pixel, 0 where unknown."""


class Pool:
    """The radiographs that a run draws from, with their probabilities."""

    def __init__(
        self,
        datasets: Sequence[RadiographDataset],
        *,
        split: str = "train",
        label_shares: Sequence[float] = (),
    ):
        """Collects one split of some datasets.

        Args:
            datasets: Where radiographs come from.
            split: The same of each.
            label_shares: How often each label is drawn, in the order of LABELS; as they occur
                when empty.

        Raises:
            UserError: A label that shall be drawn has no radiograph.
        """
        self.radiographs = [(d, n) for d in datasets for n in d.split(split)]
        labels = np.array([LABELS.index(d.entries[n].label) for d, n in self.radiographs], int)
        counts = np.bincount(labels, minlength=len(LABELS))
        shares = np.array(label_shares or counts, float)
        for label, share, count in zip(LABELS, shares, counts, strict=True):
            if (share > 0 and count == 0) or not len(labels):
                folders = ", ".join(str(d.folder) for d in datasets)
                raise UserError(
                    f"The {split} split of {folders} has no radiograph with label {label}; "
                    "add some, or set label_shares so that it is not drawn."
                )
        weights = (shares / np.maximum(counts, 1))[labels]
        cumulative = np.cumsum(weights)
        self._cumulative = cumulative / cumulative[-1]

    def draw(self, rng: np.random.Generator) -> tuple[RadiographDataset, int]:
        """A dataset and a radiograph's position in it."""
        return self.radiographs[int(np.searchsorted(self._cumulative, rng.random(), "right"))]


def random_patches(pool: Pool, *, level_weights: Sequence[float], seed: int) -> grain.MapDataset:
    """An endless stream of `Patch`.

    Args:
        pool: What to draw from.
        level_weights: How often each level is drawn, coarsest first, among those that the
            radiograph at hand has; the last holds for all finer ones.
        seed: Of the draws.

    Raises:
        UserError: A radiograph has no level that may be drawn.
    """
    fewest = min(len(dataset.level_sizes(n)) for dataset, n in pool.radiographs)
    if not any(level_weights[:fewest]):
        raise UserError(
            f"level_weights are 0 for the first {fewest} levels, and some radiographs have no "
            "more; set one of them above 0."
        )

    def sample(_: int, rng: np.random.Generator) -> Patch:
        dataset, radiograph = pool.draw(rng)
        sizes = dataset.level_sizes(radiograph)
        last = len(level_weights) - 1
        weights = np.array([level_weights[min(n, last)] for n in range(len(sizes))])
        level = int(rng.choice(len(sizes), p=weights / weights.sum()))
        # Even, so that the coarser crop begins at a pixel; the last place may overhang by one.
        row, column = (
            2 * int(rng.integers(last_origin(n, dataset.patch) // 2 + 1)) for n in sizes[level]
        )
        return cut_patch(dataset, radiograph, level, (row, column))

    return grain.MapDataset.range(_ENDLESS).seed(seed).random_map(sample)


def last_origin(length: int, patch: int) -> int:
    """The greatest even place of a patch along a side of `length` pixels."""
    return -(-max(length - patch, 0) // 2) * 2


def cut_patch(
    dataset: RadiographDataset, radiograph: int, level: int, origin: tuple[int, int]
) -> Patch:
    """The patch at an even `origin`."""
    patch = dataset.patch
    if level:
        half = patch // 2 + 2
        coarse_origin = (origin[0] // 2 - 1, origin[1] // 2 - 1)
        coarse = dataset.window(radiograph, level - 1, coarse_origin, (half, half))
        context = np.round(double(coarse.astype(np.float32))[2:-2, 2:-2]).astype(np.uint16)
    else:
        context = np.zeros((patch, patch), np.uint16)
    entry = dataset.entries[radiograph]
    return Patch(
        pixels=dataset.window(radiograph, level, origin, (patch, patch)),
        context=context,
        origin=np.array(origin, np.int32),
        level_size=np.array(dataset.level_sizes(radiograph)[level], np.int32),
        size=np.array((entry.height, entry.width), np.int32),
        level=np.int32(level),
        label=np.int32(LABELS.index(entry.label)),
        spacing_mm=np.float32(entry.spacing_mm),
    )


def random_letterboxes(pool: Pool, *, side: int, seed: int) -> grain.MapDataset:
    """An endless stream of `Letterbox`."""

    def sample(_: int, rng: np.random.Generator) -> Letterbox:
        return letterbox(*pool.draw(rng), side)

    return grain.MapDataset.range(_ENDLESS).seed(seed).random_map(sample)


def batches(
    samples: grain.MapDataset, *, batch_size: int, start: int, sharding: jax.sharding.Sharding
) -> Iterator[dict[str, Any]]:
    """Batches on the devices, read ahead by threads.

    Args:
        samples: An endless stream.
        batch_size: Over all processes.
        start: Number of batches to leave out, for a run that continues.
        sharding: Of each array; its first axis is the batch.
    """
    own = samples[jax.process_index() :: jax.process_count()]
    iterator = iter(
        own.batch(batch_size // jax.process_count()).to_iter_dataset(
            grain.ReadOptions(num_threads=2, prefetch_buffer_size=8)
        )
    )
    iterator.set_state({"next_index": start})
    for batch in iterator:
        yield {
            name: jax.make_array_from_process_local_data(sharding, value)
            for name, value in batch.items()
        }
