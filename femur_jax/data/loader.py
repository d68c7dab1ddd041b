"""Random training batches from datasets, through grain.

A stream passes through the radiographs in epochs, each in a new order; classes that are drawn more
often have separate streams, mixed by weight. The random choices for a sample come from a generator
keyed by (seed, position in the stream). A batch therefore does not depend on the number of
processes, and a run that resumes at step k sees the same batches as an undisturbed one.
"""

import dataclasses
import functools
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, TypedDict

import grain
import jax
import numpy as np
from jaxtyping import Int32, UInt16

from femur_jax.data.letterbox import Letterbox, best_shape, letterbox
from femur_jax.data.pyramid import double
from femur_jax.data.radiograph import LABELS
from femur_jax.data.records import RadiographEntry
from femur_jax.data.shards import RadiographDataset
from femur_jax.errors import UserError

_KEPT_BYTES = 2**29  # memory for the letterboxes of a stream
_THREADS = 16  # grain's default; the number of cores limits it further


class Stream(NamedTuple):
    """An endless stream of training samples of one shape, and its weight among other streams."""

    samples: grain.MapDataset
    weight: float = 1.0


class Patch(TypedDict):
    """A square of one level with its context; from the mirror image where `mirrored` is 1."""

    pixels: UInt16[np.ndarray, "patch patch"]
    """Grey values; outside the radiograph's border the nearest ones."""
    context: UInt16[np.ndarray, "patch patch 1"]
    """The same area of the coarser level, interpolated to this level; zeros at level 0."""
    origin: Int32[np.ndarray, "2"]
    """Row and column of the first pixel within the level."""
    level_size: Int32[np.ndarray, "2"]
    """Height and width of the radiograph at this level."""
    size: Int32[np.ndarray, "2"]
    """Height and width of the radiograph at its native size."""
    level: np.int32
    label: np.int32
    """The index into LABELS."""
    spacing_mm: np.float32
    """Side of a native pixel, 0 where unknown."""
    mirrored: np.int32
    """1 where the patch comes from the mirror image, otherwise 0."""


def _some(
    dataset: RadiographDataset, radiographs: Sequence[int], most: int, seed: int
) -> list[int]:
    """At most so many radiographs of each label, at random, in their order; all where it is 0."""
    if not most:
        return list(radiographs)
    chosen: list[int] = []
    for label in LABELS:
        members = [n for n in radiographs if dataset.entries[n].label == label]
        order = np.random.default_rng(seed).permutation(len(members))
        chosen += [members[n] for n in order[:most]]
    return sorted(chosen)


class Pool:
    """The radiographs that a run draws from, with their weights.

    Attributes:
        radiographs: Dataset of each radiograph, and its position there.
    """

    def __init__(
        self,
        datasets: Sequence[RadiographDataset],
        *,
        split: str = "train",
        by: str = "patient",
        label_shares: Sequence[float] = (),
        per_label: Sequence[int] = (),
        seed: int = 0,
    ):
        """Collects one split of some datasets.

        Args:
            datasets: Datasets of the radiographs.
            split: Name of the split, the same for each dataset.
            by: Kind of the split; see `RadiographDataset.split`.
            label_shares: Share of each label in the draws, in the order of LABELS; when empty, all
                radiographs are drawn alike.
            per_label: Most radiographs of each label from each dataset, 0 for all; when empty, all.
                A smaller number of the same seed takes a part of those of a larger one.
            seed: Seed of the choice of these radiographs.

        Raises:
            UserError: A label with a share has no radiograph, or a setting is out of range.
        """
        self.radiographs = [
            (d, n)
            for d, most in zip(datasets, per_label or [0] * len(datasets), strict=True)
            for n in _some(d, d.split(split, by), most, seed)
        ]
        folders = ", ".join(str(d.folder) for d in datasets)
        if label_shares and (
            len(label_shares) != len(LABELS) or min(label_shares) < 0 or not any(label_shares)
        ):
            raise UserError(
                f"label_shares is {tuple(label_shares)}; give a share of 0 or more to each of "
                f"{' and '.join(LABELS)}, not 0 to all."
            )
        if not self.radiographs:
            raise UserError(f"The {split} split of {folders} has no radiograph; add some.")
        if not label_shares:
            self._groups = [(range(len(self.radiographs)), 1.0)]
            return
        counts = np.bincount([self._label(n) for n in range(len(self.radiographs))], minlength=2)
        shares = np.array(label_shares, float)
        for label, share, count in zip(LABELS, shares, counts, strict=True):
            if share > 0 and count == 0:
                raise UserError(
                    f"The {split} split of {folders} has no radiograph with label {label}; "
                    "add some, or set label_shares so that it is not drawn."
                )
        self._groups = [
            (
                [n for n in range(len(self.radiographs)) if self._label(n) == label],
                float(share / shares.sum()),
            )
            for label, share in enumerate(shares)
            if share > 0
        ]

    def _entry(self, position: int) -> RadiographEntry:
        dataset, radiograph = self.radiographs[position]
        return dataset.entries[radiograph]

    def _label(self, position: int) -> int:
        return LABELS.index(self._entry(position).label)

    def size(self, position: int) -> tuple[int, int]:
        """Height and width of a radiograph."""
        entry = self._entry(position)
        return entry.height, entry.width

    def weight(self, among: Sequence[int]) -> float:
        """The probability that a draw gives one of some radiographs."""
        wanted = set(among)
        return sum(
            weight * len(wanted.intersection(members)) / len(members)
            for members, weight in self._groups
        )

    def digest(self) -> str:
        """A digest of the manifest's entries of the radiographs, and of their weights.

        The manifest has a checksum of each radiograph's grey values, so no pixels are read.
        """
        digest = hashlib.sha256()
        for position in range(len(self.radiographs)):
            entry = dataclasses.asdict(self._entry(position))
            digest.update(json.dumps(entry, sort_keys=True).encode())
        weights = [(len(members), weight) for members, weight in self._groups]
        digest.update(json.dumps(weights).encode())
        return digest.hexdigest()

    def positions(self, *, seed: int, among: Sequence[int] = ()) -> grain.MapDataset:
        """An endless stream of positions in `radiographs`, of all or some of them.

        Each group of equal weight is drawn in epochs that contain each of its radiographs once.
        """
        wanted = set(among or range(len(self.radiographs)))
        streams, weights = [], []
        for number, (members, weight) in enumerate(self._groups):
            chosen = [n for n in members if n in wanted]
            if chosen:
                source = grain.MapDataset.source(chosen).seed(seed + number).shuffle().repeat()
                streams.append(source)
                weights.append(weight * len(chosen) / len(members))
        return grain.MapDataset.mix(streams, weights) if len(streams) > 1 else streams[0]


