"""The stored form of a radiograph: its entry in the manifest and the records of its tiles."""

import dataclasses
import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import Float32, UInt16
from tensorflow_datasets.proto import tf_example_pb2

from femur_jax.data import codec
from femur_jax.data.cohort import SPLITS
from femur_jax.data.pyramid import level_sizes, pyramid
from femur_jax.data.radiograph import (
    INTENTS,
    LABELS,
    LATERALITIES,
    SEXES,
    SPACING_SOURCES,
    VIEWS,
    Box,
    Radiograph,
    Source,
)

MARGINS = "margins"
"""Section of a dataset with the pixels outside the crops."""

_Example: Any = vars(tf_example_pb2)["Example"]  # defined on import, unseen by type checkers


class Tile(tfds.features.FeatureConnector):
    """The pixels of a tile, stored as the bytes of `codec.encode`.

    TFDS imports the class by the name that features.json states, so neither the module nor the
    class may be renamed. TFDS reads ArrayRecord files in NumPy only, so TensorFlow has no decoder.
    """

    def get_tensor_info(self) -> tfds.features.TensorInfo:
        return tfds.features.TensorInfo(shape=(None, None), dtype=np.uint16)

    def get_serialized_info(self) -> tfds.features.TensorInfo:
        return tfds.features.TensorInfo(shape=(), dtype=np.object_)

    def encode_example(self, example_data: UInt16[np.ndarray, "height width"]) -> bytes:
        return codec.encode(example_data)

    def decode_example_np(self, example_data: bytes) -> UInt16[np.ndarray, "height width"]:
        return codec.decode(example_data)


FEATURES = tfds.features.FeaturesDict(
    {
        "tile": Tile(),
        "row": np.int32,  # position of the tile's first pixel within the level
        "column": np.int32,
        "height": np.int32,  # size of the radiograph at this level
        "width": np.int32,
        "radiograph": tfds.features.Text(),  # name of the radiograph
        "patient": tfds.features.Text(),
        "hospital": tfds.features.Text(),
        "label": tfds.features.ClassLabel(names=LABELS),
        "view": tfds.features.ClassLabel(names=VIEWS),
        "laterality": tfds.features.ClassLabel(names=LATERALITIES),
        "spacing_mm": np.float32,  # side of a pixel at the finest level, 0 where unknown
        "spacing_source": tfds.features.ClassLabel(names=SPACING_SOURCES),
    }
)


@dataclass(frozen=True)
class RadiographEntry:
    """The manifest's entry of one radiograph.

    The fields name, label, patient, hospital, spacing_mm, spacing_source, view, laterality, source
    and columns are those of `Radiograph`.

    Attributes:
        height, width: Size of the crop in pixels, which is the radiograph that models see.
        crop: Position of the crop within the recorded image.
        recorded: Height and width of the recorded image.
        sha256: Checksum of the recorded grey values; see `pixel_hash`.
        split: One of `cohort.SPLITS`, by patient.
        hospital_split: One of `cohort.SPLITS` where whole hospitals are held out, "" for a patient
            whose radiographs would fall into two of them.
        group: Pseudonym that patients with a common picture share, "" for a patient without one.
    """

    name: str
    height: int
    width: int
    label: str
    patient: str
    hospital: str
    spacing_mm: float
    spacing_source: str
    view: str
    laterality: str
    crop: Box
    recorded: tuple[int, int]
    source: Source
    sha256: str
    split: str = ""
    hospital_split: str = ""
    group: str = ""
    columns: dict[str, float | None] = field(default_factory=dict)

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> "RadiographEntry":
        """Restores an entry from the JSON of `dataclasses.asdict`.

        Raises:
            TypeError, KeyError, ValueError, OverflowError: The fields are not those of an entry, or
                a value has a wrong type or is out of range.
        """
        source = fields["source"]
        entry = cls(
            **fields
            | {
                "crop": Box(*fields["crop"]),
                "recorded": tuple(fields["recorded"]),
                "source": Source(**source | {"limits": tuple(source.get("limits", ()))}),
            }
        )
        if not _is_possible(entry):
            raise ValueError("a value of an entry has a wrong type or is out of range")
        return entry

    def column_values(self, names: Sequence[str]) -> Float32[np.ndarray, " columns"]:
        """Values of further columns in the order of their names, NaN where unknown."""
        return np.array([self.columns[name] for name in names], np.float32)  # None becomes NaN


