import dataclasses
import json
import zlib
from pathlib import Path

import numpy as np
import pytest

from femur_jax.data import spool
from femur_jax.data.radiograph import Box, Radiograph, Source
from femur_jax.data.records import Encoded, encode


def _read_radiograph(seed: int, height: int, width: int) -> tuple[spool.FileFacts, Encoded]:
    radiograph = Radiograph(
        pixels=np.random.default_rng(seed).integers(0, 65536, (height, width), np.uint16),
        name="a1",
        label="AFF",
        patient="b2",
        hospital="c3",
        spacing_mm=0.1,
        spacing_source="detector",
        crop=Box(1, 2, height - 3, width - 2),
        source=Source(syntax="RLE", bits=12, age=77),
    )
    encoded = encode(radiograph, 16)
    return spool.FileFacts(encoded.entry, "d4", ("e5", "f6"), 2**64 - 3), encoded


FACTS, ENCODED = _read_radiograph(0, 40, 30)


@pytest.fixture
def file(tmp_path) -> Path:
    file = tmp_path / "0123456789abcdef"
    spool.write(file, FACTS, ENCODED)
    return file


def test_everything_comes_back(file):
    facts = spool.read_facts(file)
    assert facts == FACTS
    assert spool.read_encoded(file, facts) == ENCODED
    assert list(file.parent.iterdir()) == [file]


def test_the_bytes_are_as_documented(file):
    data = file.read_bytes()
    length = int.from_bytes(data[:8], "little")
    facts, lengths = json.loads(data[8 : 8 + length])
    assert facts["entry"]["sha256"] == FACTS.entry.sha256
    sections = [*ENCODED.levels, ENCODED.margins]
    assert lengths == [[len(record) for record in section] for section in sections]
    assert data[8 + length : -4] == b"".join(record for section in sections for record in section)
    assert int.from_bytes(data[-4:], "little") == zlib.crc32(data[:-4])


def test_a_missing_file_holds_no_facts(tmp_path):
    assert spool.read_facts(tmp_path / "nothing") is None


def test_a_file_cut_off_by_a_power_cut_holds_no_facts(file):
    whole = file.read_bytes()
    for length in [*range(200), *range(200, len(whole), 97), len(whole) - 1]:
        file.write_bytes(whole[:length])
        assert spool.read_facts(file) is None
        file.write_bytes(whole[:length] + bytes(len(whole) - length))  # blocks never written
        assert spool.read_facts(file) is None
    file.write_bytes(whole)
    assert spool.read_facts(file) == FACTS


def test_every_changed_bit_is_detected(file):
    whole = file.read_bytes()
    for bit in np.random.default_rng(0).integers(0, 8 * len(whole), 300):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        file.write_bytes(damaged)
        assert spool.read_facts(file) is None


def test_a_file_appears_when_it_is_complete(file, monkeypatch):
    """Until then the earlier file, or none, is there."""
    seen = []

    def watch(partial: Path, target: Path) -> None:
        seen.append((spool.read_facts(target), spool.read_facts(partial)))

    monkeypatch.setattr(Path, "replace", watch)
    newer = dataclasses.replace(FACTS, instance="newer")
    spool.write(file, newer, ENCODED)
    spool.write(file.with_name("fedcba9876543210"), newer, ENCODED)
    assert seen == [(FACTS, newer), (None, newer)]
