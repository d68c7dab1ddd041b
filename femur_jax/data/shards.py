"""The radiograph dataset: a folder of ArrayRecord shards at several resolutions.

    DATASET/
      dataset.json                      manifest: the radiographs and each file's record count
      SHA256SUMS                        checksums of all files
      level_0/                          a TFDS dataset of the coarsest resolution
        dataset_info.json, features.json
        radiographs-train.array_record-00000-of-00001
      level_1/ ...
      margins/                          pixels outside the radiographs' crops

A radiograph's level is cut row by row into tiles that do not overlap, of at most patch x patch
pixels and one record each, so that any patch x patch window touches at most four records. Level l
holds the radiographs that have such a level, in the order of the manifest.
"""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from array_record.python.array_record_data_source import ArrayRecordDataSource
from array_record.python.array_record_module import ArrayRecordWriter
from etils import epath
from jaxtyping import UInt16

from femur_jax.data.cohort import SPLITS, deal_folds, fold_splits
from femur_jax.data.manifest import MANIFEST, NAME, PATCHES, Manifest, read_manifest
from femur_jax.data.pyramid import level_sizes
from femur_jax.data.radiograph import LABELS
from femur_jax.data.records import (
    FEATURES,
    MARGINS,
    Encoded,
    RadiographEntry,
    margin_boxes,
    record_counts,
    tile_of,
)
from femur_jax.errors import UserError
from femur_jax.files import new_folder, require_absent, verify_checksums

_SHARD_BYTES = 1 << 30


class DatasetWriter:
    """Writes a dataset, whose folder takes its name only when it is complete.

    with DatasetWriter(folder, patch=256, provenance={...}) as writer:
        writer.add(encode(radiograph, 256), "train")

    Radiographs are added split by split, in the order of SPLITS. After an exception nothing is
    left behind.
    """

    def __init__(self, folder: Path, *, patch: int, provenance: dict[str, Any]):
        """Prepares a dataset; the manifest keeps `provenance` unchanged.

        Raises:
            UserError: The folder exists, or the patch is odd or out of range.
        """
        require_absent(folder)
        if patch not in PATCHES:
            raise UserError(
                f"The patch is {patch}; give an even number from {PATCHES[0]} to {PATCHES[-1]}."
            )
        self._folder = folder
        self._patch = patch
        self._provenance = provenance
        self._entries: list[RadiographEntry] = []
        self._shards: dict[tuple[str, str], list[_Shard]] = {}

    def __enter__(self) -> "DatasetWriter":
        self._context = self._writing()
        self._partial = self._context.__enter__()
        return self

    def __exit__(self, *exception: Any) -> bool | None:
        return self._context.__exit__(*exception)

    @contextmanager
    def _writing(self) -> Iterator[Path]:
        with new_folder(self._folder, checksums=True) as partial:
            try:
                yield partial
            finally:
                for shards in self._shards.values():
                    for shard in shards:
                        shard.writer.close()
            records = {}
            for section in sorted({section for section, _ in self._shards}):
                records |= self._finish(section)
            manifest = Manifest(self._patch, self._provenance, records, self._entries)
            self.write_text(MANIFEST, manifest.to_json())

    def add(self, encoded: Encoded, split: str, hospital_split: str = "", group: str = "") -> None:
        """Appends one radiograph; the last three arguments are as in `RadiographEntry`."""
        if self._entries and SPLITS.index(split) < SPLITS.index(self._entries[-1].split):
            raise ValueError(f"{split} comes after {self._entries[-1].split}")
        levels = [(f"level_{level}", records) for level, records in enumerate(encoded.levels)]
        for section, records in [*levels, (MARGINS, encoded.margins)]:
            for record in records:
                self._shard(section, split).write(record)
        self._entries.append(
            dataclasses.replace(
                encoded.entry, split=split, hospital_split=hospital_split, group=group
            )
        )

    def write_text(self, name: str, text: str) -> None:
        """Writes a text file next to the manifest."""
        (self._partial / name).write_text(text)

    def _shard(self, section: str, split: str) -> "_Shard":
        shards = self._shards.setdefault((section, split), [])
        if not shards or shards[-1].bytes > _SHARD_BYTES:
            path = self._partial / section / f"{NAME}-{split}-{len(shards)}"
            path.parent.mkdir(exist_ok=True)
            shards.append(_Shard(path))
        return shards[-1]

    def _finish(self, section: str) -> dict[str, int]:
        """Gives the shards their final names and writes TFDS's metadata; returns record counts."""
        folder = self._partial / section
        records, splits = {}, []
        for split in SPLITS:
            shards = self._shards.get((section, split), [])
            for number, shard in enumerate(shards):
                name = f"{NAME}-{split}.array_record-{number:05d}-of-{len(shards):05d}"
                records[f"{section}/{name}"] = shard.records
                shard.path.rename(folder / name)
            if shards:
                template = tfds.core.ShardedFileTemplate(
                    data_dir=epath.Path(folder),
                    dataset_name=NAME,
                    split=split,
                    filetype_suffix="array_record",
                    template="{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
                )
                splits.append(
                    tfds.core.SplitInfo(
                        name=split,
                        shard_lengths=[shard.records for shard in shards],
                        num_bytes=sum(shard.bytes for shard in shards),
                        filename_template=template,
                    )
                )
        tfds.folder_dataset.write_metadata(
            data_dir=folder,
            features=FEATURES,
            split_infos=splits,
            check_data=False,
            description=f"Tiles of femur radiographs, {section}; femur_jax decodes them.",
        )
        return records


