"""What was read of each file, on disk until the dataset is written.

Which split a radiograph goes to is known only when every file was read, since files that turn
out to be the same picture connect their patients. And a run that was killed goes on with what
is here. A spool file is

    8 bytes   length of the head, little-endian
    n         the head, as JSON: the facts, and the lengths of the records
    m         the records
    4         CRC-32 of all before
"""

import dataclasses
import json
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from femur_jax.data.records import Encoded, RadiographEntry


@dataclass(frozen=True)
class FileFacts:
    """What is known of one file once it was read.

    Attributes:
        entry: What the manifest will say.
        instance: Pseudonym of its SOP Instance UID, "" where there is none.
        made_from: Pseudonyms of the instances that it was processed from.
        perceptual_hash: See `duplicates.perceptual_hash`.
    """

    entry: RadiographEntry
    instance: str
    made_from: tuple[str, ...]
    perceptual_hash: int


def write(path: Path, facts: FileFacts, encoded: Encoded) -> None:
    """Writes a spool file, which appears when it is whole."""
    parts = [*encoded.levels, encoded.margins]
    lengths = [[len(record) for record in part] for part in parts]
    head = json.dumps([dataclasses.asdict(facts), lengths]).encode()
    records = (record for part in parts for record in part)
    data = b"".join([len(head).to_bytes(8, "little"), head, *records])
    partial = path.with_suffix(".partial")
    partial.write_bytes(data + zlib.crc32(data).to_bytes(4, "little"))
    partial.replace(path)


def read_facts(path: Path) -> FileFacts | None:
    """The facts alone; None where there is no such file, or it did not survive a power cut."""
    if not path.is_file():
        return None
    data = path.read_bytes()
    if zlib.crc32(data[:-4]).to_bytes(4, "little") != data[-4:]:
        return None
    (head, _), _ = _head(data)
    return FileFacts(
        **head
        | {"entry": RadiographEntry.from_json(head["entry"]), "made_from": tuple(head["made_from"])}
    )


def read_encoded(path: Path, facts: FileFacts) -> Encoded:
    """The radiograph, ready to be written."""
    data = path.read_bytes()
    (_, lengths), place = _head(data)
    parts: list[list[bytes]] = []
    for part in lengths:
        parts.append([])
        for length in part:
            parts[-1].append(data[place : place + length])
            place += length
    *levels, margins = parts
    return Encoded(facts.entry, levels, margins)


def _head(data: bytes) -> tuple[Any, int]:
    """What the head says, and where it ends."""
    end = 8 + int.from_bytes(data[:8], "little")
    return json.loads(data[8:end]), end
