"""The content of each file that was read, on disk until the dataset is written.

The split of a radiograph is known only when every file has been read, since files that show the
same picture connect their patients. A killed run resumes with the files in the spool. The layout of
a spool file:

    8 bytes   length of the head, little-endian
    n         the head, as JSON: the facts, and the lengths of the records
    m         the records
    4         CRC-32 of all previous bytes
"""

import dataclasses
import io
import json
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from femur_jax.data.records import Encoded, RadiographEntry
from femur_jax.errors import UserError
from femur_jax.files import write_atomically


@dataclass(frozen=True)
class FileFacts:
    """Facts about one file that was read.

    Attributes:
        entry: Entry of the future manifest, without a split.
        instance: Pseudonym of the SOP Instance UID, "" where there is none.
        made_from: Pseudonyms of the instances that this one was processed from.
        perceptual_hash: Hash of the picture; see `duplicates.perceptual_hash`.
        polarity: Whether bone is bright, see `ingest.polarity`; "" for a synthetic radiograph.
    """

    entry: RadiographEntry
    instance: str
    made_from: tuple[str, ...]
    perceptual_hash: int
    polarity: str = ""


def write(path: Path, facts: FileFacts, encoded: Encoded) -> None:
    """Writes a spool file, which appears when it is complete.

    Raises:
        UserError: The spool cannot be written to.
    """
    sections = [*encoded.levels, encoded.margins]
    lengths = [[len(record) for record in section] for section in sections]
    head = json.dumps([dataclasses.asdict(facts), lengths]).encode()
    records = (record for section in sections for record in section)
    pieces = [len(head).to_bytes(8, "little"), head, *records]
    checksum = 0
    for piece in pieces:  # a copy in one piece would take time and memory
        checksum = zlib.crc32(piece, checksum)
    try:
        write_atomically(path, [*pieces, checksum.to_bytes(4, "little")], sync=False)
    except OSError as error:
        raise UserError(
            f"{path.parent} cannot be written to ({error.strerror}); free disk space and run again."
        ) from None


def read_facts(path: Path) -> FileFacts | None:
    """Reads the facts; None where there is no such file, or where it is damaged."""
    if not path.is_file():
        return None
    data = path.read_bytes()
    if len(data) < 12 or zlib.crc32(data[:-4]).to_bytes(4, "little") != data[-4:]:
        return None
    head, _ = _read_head(io.BytesIO(data))
    return FileFacts(
        **head
        | {"entry": RadiographEntry.from_json(head["entry"]), "made_from": tuple(head["made_from"])}
    )


def read_encoded(path: Path, facts: FileFacts) -> Encoded:
    """Reads the radiograph's records."""
    with path.open("rb") as file:
        _, lengths = _read_head(file)
        *levels, margins = [[file.read(length) for length in section] for section in lengths]
    return Encoded(facts.entry, levels, margins)


def _read_head(file: io.BufferedIOBase) -> Any:
    """Reads the content of the head and leaves the file at its end."""
    return json.loads(file.read(int.from_bytes(file.read(8), "little")))
