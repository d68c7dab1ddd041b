"""The radiograph dataset: a folder of ArrayRecord shards at several resolutions.

    DATASET/
      dataset.json                      manifest: the radiographs, and the records of each file
      SHA256SUMS                        checksums of all files
      level_0/                          a TFDS dataset of the coarsest resolution
        dataset_info.json, features.json
        radiographs-train.array_record-00000-of-00001
      level_1/ ...
      margins/                          what lies outside of the radiographs' crops

A level's radiographs are cut into tiles of at most patch x patch pixels that do not overlap,
row by row, one record each, so that any patch x patch window touches at most four records.
Level l holds the radiographs that have one, in the order of the manifest.
"""

import dataclasses
import json
import math
import shutil
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from array_record.python.array_record_data_source import ArrayRecordDataSource
from array_record.python.array_record_module import ArrayRecordWriter
from etils import epath
from jaxtyping import UInt16

from femur_jax.data.cohort import SPLITS, deal_folds, fold_splits
from femur_jax.data.pyramid import level_sizes
from femur_jax.data.radiograph import LABELS
from femur_jax.data.records import FEATURES, Encoded, RadiographEntry, margin_boxes, tile_of
from femur_jax.errors import UserError
from femur_jax.files import verify_checksums, write_checksums

SCHEMA = 2
_MANIFEST = "dataset.json"
_NAME = "radiographs"
_SHARD_BYTES = 1 << 30
_MARGINS = "margins"


class DatasetWriter:
    """Writes a dataset, which appears under its name only when it is complete.

    with DatasetWriter(folder, patch=256, provenance={...}) as writer:
        writer.add(encode(radiograph, 256), "train")

    Radiographs must come split by split, in the order of SPLITS. After an exception nothing
    is left behind.
    """

    def __init__(self, folder: Path, *, patch: int, provenance: dict[str, Any]):
        """Begins a dataset; `provenance` is kept in the manifest as it is.

        Raises:
            UserError: The folder exists, or the patch cannot be used.
        """
        if folder.exists():
            raise UserError(f"{folder} exists; remove it or name another folder.")
        if patch % 2 or not 2 <= patch <= 65534:
            raise UserError(f"The patch is {patch}; give an even number from 2 to 65534.")
        self._folder = folder
        self._partial = folder.with_name(folder.name + ".partial")
        self._patch = patch
        self._provenance = provenance
        self._entries: list[RadiographEntry] = []
        self._shards: dict[tuple[str, str], list[_Shard]] = {}

    def __enter__(self) -> "DatasetWriter":
        shutil.rmtree(self._partial, ignore_errors=True)  # left by a run that was killed
        self._partial.mkdir(parents=True)
        return self

    def add(self, encoded: Encoded, split: str, hospital_split: str = "", group: str = "") -> None:
        """Appends one radiograph; the last three are as in `RadiographEntry`."""
        if self._entries and SPLITS.index(split) < SPLITS.index(self._entries[-1].split):
            raise ValueError(f"{split} comes after {self._entries[-1].split}")
        parts = [(f"level_{level}", records) for level, records in enumerate(encoded.levels)]
        for part, records in [*parts, (_MARGINS, encoded.margins)]:
            for record in records:
                self._shard(part, split).write(record)
        self._entries.append(
            dataclasses.replace(
                encoded.entry, split=split, hospital_split=hospital_split, group=group
            )
        )

    def write_text(self, name: str, text: str) -> None:
        """Puts a text file beside the manifest."""
        (self._partial / name).write_text(text)

    def _shard(self, part: str, split: str) -> "_Shard":
        shards = self._shards.setdefault((part, split), [])
        if not shards or shards[-1].bytes > _SHARD_BYTES:
            path = self._partial / part / f"{_NAME}-{split}-{len(shards)}"
            path.parent.mkdir(exist_ok=True)
            shards.append(_Shard(path))
        return shards[-1]

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for shards in self._shards.values():
            for shard in shards:
                shard.writer.close()
        if kind is not None:
            shutil.rmtree(self._partial)
            return
        records = {}
        for part in sorted({part for part, _ in self._shards}):
            records |= self._finish(part)
        manifest = {
            "schema": SCHEMA,
            "patch": self._patch,
            "provenance": self._provenance,
            "records": records,
            "radiographs": [dataclasses.asdict(entry) for entry in self._entries],
        }
        self.write_text(_MANIFEST, json.dumps(manifest, indent=1))
        write_checksums(self._partial)
        self._partial.replace(self._folder)

    def _finish(self, part: str) -> dict[str, int]:
        """Gives the shards their final names and writes what TFDS needs to read them."""
        folder = self._partial / part
        records, splits = {}, []
        for split in SPLITS:
            shards = self._shards.get((part, split), [])
            for number, shard in enumerate(shards):
                name = f"{_NAME}-{split}.array_record-{number:05d}-of-{len(shards):05d}"
                records[f"{part}/{name}"] = shard.records
                shard.path.rename(folder / name)
            if shards:
                template = tfds.core.ShardedFileTemplate(
                    data_dir=epath.Path(folder),
                    dataset_name=_NAME,
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
            description=f"Femur radiographs, {part}; tiles as femur_jax.data.codec.",
        )
        return records