def random_patches(
    pool: Pool,
    *,
    level_weights: Sequence[float],
    seed: int,
    mirror: bool = False,
) -> list[Stream]:
    """An endless stream of `Patch` from all levels.

    Args:
        pool: Radiographs to draw from.
        level_weights: Weights of the levels of a radiograph, coarsest first; the last weight holds
            for all finer levels.
        seed: Seed of the random draws.
        mirror: Whether half of the patches, at random, come from the mirror image.

    Raises:
        UserError: A radiograph has no level with a weight above 0.
    """
    fewest = min(len(dataset.level_sizes(n)) for dataset, n in pool.radiographs)
    if not any(level_weights[:fewest]):
        raise UserError(
            f"level_weights are 0 for the first {fewest} levels, and some radiographs have only "
            "these; set one of the weights above 0."
        )

    def sample(position: int, rng: np.random.Generator) -> Patch:
        dataset, radiograph = pool.radiographs[position]
        sizes = dataset.level_sizes(radiograph)
        last = len(level_weights) - 1
        weights = np.array([level_weights[min(n, last)] for n in range(len(sizes))])
        level = int(rng.choice(len(sizes), p=weights / weights.sum()))
        origin = random_origin(rng, sizes[level], dataset.patch)
        mirrored = mirror and bool(rng.integers(2))
        return cut_patch(dataset, radiograph, level, origin, mirrored=mirrored)

    return [Stream(pool.positions(seed=seed).seed(seed).random_map(sample))]