def _is_possible(entry: RadiographEntry) -> bool:
    """Whether all values have their types and ranges."""
    crop, recorded, source, columns = entry.crop, entry.recorded, entry.source, entry.columns
    if len(recorded) != 2 or not isinstance(columns, dict):
        return False
    texts = (entry.name, entry.patient, entry.hospital, entry.group, entry.sha256, *columns)
    texts += (source.syntax, source.photometric, source.voi, source.vendor)
    sides = (*recorded, crop.height, crop.width)
    counts = (crop.top, crop.left, source.bits, source.clipped, source.age)
    known = [value for value in columns.values() if value is not None]
    return (
        all(isinstance(text, str) and text.isprintable() for text in texts)
        and all(type(side) is int and 1 <= side <= codec.LONGEST_SIDE for side in sides)
        and all(type(count) is int and count >= 0 for count in counts)
        and all(
            type(number) in (int, float) and math.isfinite(number)
            for number in (entry.spacing_mm, *source.limits, *known)
        )
        and entry.spacing_mm >= 0
        and (entry.height, entry.width) == (crop.height, crop.width)
        and crop.top + crop.height <= recorded[0]
        and crop.left + crop.width <= recorded[1]
        and len(source.limits) in (0, 4)
        and entry.label in LABELS
        and entry.spacing_source in SPACING_SOURCES
        and entry.view in VIEWS
        and entry.laterality in LATERALITIES
        and source.intent in INTENTS
        and source.sex in SEXES
        and entry.split in ("", *SPLITS)
        and entry.hospital_split in ("", *SPLITS)
    )


@dataclass(frozen=True)
class Encoded:
    """A radiograph's records, not yet in a split.

    Attributes:
        entry: The manifest's entry.
        levels: Records of the tiles of each level, coarsest level first and row by row.
        margins: Records of the pixels outside the crop, in the order of `margin_boxes`.
    """

    entry: RadiographEntry
    levels: list[list[bytes]]
    margins: list[bytes]


def pixel_hash(pixels: UInt16[np.ndarray, "height width"]) -> str:
    """SHA-256 of a picture's shape and grey values, 64 hexadecimal digits."""
    digest = hashlib.sha256(repr(pixels.shape).encode())
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.hexdigest()


def encode(radiograph: Radiograph, patch: int) -> Encoded:
    """Builds the pyramid of a radiograph and encodes its tiles: the slow step of writing."""
    pixels = radiograph.pixels
    crop = radiograph.crop or Box(0, 0, *pixels.shape)
    kept = {f.name: getattr(radiograph, f.name) for f in dataclasses.fields(radiograph)}
    entry = RadiographEntry(
        **{name: value for name, value in kept.items() if name not in ("pixels", "crop")},
        height=crop.height,
        width=crop.width,
        crop=crop,
        recorded=pixels.shape,
        sha256=pixel_hash(pixels),
    )
    example = _example(entry)
    levels = [
        [
            _record(example, level[y : y + patch, x : x + patch], y, x, level.shape)
            for y, x in tile_origins(level.shape, patch)
        ]
        for level in pyramid(pixels[crop.slices], patch)
    ]
    margins = [
        _record(example, pixels[box.slices], box.top, box.left, pixels.shape)
        for box in margin_boxes(pixels.shape, crop)
    ]
    return Encoded(entry, levels, margins)


def _example(entry: RadiographEntry) -> Any:
    """A record without its tile, encoded by TFDS, which takes 0.2 ms."""
    common = {name: getattr(entry, name) for name in FEATURES if hasattr(entry, name)}
    no_tile = {"tile": np.zeros((1, 1), np.uint16), "row": 0, "column": 0}
    fields = common | no_tile | {"radiograph": entry.name}
    return _Example.FromString(FEATURES.serialize_example(fields))


def _record(
    example: Any,
    tile: UInt16[np.ndarray, "_ _"],
    row: int,
    column: int,
    size: tuple[int, int],
) -> bytes:
    feature = example.features.feature
    feature["tile"].bytes_list.value[0] = codec.encode(tile)
    for name, value in zip(("row", "column", "height", "width"), (row, column, *size), strict=True):
        feature[name].int64_list.value[0] = value
    return example.SerializeToString(deterministic=True)


def tile_of(record: bytes) -> UInt16[np.ndarray, "height width"]:
    """Decodes only a record's pixels; TFDS takes longer for the other fields than for these.

    Raises:
        CorruptTileError: The tile is damaged.
    """
    feature = _Example.FromString(record).features.feature
    return codec.decode(feature["tile"].bytes_list.value[0])


def tile_origins(size: tuple[int, int], patch: int) -> list[tuple[int, int]]:
    """First row and column of each tile of a level, in the order of the records."""
    return [(y, x) for y in range(0, size[0], patch) for x in range(0, size[1], patch)]


def record_counts(entry: RadiographEntry, patch: int) -> dict[str, int]:
    """Number of a radiograph's records in each section of a dataset: its levels and the margins."""
    counts = {
        f"level_{level}": math.prod(math.ceil(side / patch) for side in size)
        for level, size in enumerate(level_sizes(entry.height, entry.width, patch))
    }
    return counts | {MARGINS: len(margin_boxes(entry.recorded, entry.crop))}


def margin_boxes(recorded: tuple[int, int], crop: Box) -> list[Box]:
    """The non-empty areas above, below, left and right of the crop."""
    below, right = crop.top + crop.height, crop.left + crop.width
    boxes = (
        Box(0, 0, crop.top, recorded[1]),
        Box(below, 0, recorded[0] - below, recorded[1]),
        Box(crop.top, 0, crop.height, crop.left),
        Box(crop.top, right, crop.height, recorded[1] - right),
    )
    return [box for box in boxes if box.height and box.width]
