"""Tests of files of weights from torch.save, and of files that must be refused.

PyTorch 2.13 wrote torch_zip.pth and torch_stream.pth, its two formats, from the tensors in
`EXPECTED`. torch_module.pth also holds a module.
"""

import io
import itertools
import json
import pickle
import struct
import tracemalloc
import zipfile
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


def _safetensors(header, data=b""):
    """A file of the published layout: length of the header, JSON, then the tensors' bytes."""
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def test_reads_safetensors(tmp_path):
    values = {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.array([5], np.int64)}
    header, data = {"__metadata__": {"format": "pt"}}, b""
    for name, value in values.items():
        end = len(data) + value.nbytes
        dtype = "F32" if name == "w" else "I64"
        header[name] = {"dtype": dtype, "shape": value.shape, "data_offsets": [len(data), end]}
        data += value.tobytes()
    path = tmp_path / "model.safetensors"
    path.write_bytes(_safetensors(header, data))
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


def _stream(offset, size, stride, values, extra=b""):
    """The older format of torch.save with one tensor, written by hand; `extra` comes before it."""

    def pushed(value):
        return pickle.dumps(value, 2)[2:-1]

    storage = pushed("storage") + b"ctorch\nFloatStorage\n" + pushed("0") + pushed("cpu")
    view = b"".join(map(pushed, (offset, size, stride, False, None)))
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n((%s%stQ%stR" % (storage, pushed(12), view)
    state = b"\x80\x02" + extra + b"}" + pushed("w") + tensor + b"s."
    parts = [pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, {})]
    data = struct.pack("<q", len(values)) + values.tobytes()
    return b"".join([*parts, state, pickle.dumps(["0"], 2), data])


def _by_index(offset, size, stride, values):
    """The tensor's elements one by one, None where one of them is outside of the storage."""
    places = [
        offset + sum(i * step for i, step in zip(index, stride, strict=True))
        for index in itertools.product(*map(range, size))
    ]
    if any(not 0 <= place < len(values) for place in places) or len(places) > len(values):
        return None
    return values[places].reshape(size)


def test_a_tensor_is_read_exactly_where_it_lies_within_its_storage(tmp_path):
    path, rng, accepted = tmp_path / "w.pth", np.random.default_rng(0), 0
    values = rng.random(12, np.float32)
    for _ in range(400):
        dims = int(rng.integers(4))
        size, stride = (tuple(map(int, rng.integers(low, 5, dims))) for low in (0, -1))
        offset = int(rng.integers(-2, 9))
        path.write_bytes(_stream(offset, size, stride, values))
        expected = _by_index(offset, size, stride, values)
        if expected is None or offset < 0 or min(stride, default=0) < 0:
            with pytest.raises(UserError, match="cannot be read"):
                read_weights(path)
        else:
            np.testing.assert_array_equal(read_weights(path)["w"], expected)
            accepted += 1
    assert 50 < accepted < 350


def _zip(pickled, data, compression=zipfile.ZIP_STORED):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        archive.writestr("a/data.pkl", pickled)
        archive.writestr("a/data/0", data)
    return file.getvalue()


GREEDY = {
    "64 GiB of one number": _stream(0, (1 << 17, 1 << 17), (0, 0), np.zeros(1, np.float32)),
    "a memo of 64 GiB": _stream(0, (1,), (1,), np.zeros(1, np.float32), b"Nr\xfe\xff\xff\xff0"),
    "a storage of 64 GiB": _stream(0, (1,), (1,), np.zeros(1, np.float32))[:-12]
    + struct.pack("<q", 1 << 34),
    "a header of 64 GiB": struct.pack("<Q", 1 << 36) + b"{}",
    "a shape to be found": _safetensors(
        {"w": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}, bytes(4)
    ),
    "bytes from the end": _safetensors(
        {"w": {"dtype": "F32", "shape": [1], "data_offsets": [-4, 4]}}, bytes(4)
    ),
    "a compressed archive": _zip(pickle.dumps({}), bytes(1 << 20), zipfile.ZIP_DEFLATED),
}


@pytest.mark.parametrize("name", GREEDY)
def test_no_file_gets_more_memory_than_it_has_bytes(name, tmp_path):
    kind = "safetensors" if "header" in name or "shape" in name or "bytes" in name else "pth"
    path = tmp_path / f"w.{kind}"
    path.write_bytes(GREEDY[name])
    tracemalloc.start()
    with pytest.raises(UserError, match="cannot be read"):
        read_weights(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20


@pytest.mark.parametrize("name", ["torch_zip.pth", "torch_stream.pth", "w.safetensors"])
def test_a_mutated_file_is_read_or_refused(name, tmp_path):
    header = {"w": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}}
    whole = (FOLDER / name).read_bytes() if "torch" in name else _safetensors(header, bytes(24))
    path, rng, refused = tmp_path / name, np.random.default_rng(1), 0
    for _ in range(300):
        mutated = bytearray(whole)
        for position in rng.integers(len(whole), size=rng.integers(1, 4)):
            mutated[position] = rng.choice([0, 1, 0x7F, 0x80, 0xFF, rng.integers(256)])
        path.write_bytes(mutated)
        try:
            weights = read_weights(path)
        except UserError:
            refused += 1
        else:
            assert all(value.nbytes <= len(whole) for value in weights.values())
            assert all(value.tobytes() is not None for value in weights.values())
    assert 10 < refused < 300