def random_origin(rng: np.random.Generator, size: tuple[int, int], side: int) -> tuple[int, int]:
    """A random even origin, as sampling's tiles have; the last one may overhang by a pixel.

    Origins are drawn up to a quarter of a side beyond the first and the last, and moved back to
    these, since sampling has tiles at the borders of every radiograph, however large.
    """
    beyond = side // 4

    def along(length: int) -> int:
        last = last_origin(length, side)
        origin = 2 * (int(rng.integers(-beyond, last + beyond + 1)) // 2)
        return min(max(origin, 0), last)

    return along(size[0]), along(size[1])


def last_origin(length: int, patch: int) -> int:
    """The greatest even origin of a patch along a side of `length` pixels."""
    return -(-max(length - patch, 0) // 2) * 2


def cut_patch(
    dataset: RadiographDataset,
    radiograph: int,
    level: int,
    origin: tuple[int, int],
    *,
    side: int | None = None,
    mirrored: bool = False,
) -> Patch:
    """Cuts a patch out of a radiograph or out of its mirror image.

    Args:
        dataset: Dataset of the radiograph.
        radiograph: Position in the dataset.
        level: Number of the level, 0 for the coarsest.
        origin: Row and column of the first pixel, in the mirror image where `mirrored`.
        side: Side of the patch, by default that of the dataset's tiles.
        mirrored: Whether to cut from the mirror image, left for right.
    """
    side = side or dataset.patch
    sizes = dataset.level_sizes(radiograph)

    def window(
        level: int, origin: tuple[int, int], size: tuple[int, int]
    ) -> UInt16[np.ndarray, "height width"]:
        return dataset.window(radiograph, level, origin, size)

    y, x = origin
    start = (y, sizes[level][1] - side - x) if mirrored else origin  # in the radiograph itself
    pixels = window(level, start, (side, side))
    context = np.zeros((side, side), np.uint16)
    if level:
        # One further coarse pixel on each side to interpolate with, and one for an odd start.
        half = side // 2 + 3
        coarse = window(level - 1, (start[0] // 2 - 1, start[1] // 2 - 1), (half, half))
        top, left = (2 + s % 2 for s in start)
        fine = double(coarse.astype(np.float32))[top : top + side, left : left + side]
        context = np.round(fine).astype(np.uint16)
    if mirrored:
        pixels, context = pixels[:, ::-1], context[:, ::-1]
    entry = dataset.entries[radiograph]
    return Patch(
        pixels=pixels,
        context=context[..., None],
        origin=np.array(origin, np.int32),
        level_size=np.array(sizes[level], np.int32),
        size=np.array((entry.height, entry.width), np.int32),
        level=np.int32(level),
        label=np.int32(LABELS.index(entry.label)),
        spacing_mm=np.float32(entry.spacing_mm),
        mirrored=np.int32(mirrored),
    )


def random_letterboxes(
    pool: Pool,
    *,
    shapes: Sequence[tuple[int, int]],
    seed: int,
    columns: Sequence[str] = (),
    enlarge: bool = False,
) -> list[Stream]:
    """Endless streams of `Letterbox`, one for each shape.

    Args:
        pool: Radiographs to draw from.
        shapes: Heights and widths; a radiograph goes to the shape in which it appears largest.
        seed: Seed of the random draws.
        columns: Further columns to add, by name.
        enlarge: Whether smaller radiographs are enlarged.
    """
    sizes = [pool.size(n) for n in range(len(pool.radiographs))]
    best = [best_shape(size, shapes, enlarge=enlarge) for size in sizes]
    streams = []
    for number, shape in enumerate(shapes):
        among = [n for n, best_number in enumerate(best) if best_number == number]
        if among:

            def whole(position: int, shape: tuple[int, int] = shape) -> Letterbox:
                return letterbox(*pool.radiographs[position], shape, columns, enlarge=enlarge)

            samples = pool.positions(seed=seed, among=among)
            most = _KEPT_BYTES // (2 * shape[0] * shape[1])
            streams.append(Stream(samples.map(_kept(whole, most)), pool.weight(among)))
    return streams


def _kept(read: Callable[[int], Letterbox], most: int) -> Callable[[int], Letterbox]:
    """Reads samples once each, of the first `most` positions, for all epochs."""
    remembered = functools.cache(read)
    return lambda position: (remembered if position < most else read)(position)


def batches(
    streams: Sequence[Stream], *, batch_size: int, start: int, sharding: jax.sharding.Sharding
) -> Iterator[dict[str, Any]]:
    """Yields batches on the devices, read ahead by threads; each batch comes from one stream.

    Args:
        streams: Streams to draw from; at each step all processes draw from the same one.
        batch_size: Number of samples in a batch over all processes.
        start: Number of batches to skip, for a run that resumes.
        sharding: Sharding of each array, whose first axis is the batch.
    """
    index, count = _process_slice(sharding, batch_size)
    # Neighbouring samples share a process, as they do in a batch, so that values keyed by the
    # position in the batch do not depend on the number of processes.
    local = [samples.batch(batch_size // count)[index::count] for samples, _ in streams]
    weights = [weight for _, weight in streams]
    mixed = grain.MapDataset.mix(local, weights) if len(local) > 1 else local[0]
    threads = min(os.cpu_count() or 1, _THREADS)
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=_THREADS)
    iterator = iter(mixed.to_iter_dataset(options))
    iterator.set_state({"next_index": start})
    for batch in iterator:
        yield {
            name: jax.make_array_from_process_local_data(
                sharding, value, (batch_size, *value.shape[1:])
            )
            for name, value in batch.items()
        }


def _process_slice(sharding: jax.sharding.Sharding, batch_size: int) -> tuple[int, int]:
    """Index and number of the equal slices of a batch, for the devices of this process.

    Processes whose devices hold the same samples, as along the mesh's model axis, share a slice.
    """
    slices = sharding.addressable_devices_indices_map((batch_size,)).values()
    rows = [axes[0].indices(batch_size)[:2] for axes in slices if axes]
    start, stop = min(row[0] for row in rows), max(row[1] for row in rows)
    return start // (stop - start), batch_size // (stop - start)
