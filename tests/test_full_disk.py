"""Commands on a disk that is really full: one sentence, and nothing that is half written."""

import numpy as np
import pytest

from femur_jax.data.cohort import Pseudonyms
from femur_jax.data.radiograph import Radiograph
from femur_jax.data.records import encode
from femur_jax.data.shards import DatasetWriter
from femur_jax.files import is_disk_full
from femur_jax.main import main


def _fill(disk, free):
    """Leaves a number of free bytes."""
    with (disk / "filler").open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError as error:
            assert is_disk_full(error)
    with (disk / "filler").open("r+b") as file:
        file.truncate((disk / "filler").stat().st_size - free)


def _names(disk):
    return sorted(path.name for path in disk.iterdir())


def test_other_errors_are_no_full_disk():
    assert not is_disk_full(PermissionError(13, "Permission denied"))
    assert not is_disk_full(ValueError("disk"))


@pytest.mark.parametrize("free", [0, 1 << 15, 1 << 20])
def test_a_dataset_is_whole_or_absent(small_disk, free):
    _fill(small_disk, free)
    pixels = np.random.default_rng(0).integers(0, 65536, (900, 700), np.uint16)
    encoded = encode(Radiograph(pixels, "n", "AFF", "p", "h"), 256)
    with (
        pytest.raises(Exception, check=is_disk_full),  # noqa: B017 - of whatever type
        DatasetWriter(small_disk / "data", patch=256, provenance={}) as writer,
    ):
        for split in ("train", "test"):
            writer.add(encoded, split)
    assert _names(small_disk) == ["filler"]


def test_a_key_is_whole_or_absent(small_disk):
    _fill(small_disk, 0)
    with pytest.raises(OSError, match="No space"):
        Pseudonyms(small_disk / "key")
    assert _names(small_disk) == ["filler"]
    (small_disk / "filler").unlink()
    first, second = (Pseudonyms(small_disk / "key") for _ in range(2))
    assert first("patient", "1") == second("patient", "1")


COMMANDS = {
    "simulate": ["--patients=4", "--images=8", "--hospitals=2", "--workers=1"],
    "inspect": ["--dataset={dataset}"],
    "export": ["{dataset}", "--allow_real"],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_ends_with_one_sentence(small_disk, dataset, command, capfd):
    _fill(small_disk, 1 << 14)
    arguments = [text.format(dataset=dataset.folder) for text in COMMANDS[command]]
    assert main([command, *arguments, f"--out={small_disk / 'out'}"]) == 2
    [line] = capfd.readouterr().err.splitlines()
    assert line.startswith("femur_jax: ")
    assert _names(small_disk) == ["filler"]