class _Shard:
    """One ArrayRecord file that is being written."""

    def __init__(self, path: Path):
        self.path = path
        self.records = 0
        self.bytes = 0
        # Tiles are compressed already; a second compression costs reading time.
        self.writer = ArrayRecordWriter(str(path), "group_size:1,uncompressed")

    def write(self, record: bytes) -> None:
        self.writer.write(record)
        self.records += 1
        self.bytes += len(record)


class RadiographDataset:
    """Reads a dataset: whole levels, or any window of a level.

    Attributes:
        folder: Folder of the dataset.
        patch: Side of a tile, and of the square that level 0 fits into.
        entries: The manifest's entries. Other functions name a radiograph by its position here.
        provenance: The writer's account of the dataset's origin.
    """

    def __init__(self, folder: str | Path):
        """Opens a dataset and checks its manifest and its files; see `verify_checksums`.

        Raises:
            UserError: There is no dataset, or one of its files is missing or changed.
        """
        self.folder = Path(folder)
        manifest = read_manifest(self.folder)
        verify_checksums(self.folder, [MANIFEST, *manifest.records])
        self.patch = manifest.patch
        self.provenance = manifest.provenance
        self.entries = manifest.radiographs
        self._lengths = manifest.records
        self._sources: dict[tuple[str, str], ArrayRecordDataSource] = {}

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_sources": {}}  # open files do not travel to worker processes

    def split(self, name: str, by: str = "patient") -> list[int]:
        """Positions of the radiographs of a split.

        Args:
            name: One of SPLITS.
            by: 'patient', 'hospital' for the split that keeps whole hospitals apart, or 'k/n' for
                n folds of patients, where the k-th fold is tested and the next one validates.
                A synthetic dataset has a single split, whatever `by` is.

        Raises:
            UserError: There are too few hospitals or patients for such a split.
        """
        if by == "patient" or self.is_synthetic:
            return [n for n, entry in enumerate(self.entries) if entry.split == name]
        if by == "hospital":
            if not any(entry.hospital_split for entry in self.entries):
                raise UserError(
                    f"{self.folder} has no {name} split by hospital, which needs three or more "
                    "hospitals with both classes; split by patient instead."
                )
            return [n for n, entry in enumerate(self.entries) if entry.hospital_split == name]
        splits = fold_splits(by)
        labels: dict[str, str] = {}
        # By content, since the order of the names would change with their key.
        for entry in sorted(self.entries, key=lambda e: e.sha256):
            person = entry.group or entry.patient
            labels[person] = max(labels.get(person, LABELS[0]), entry.label, key=LABELS.index)
        fold = deal_folds(labels, len(splits))
        return [n for n, e in enumerate(self.entries) if splits[fold[e.group or e.patient]] == name]

    @property
    def is_synthetic(self) -> bool:
        """Whether a model generated the radiographs."""
        return self.provenance.get("kind") == "synthetic"

    def level_sizes(self, radiograph: int) -> list[tuple[int, int]]:
        """Height and width of each level of a radiograph, coarsest first."""
        entry = self.entries[radiograph]
        return level_sizes(entry.height, entry.width, self.patch)

    @property
    def levels(self) -> int:
        """Number of levels of the largest radiograph."""
        return max(len(self.level_sizes(n)) for n in range(len(self.entries)))

    def read(self, radiograph: int, level: int = -1) -> UInt16[np.ndarray, "height width"]:
        """A whole radiograph at a level, by default the finest."""
        sizes = self.level_sizes(radiograph)
        level = range(len(sizes))[level]
        return self.window(radiograph, level, (0, 0), sizes[level])

    def read_recorded(self, radiograph: int) -> UInt16[np.ndarray, "height width"]:
        """All recorded pixels of a radiograph, also those outside the crop."""
        entry = self.entries[radiograph]
        pixels = np.empty(entry.recorded, np.uint16)
        pixels[entry.crop.slices] = self.read(radiograph)
        first = self._first_record[MARGINS][radiograph]
        for n, box in enumerate(margin_boxes(entry.recorded, entry.crop)):
            size = box.height, box.width
            pixels[box.slices] = self._tile(MARGINS, radiograph, first + n, size)
        return pixels

    def window(
        self, radiograph: int, level: int, origin: tuple[int, int], size: tuple[int, int]
    ) -> UInt16[np.ndarray, "height width"]:
        """Reads a window of a level; outside the border it repeats the nearest pixel.

        Args:
            radiograph: Position in `entries`.
            level: Number of the level, 0 for the coarsest.
            origin: Row and column of the window's first pixel, which may be negative.
            size: Height and width of the window.
        """
        bounds = self.level_sizes(radiograph)[level]
        # The first existing pixel and the end of the existing ones, along each axis.
        starts = [min(max(o, 0), bound - 1) for o, bound in zip(origin, bounds, strict=True)]
        ends = [
            min(max(o + length, 1), bound)
            for o, length, bound in zip(origin, size, bounds, strict=True)
        ]
        inside = np.empty([end - start for start, end in zip(starts, ends, strict=True)], np.uint16)
        section, across = f"level_{level}", math.ceil(bounds[1] / self.patch)
        first = self._first_record[section][radiograph]
        for y in range(starts[0] // self.patch, (ends[0] - 1) // self.patch + 1):
            for x in range(starts[1] // self.patch, (ends[1] - 1) // self.patch + 1):
                corner = y * self.patch, x * self.patch
                place = [
                    min(self.patch, bound - start)
                    for start, bound in zip(corner, bounds, strict=True)
                ]
                tile = self._tile(section, radiograph, first + y * across + x, place)
                top, left = (c - start for c, start in zip(corner, starts, strict=True))
                source = tile[max(-top, 0) :, max(-left, 0) :]
                target = inside[max(top, 0) :, max(left, 0) :]
                height, width = np.minimum(source.shape, target.shape)
                target[:height, :width] = source[:height, :width]
        before = [
            min(max(start - o, 0), length - have)
            for o, length, start, have in zip(origin, size, starts, inside.shape, strict=True)
        ]
        beyond = [
            (b, length - have - b)
            for b, length, have in zip(before, size, inside.shape, strict=True)
        ]
        return np.pad(inside, beyond, mode="edge") if np.any(beyond) else inside

    def _tile(
        self, section: str, radiograph: int, record: int, size: Sequence[int]
    ) -> UInt16[np.ndarray, "height width"]:
        """The tile of a record, which must fill its place of a size."""
        split = self.entries[radiograph].split
        try:
            tile = tile_of(self._source(section, split)[record])
            if tile.shape != tuple(size):
                raise ValueError(f"a tile of {tile.shape} pixels where {size} are")
            return tile
        except Exception as error:  # protobuf and ArrayRecord raise exceptions of many types
            raise UserError(
                f"The {split} split in {self.folder / section} cannot be read or is "
                "damaged; restore the folder, or create the dataset again."
            ) from error

    def _source(self, section: str, split: str) -> ArrayRecordDataSource:
        """The records of a split in one section of the dataset: a level or the margins."""
        key = section, split
        if key not in self._sources:
            prefix = f"{section}/{NAME}-{split}."
            shards = sorted(name for name in self._lengths if name.startswith(prefix))
            source = ArrayRecordDataSource([str(self.folder / shard) for shard in shards])
            if len(source) != sum(self._lengths[shard] for shard in shards):
                raise ValueError("a shard has lost records")  # a cut-off shard opens as empty
            self._sources[key] = source
        return self._sources[key]

    @cached_property
    def _first_record(self) -> dict[str, dict[int, int]]:
        """For each section, the number of each radiograph's first record in its split."""
        first: dict[str, dict[int, int]] = {}
        count: dict[tuple[str, str], int] = {}
        for radiograph, entry in enumerate(self.entries):
            records = record_counts(entry, self.patch)
            for section, number in records.items():
                key = section, entry.split
                first.setdefault(section, {})[radiograph] = count.get(key, 0)
                count[key] = count.get(key, 0) + number
        return first