class _Shard:
    """One file that grows."""

    def __init__(self, path: Path):
        self.path = path
        self.records = 0
        self.bytes = 0
        # Records are compressed already; a second compression costs reading time.
        self.writer = ArrayRecordWriter(str(path), "group_size:1,uncompressed")

    def write(self, record: bytes) -> None:
        self.writer.write(record)
        self.records += 1
        self.bytes += len(record)


class RadiographDataset:
    """Reads a dataset: whole levels, or any window of one.

    Attributes:
        folder: Where it lies.
        patch: Side of a tile, and of the square that level 0 fits into.
        entries: Its radiographs; a radiograph is named by its position here.
        provenance: Where it comes from, as its writer said.
    """

    def __init__(self, folder: str | Path):
        """Opens a dataset and checks that its files are whole; see `checksums`.

        Raises:
            UserError: There is no dataset, or a file of it is missing or was changed.
        """
        self.folder = Path(folder)
        manifest_file = self.folder / _MANIFEST
        if not manifest_file.is_file():
            raise UserError(
                f"{self.folder} holds no radiograph dataset ({_MANIFEST} is missing); "
                "make one with femur ingest."
            )
        try:
            manifest = json.loads(manifest_file.read_text())
            schema = manifest["schema"]
            if schema == SCHEMA:
                verify_checksums(self.folder, [_MANIFEST, *manifest["records"]])
                self.patch: int = manifest["patch"]
                self.provenance: dict[str, Any] = manifest["provenance"]
                self.entries = [
                    RadiographEntry.from_json(fields) for fields in manifest["radiographs"]
                ]
                self._lengths: dict[str, int] = manifest["records"]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{manifest_file} is damaged; restore it, or make the dataset again."
            ) from error
        if schema != SCHEMA:
            raise UserError(
                f"{self.folder} has schema {schema}, and this version reads {SCHEMA}; "
                "make the dataset again."
            )
        self._sources: dict[tuple[str, str], ArrayRecordDataSource] = {}

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_sources": {}}  # open files do not travel to worker processes

    def split(self, name: str, by: str = "patient") -> list[int]:
        """The radiographs of a split, by position.

        Args:
            name: One of SPLITS.
            by: 'patient'; 'hospital' for the split that keeps whole hospitals apart; or a fold of
                patients, 'k/n': the k-th of n parts is tested, the next one is for validation.
                A synthetic dataset has but one split, whatever `by` is.

        Raises:
            UserError: The hospitals or the patients were too few to be split so.
        """
        if by == "patient" or self.is_synthetic:
            return [n for n, entry in enumerate(self.entries) if entry.split == name]
        if by == "hospital":
            if not any(entry.hospital_split for entry in self.entries):
                raise UserError(
                    f"{self.folder} has no {name} split by hospital, which takes three hospitals "
                    "or more with both classes; split by patient."
                )
            return [n for n, entry in enumerate(self.entries) if entry.hospital_split == name]
        splits = fold_splits(by)
        labels: dict[str, str] = {}
        for entry in self.entries:
            person = entry.group or entry.patient
            labels[person] = max(labels.get(person, LABELS[0]), entry.label, key=LABELS.index)
        fold = deal_folds(labels, len(splits))
        return [n for n, e in enumerate(self.entries) if splits[fold[e.group or e.patient]] == name]

    @property
    def is_synthetic(self) -> bool:
        """Whether a model made the radiographs."""
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
        """A whole radiograph at a level, by default as it was recorded."""
        sizes = self.level_sizes(radiograph)
        level = range(len(sizes))[level]
        return self.window(radiograph, level, (0, 0), sizes[level])

    def read_recorded(self, radiograph: int) -> UInt16[np.ndarray, "height width"]:
        """All that was recorded, also outside the crop."""
        entry = self.entries[radiograph]
        pixels = np.empty(entry.recorded, np.uint16)
        boxes = margin_boxes(entry.recorded, entry.crop)
        parts = [
            self._tile(_MARGINS, radiograph, self._first_record[_MARGINS][radiograph] + n)
            for n in range(len(boxes))
        ]
        for box, part in zip([*boxes, entry.crop], [*parts, self.read(radiograph)], strict=True):
            pixels[box.top : box.top + box.height, box.left : box.left + box.width] = part
        return pixels

    def window(
        self, radiograph: int, level: int, origin: tuple[int, int], size: tuple[int, int]
    ) -> UInt16[np.ndarray, "height width"]:
        """Cuts a window out of a level; beyond the border it repeats the nearest pixel.

        Args:
            radiograph: Position in `entries`.
            level: 0 is the coarsest.
            origin: Row and column of the window's first pixel, may be negative.
            size: Height and width of the window.
        """
        bounds = self.level_sizes(radiograph)[level]
        # First and last pixel that exist, along each axis.
        starts = [min(max(o, 0), bound - 1) for o, bound in zip(origin, bounds, strict=True)]
        ends = [
            min(max(o + length, 1), bound)
            for o, length, bound in zip(origin, size, bounds, strict=True)
        ]
        inside = np.empty([end - start for start, end in zip(starts, ends, strict=True)], np.uint16)
        part, across = f"level_{level}", math.ceil(bounds[1] / self.patch)
        first = self._first_record[part][radiograph]
        for y in range(starts[0] // self.patch, (ends[0] - 1) // self.patch + 1):
            for x in range(starts[1] // self.patch, (ends[1] - 1) // self.patch + 1):
                tile = self._tile(part, radiograph, first + y * across + x)
                top, left = y * self.patch - starts[0], x * self.patch - starts[1]
                piece = tile[max(-top, 0) :, max(-left, 0) :]
                place = inside[max(top, 0) :, max(left, 0) :]
                height, width = np.minimum(piece.shape, place.shape)
                place[:height, :width] = piece[:height, :width]
        before = [
            min(max(start - o, 0), length - have)
            for o, length, start, have in zip(origin, size, starts, inside.shape, strict=True)
        ]
        beyond = [
            (b, length - have - b)
            for b, length, have in zip(before, size, inside.shape, strict=True)
        ]
        return np.pad(inside, beyond, mode="edge") if np.any(beyond) else inside

    def _tile(self, part: str, radiograph: int, record: int) -> UInt16[np.ndarray, "height width"]:
        split = self.entries[radiograph].split
        try:
            return tile_of(self._source(part, split)[record])
        except Exception as error:  # protobuf and ArrayRecord raise what they like
            raise UserError(
                f"The {split} split in {self.folder / part} cannot be read or is "
                "damaged; restore the folder, or make the dataset again."
            ) from error

    def _source(self, part: str, split: str) -> ArrayRecordDataSource:
        """The sequence of records of a part's split."""
        key = part, split
        if key not in self._sources:
            prefix = f"{part}/{_NAME}-{split}."
            shards = sorted(name for name in self._lengths if name.startswith(prefix))
            source = ArrayRecordDataSource([str(self.folder / shard) for shard in shards])
            if len(source) != sum(self._lengths[shard] for shard in shards):
                raise ValueError("a shard has lost records")  # it would open as empty
            self._sources[key] = source
        return self._sources[key]

    @cached_property
    def _first_record(self) -> dict[str, dict[int, int]]:
        """For each part: radiograph -> the number of its first record in its split."""
        first: dict[str, dict[int, int]] = {}
        count: dict[tuple[str, str], int] = {}
        for radiograph, entry in enumerate(self.entries):
            records = {
                f"level_{level}": math.prod(math.ceil(side / self.patch) for side in size)
                for level, size in enumerate(self.level_sizes(radiograph))
            } | {_MARGINS: len(margin_boxes(entry.recorded, entry.crop))}
            for part, number in records.items():
                key = part, entry.split
                first.setdefault(part, {})[radiograph] = count.get(key, 0)
                count[key] = count.get(key, 0) + number
        return first
