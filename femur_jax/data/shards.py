"""The radiograph dataset: a folder of ArrayRecord shards at several resolutions.

    DATASET/
      dataset.json                      manifest: what is inside, and how many bytes and records
      level_0/                          a TFDS dataset of the coarsest resolution
        dataset_info.json, features.json
        radiographs-train.array_record-00000-of-00001
      level_1/ ...

A level's radiographs are cut into tiles of at most patch x patch pixels that do not overlap,
row by row, one record each, so that any patch x patch window touches at most four records.
Level l holds the radiographs that have one, in the order of the manifest.
"""

import dataclasses
import json
import math
import shutil
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter
from etils import epath
from jaxtyping import UInt16

from femur_jax.data import codec
from femur_jax.data.cohort import SPLITS
from femur_jax.data.pyramid import level_sizes, pyramid
from femur_jax.data.radiograph import (
    LABELS,
    LATERALITIES,
    SPACING_SOURCES,
    VIEWS,
    Radiograph,
)
from femur_jax.errors import UserError

SCHEMA = 1
_MANIFEST = "dataset.json"
_NAME = "radiographs"
_SHARD_BYTES = 1 << 30

FEATURES = tfds.features.FeaturesDict(
    {
        "tile": tfds.features.Tensor(shape=(), dtype=np.object_),  # codec.encode's bytes
        "row": np.int32,  # of the tile's first pixel within the level
        "column": np.int32,
        "height": np.int32,  # of the radiograph at this level
        "width": np.int32,
        "radiograph": np.int32,  # position in the manifest
        "patient": tfds.features.Text(),
        "hospital": tfds.features.Text(),
        "label": tfds.features.ClassLabel(names=LABELS),
        "view": tfds.features.ClassLabel(names=VIEWS),
        "laterality": tfds.features.ClassLabel(names=LATERALITIES),
        "spacing_mm": np.float32,  # of a native pixel, 0 where unknown
        "spacing_source": tfds.features.ClassLabel(names=SPACING_SOURCES),
    }
)


@dataclass(frozen=True)
class Entry:
    """What the manifest says of one radiograph; the fields are those of `Radiograph`."""

    split: str
    height: int
    width: int
    label: str
    patient: str
    hospital: str
    spacing_mm: float
    spacing_source: str
    view: str
    laterality: str


@dataclass(frozen=True)
class Encoded:
    """A radiograph cut into coded tiles, ready to be written."""

    entry: Entry
    levels: list[list[bytes]]


def encode(radiograph: Radiograph, split: str, patch: int) -> Encoded:
    """Builds the pyramid of a radiograph and codes its tiles (the slow part of writing)."""
    height, width = radiograph.pixels.shape
    fields = {f.name: getattr(radiograph, f.name) for f in dataclasses.fields(radiograph)}
    del fields["pixels"]
    levels = [
        [codec.encode(level[y : y + patch, x : x + patch]) for y, x in tile_origins(level, patch)]
        for level in pyramid(radiograph.pixels, patch)
    ]
    return Encoded(Entry(split=split, height=height, width=width, **fields), levels)


def tile_origins(level: np.ndarray, patch: int) -> list[tuple[int, int]]:
    """First row and column of each tile, in the order of the records."""
    height, width = level.shape
    return [(y, x) for y in range(0, height, patch) for x in range(0, width, patch)]


