"""The manifest of a dataset, dataset.json, which is checked as a whole when it is read.

Everything else about a dataset follows from its manifest: sizes of arrays, names of files and
numbers of records. So whatever has a wrong type, is out of range or contradicts something else in
the manifest is refused before it is used.
"""

import dataclasses
import json
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from femur_jax.data.cohort import SPLITS
from femur_jax.data.records import MARGINS, RadiographEntry, record_counts
from femur_jax.errors import UserError

MANIFEST = "dataset.json"
SCHEMA = 2
NAME = "radiographs"
"""Beginning of the names of all shards."""
PATCHES = range(2, 65535, 2)
"""Possible sides of a tile, pixels."""

_SHARD = re.compile(
    rf"(level_\d+|{MARGINS})/{NAME}-({'|'.join(SPLITS)})\.array_record-\d{{5}}-of-\d{{5}}"
)


@dataclass(frozen=True)
class Manifest:
    """Content of a manifest.

    Attributes:
        patch: Side of a tile in pixels, one of PATCHES.
        provenance: Account of the dataset's origin.
        records: Number of records in each shard, by its path relative to the dataset.
        radiographs: Entries of the radiographs.
    """

    patch: int
    provenance: dict[str, Any]
    records: dict[str, int]
    radiographs: list[RadiographEntry]

    def to_json(self) -> str:
        """The text of dataset.json."""
        return json.dumps({"schema": SCHEMA, **dataclasses.asdict(self)}, indent=1)


def read_manifest(folder: Path) -> Manifest:
    """Reads and checks the manifest of a dataset.

    Raises:
        UserError: There is no manifest, it has another schema, or it is damaged.
    """
    file = folder / MANIFEST
    if not file.is_file():
        raise UserError(
            f"{folder} holds no radiograph dataset ({MANIFEST} is missing); "
            "create one with femur ingest."
        )
    try:
        fields = json.loads(file.read_text())
        schema = fields.pop("schema")
        if schema == SCHEMA:
            entries = [RadiographEntry.from_json(entry) for entry in fields["radiographs"]]
            manifest = Manifest(**fields | {"radiographs": entries})
            _check(manifest)
            return manifest
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError, RecursionError):
        raise UserError(f"{file} is damaged; restore it, or create the dataset again.") from None
    raise UserError(
        f"{folder} has schema {schema}, but this version reads {SCHEMA}; create the dataset again."
    )


def _check(manifest: Manifest) -> None:
    """Raises a ValueError or TypeError where a value is impossible or contradicts another one."""
    if type(manifest.patch) is not int or manifest.patch not in PATCHES:
        raise ValueError(f"tiles have no side of {manifest.patch!r}")
    expected: Counter[tuple[str, str]] = Counter()
    for entry in manifest.radiographs:
        for section, count in record_counts(entry, manifest.patch).items():
            expected[section, entry.split] += count
    named: Counter[tuple[str, str]] = Counter()
    for path, count in manifest.records.items():
        shard = _SHARD.fullmatch(path)
        if not shard or type(count) is not int or count < 0:
            raise ValueError(f"{path!r} does not name a shard with a number of records")
        named[shard[1], shard[2]] += count
    if named != expected:
        raise ValueError("the shards have other numbers of records than the radiographs need")
    origin = manifest.provenance
    texts = [origin.get(name, "") for name in ("kind", "model")]
    if not all(isinstance(text, str) for text in (*texts, *origin.get("columns", ()))):
        raise TypeError("the provenance has values of other types")
