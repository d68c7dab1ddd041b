"""The code of docs/pixels.md, taken from the document itself and run."""

import re
from pathlib import Path

import numpy as np
import pytest

from femur_jax.data.radiograph import LABELS
from tests.export.conftest import REAL, radiographs, write

DOCUMENT = Path(__file__).parents[1] / "docs" / "pixels.md"


def _code(first_line):
    """The block of code (indented by four spaces) that begins with a line."""
    blocks = re.findall(r"(?:^    .*\n|^\n(?=    ))+", DOCUMENT.read_text(), flags=re.MULTILINE)
    [block] = [b for b in blocks if b.strip().startswith(first_line)]
    return re.sub(r"^    ", "", block, flags=re.MULTILINE)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pixels") / "data" / "femur"
    return write(folder, radiographs("real", 5, 0), REAL)


@pytest.fixture
def run(dataset, monkeypatch):
    """A function that runs code in the folder that holds data/femur; returns the variables."""
    monkeypatch.chdir(dataset.folder.parents[1])

    def execute(code, **variables):
        exec(compile(code, str(DOCUMENT), "exec"), variables)
        return variables

    return execute


def test_tfds_gives_pixels(run, dataset):
    variables = run(_code("import tensorflow_datasets"))
    tile, source = variables["tile"], variables["source"]
    assert tile.dtype == np.uint16 and len(source) == 5
    for n in range(5):
        np.testing.assert_array_equal(source[n]["tile"], dataset.read(n, 0))


def test_the_reader_for_pytorch_gives_whole_radiographs(run, dataset):
    train = run(_code("from femur_jax"))["train"]
    assert len(train) == 5
    for n in range(5):
        picture, label = train[n]
        assert picture.shape == (1, 32, 32) and picture.dtype == np.float32
        expected = dataset.read(n, 0)
        height, width = expected.shape
        np.testing.assert_allclose(picture[0, :height, :width], expected / 65535 * 2 - 1, atol=1e-6)
        assert (picture[0, height:] == picture[0, height - 1]).all()
        assert (picture[0, :, width:] == picture[0, :, width - 1 : width]).all()
        assert LABELS[label] == dataset.entries[n].label
    with pytest.raises(IndexError):
        train[5]


def test_pytorch_reads_batches(run):
    pytest.importorskip("torch", reason="PyTorch is not installed")
    train = run(_code("from femur_jax"))["train"]
    variables = run(_code("from torch"), train=train)
    np.testing.assert_array_equal(variables["pictures"][1], train[1][0])
    assert variables["classes"].tolist() == [train[n][1] for n in range(2)]