class DatasetWriter:
    """Writes a dataset, which appears under its name only when it is complete.

    with DatasetWriter(folder, patch=256, provenance={...}) as writer:
        writer.add(encode(radiograph, "train", 256))

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
        self._entries: list[Entry] = []
        self._shards: dict[tuple[int, str], list[_Shard]] = {}

    def __enter__(self) -> "DatasetWriter":
        shutil.rmtree(self._partial, ignore_errors=True)  # left by a run that was killed
        self._partial.mkdir(parents=True)
        return self

    def add(self, encoded: Encoded) -> None:
        """Appends one radiograph."""
        entry = encoded.entry
        if self._entries and SPLITS.index(entry.split) < SPLITS.index(self._entries[-1].split):
            raise ValueError(f"{entry.split} comes after {self._entries[-1].split}")
        common = {
            "radiograph": len(self._entries),
            "patient": entry.patient,
            "hospital": entry.hospital,
            "label": entry.label,
            "view": entry.view,
            "laterality": entry.laterality,
            "spacing_mm": entry.spacing_mm,
            "spacing_source": entry.spacing_source,
        }
        sizes = level_sizes(entry.height, entry.width, self._patch)
        for level, ((height, width), tiles) in enumerate(zip(sizes, encoded.levels, strict=True)):
            shard = self._shard(level, entry.split)
            across = math.ceil(width / self._patch)
            for number, tile in enumerate(tiles):
                row, column = divmod(number, across)
                record = {
                    "tile": tile,
                    "row": row * self._patch,
                    "column": column * self._patch,
                    "height": height,
                    "width": width,
                }
                shard.write(FEATURES.serialize_example(FEATURES.encode_example(record | common)))
        self._entries.append(entry)

    def write_text(self, name: str, text: str) -> None:
        """Puts a text file beside the manifest."""
        (self._partial / name).write_text(text)

    def _shard(self, level: int, split: str) -> "_Shard":
        shards = self._shards.setdefault((level, split), [])
        if not shards or shards[-1].bytes > _SHARD_BYTES:
            path = self._partial / f"level_{level}" / f"{_NAME}-{split}-{len(shards)}"
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
        files = {}
        for level in range(1 + max((level for level, _ in self._shards), default=-1)):
            files |= self._finish_level(level)
        manifest = {
            "schema": SCHEMA,
            "patch": self._patch,
            "provenance": self._provenance,
            "files": files,
            "radiographs": [dataclasses.asdict(entry) for entry in self._entries],
        }
        (self._partial / _MANIFEST).write_text(json.dumps(manifest, indent=1))
        self._partial.replace(self._folder)

    def _finish_level(self, level: int) -> dict[str, dict[str, int]]:
        """Gives the shards their final names and writes what TFDS needs to read them."""
        folder = self._partial / f"level_{level}"
        files, splits = {}, []
        for split in SPLITS:
            shards = self._shards.get((level, split), [])
            for number, shard in enumerate(shards):
                name = f"{_NAME}-{split}.array_record-{number:05d}-of-{len(shards):05d}"
                size = shard.path.stat().st_size
                files[f"{folder.name}/{name}"] = {"records": shard.records, "bytes": size}
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
            description=f"Femur radiographs, level {level}; tiles as femur_jax.data.codec.",
        )
        return files


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
        """Opens a dataset and checks that its files are whole.

        Raises:
            UserError: There is no dataset, or a file of it is missing or cut short.
        """
        self.folder = Path(folder)
        manifest_file = self.folder / _MANIFEST
        if not manifest_file.is_file():
            raise UserError(
                f"{self.folder} holds no radiograph dataset ({_MANIFEST} is missing); "
                "make one with tools/preprocess.py."
            )
        try:
            manifest = json.loads(manifest_file.read_text())
            if manifest["schema"] != SCHEMA:
                raise UserError(
                    f"{self.folder} has schema {manifest['schema']}, and this version reads "
                    f"{SCHEMA}; make the dataset again."
                )
            sizes = {name: expected["bytes"] for name, expected in manifest["files"].items()}
            self.patch: int = manifest["patch"]
            self.provenance: dict[str, Any] = manifest["provenance"]
            self.entries = [Entry(**entry) for entry in manifest["radiographs"]]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{manifest_file} is damaged; restore it, or make the dataset again."
            ) from error
        for name, size in sizes.items():
            # A shard that was cut short would open as empty, without an error.
            path = self.folder / name
            if not path.is_file() or path.stat().st_size != size:
                raise UserError(
                    f"{path} is missing or damaged; restore it, or make the dataset again."
                )
        self._sources: dict[int, Any] = {}

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_sources": {}}  # open files do not travel to worker processes

    def split(self, name: str) -> list[int]:
        """The radiographs of a split, by position."""
        return [n for n, entry in enumerate(self.entries) if entry.split == name]

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
        rows, columns = (
            np.clip(np.arange(start, start + length), 0, bound - 1)
            for start, length, bound in zip(origin, size, bounds, strict=True)
        )
        top, left = int(rows[0]) // self.patch, int(columns[0]) // self.patch
        bottom, right = int(rows[-1]) // self.patch, int(columns[-1]) // self.patch
        tiles = [
            [self._tile(radiograph, level, y, x) for x in range(left, right + 1)]
            for y in range(top, bottom + 1)
        ]
        joined = np.block(tiles)
        return joined[np.ix_(rows - top * self.patch, columns - left * self.patch)]

    def _tile(
        self, radiograph: int, level: int, row: int, column: int
    ) -> UInt16[np.ndarray, "height width"]:
        split, first = self._first_record[level][radiograph]
        across = math.ceil(self.level_sizes(radiograph)[level][1] / self.patch)
        try:
            records = self._records(level)[split]
            return codec.decode(records[first + row * across + column]["tile"])
        except Exception as error:  # TFDS, protobuf and ArrayRecord raise what they like
            raise UserError(
                f"The {split} split in {self.folder / f'level_{level}'} cannot be read or is "
                "damaged; restore the folder, or make the dataset again."
            ) from error

    def _records(self, level: int) -> Any:
        """The sequences of records of a level's splits, as TFDS reads them."""
        if level not in self._sources:
            builder = tfds.builder_from_directory(self.folder / f"level_{level}")
            self._sources[level] = builder.as_data_source()
        return self._sources[level]

    @cached_property
    def _first_record(self) -> list[dict[int, tuple[str, int]]]:
        """For each level: radiograph -> its split and the number of its first record there."""
        first: list[dict[int, tuple[str, int]]] = [{} for _ in range(self.levels)]
        count: dict[tuple[int, str], int] = {}
        for radiograph, entry in enumerate(self.entries):
            for level, size in enumerate(self.level_sizes(radiograph)):
                key = level, entry.split
                first[level][radiograph] = entry.split, count.get(key, 0)
                tiles = math.prod(math.ceil(side / self.patch) for side in size)
                count[key] = count.get(key, 0) + tiles
        return first
