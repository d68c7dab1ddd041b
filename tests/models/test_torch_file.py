"""Tests of files of weights from torch.save, and of files that must be refused.

PyTorch 2.13 wrote torch_zip.pth and torch_stream.pth, its two formats, from the tensors in
`EXPECTED`. torch_module.pth also holds a module.
"""

import json
import struct
from pathlib import Path

import numpy as np
import pytest

from femur_jax.errors import UserError
from femur_jax.models.torch_file import folded_norm, read_weights, tensor

FOLDER = Path(__file__).parent
EXPECTED = {
    "a.weight": np.arange(24, dtype=np.float32).reshape(2, 3, 4),
    "a.half": np.array([1.5, -2.0], np.float16),
    "count": np.array(7, np.int64),
    "view": np.arange(12, dtype=np.float64).reshape(3, 4).T[1:],
    "p": np.ones((2, 2), np.float32),
}


@pytest.mark.parametrize("name", ["torch_zip.pth", "torch_stream.pth"])
def test_reads_the_tensors_that_pytorch_wrote(name):
    weights = read_weights(FOLDER / name)
    assert weights.keys() == EXPECTED.keys()
    for key, expected in EXPECTED.items():
        np.testing.assert_array_equal(weights[key], expected)
        assert weights[key].dtype == expected.dtype


def test_reads_safetensors(tmp_path):
    """The file has the published layout: length of the header, JSON, then the tensors' bytes."""
    values = {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.array([5], np.int64)}
    header, data = {"__metadata__": {"format": "pt"}}, b""
    for name, value in values.items():
        end = len(data) + value.nbytes
        dtype = "F32" if name == "w" else "I64"
        header[name] = {"dtype": dtype, "shape": value.shape, "data_offsets": [len(data), end]}
        data += value.tobytes()
    text = json.dumps(header).encode()
    path = tmp_path / "model.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    weights = read_weights(path)
    assert weights.keys() == values.keys()
    for name, value in values.items():
        np.testing.assert_array_equal(weights[name], value)


def test_a_pickle_with_other_objects_is_refused():
    with pytest.raises(UserError, match="torch_module"):
        read_weights(FOLDER / "torch_module.pth")


@pytest.mark.parametrize("name", ["torch_zip.pth", "torch_stream.pth"])
def test_damaged_files_are_refused(name, tmp_path):
    content = (FOLDER / name).read_bytes()
    path = tmp_path / name
    for length in (0, 3, 200, len(content) - 9):
        path.write_bytes(content[:length])
        with pytest.raises(UserError, match="download the file again"):
            read_weights(path)
    with pytest.raises(UserError, match="no file of weights"):
        read_weights(tmp_path / "nothing.pth")


def test_missing_and_misshapen_tensors_are_named():
    with pytest.raises(UserError, match=r"no tensor fc\.weight"):
        tensor(EXPECTED, "fc.weight", (2,))
    with pytest.raises(UserError, match=r"a\.weight .* \(2, 3, 4\), but .* \(4, 3\)"):
        tensor(EXPECTED, "a.weight", (4, 3))


def test_folded_norm_is_batch_normalisation():
    rng = np.random.default_rng(0)
    names = ("weight", "bias", "running_mean", "running_var")
    weights = {f"bn.{name}": rng.uniform(0.5, 2, size=6) for name in names}
    x = rng.normal(size=(10, 6))
    gamma, beta, mean, variance = (weights[f"bn.{name}"] for name in names)
    expected = gamma * (x - mean) / np.sqrt(variance + 1e-3) + beta
    scale, bias = folded_norm(weights, "bn", 6, 1e-3)
    np.testing.assert_allclose(x * scale + bias, expected, rtol=1e-5, atol=1e-5)
