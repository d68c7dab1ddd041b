"""Reads published weights from safetensors and PyTorch files, without PyTorch."""

import io
import json
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from femur_jax.errors import UserError

Weights = Mapping[str, np.ndarray]

_MAGIC = 0x1950A86A20F9469CFC6C
_STORAGES = {
    "FloatStorage": "<f4",
    "DoubleStorage": "<f8",
    "HalfStorage": "<f2",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ByteStorage": "|u1",
    "BoolStorage": "|b1",
}
_SAFETENSORS = {"F32": "<f4", "F64": "<f8", "F16": "<f2", "I64": "<i8", "I32": "<i4"}


def read_weights(path: Path) -> Weights:
    """Reads the named tensors of a file.

    The formats are safetensors, `torch.save`'s ZIP archive and its older stream of pickles, which
    the published Inception weights use. Pickles may hold only tensors and dictionaries; other
    objects are refused, so that no file can run code.

    Raises:
        UserError: The file does not exist or has another format.
    """
    if not path.is_file():
        raise UserError(f"There is no file of weights {path}; give the path of a downloaded file.")
    try:
        with path.open("rb") as file:
            start = file.read(4)
            file.seek(0)
            if path.suffix == ".safetensors":
                return _read_safetensors(file)
            return _read_zip(file) if start == b"PK\x03\x04" else _read_stream(file)
    except Exception as error:  # damaged pickles and archives raise exceptions of any type
        raise UserError(
            f"The weights in {path} cannot be read as safetensors or as a state_dict from "
            "torch.save; download the file again."
        ) from error


def tensor(weights: Weights, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """One tensor in float32.

    Raises:
        UserError: The tensor is missing or has another shape.
    """
    if name not in weights:
        raise UserError(
            f"The file of weights has no tensor {name}; use a file of the same network."
        )
    value = weights[name]
    if value.shape != shape:
        raise UserError(
            f"The tensor {name} in the file of weights has the shape {value.shape}, but the "
            f"network needs {shape}; use a file of the same network."
        )
    return value.astype(np.float32)


def folded_norm(
    weights: Weights, prefix: str, channels: int, epsilon: float
) -> tuple[np.ndarray, np.ndarray]:
    """Scale and bias that are equivalent to a batch normalisation with fixed statistics."""
    gamma, beta, mean, variance = (
        tensor(weights, f"{prefix}.{name}", (channels,)).astype(np.float64)
        for name in ("weight", "bias", "running_mean", "running_var")
    )
    scale = gamma / np.sqrt(variance + epsilon)
    return scale.astype(np.float32), (beta - mean * scale).astype(np.float32)


def _read_safetensors(file: io.BufferedIOBase) -> Weights:
    (length,) = struct.unpack("<Q", file.read(8))
    header = json.loads(file.read(length))
    data = file.read()
    return {
        name: np.frombuffer(
            data[slice(*entry["data_offsets"])], _SAFETENSORS[entry["dtype"]]
        ).reshape(entry["shape"])
        for name, entry in header.items()
        if name != "__metadata__"
    }


@dataclass(frozen=True)
class _Storage:
    key: str
    dtype: str


@dataclass(frozen=True)
class _Tensor:
    """A view of a storage; the bytes of the storage may follow later in the file."""

    storage: _Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]

    def array(self, data: Mapping[str, bytes]) -> np.ndarray:
        flat = np.frombuffer(data[self.storage.key], self.storage.dtype)[self.offset :]
        strides = tuple(step * flat.itemsize for step in self.stride)
        if sum((n - 1) * s for n, s in zip(self.size, self.stride, strict=True)) >= flat.size:
            raise ValueError("a tensor is longer than its storage")
        return np.lib.stride_tricks.as_strided(flat, self.size, strides).copy()


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return lambda storage, offset, size, stride, *_: _Tensor(storage, offset, size, stride)
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return lambda tensor, *_: tensor
        if module == "torch" and name in _STORAGES:
            return name
        raise pickle.UnpicklingError(f"{module}.{name} is neither a tensor nor a dictionary")

    def persistent_load(self, pid: Any) -> _Storage:
        _, storage, key, *_ = pid
        return _Storage(key, _STORAGES[storage])


def _state(file: io.BufferedIOBase) -> dict[str, _Tensor]:
    state = _Unpickler(file).load()
    state = state.get("state_dict", state)
    return {name: value for name, value in state.items() if isinstance(value, _Tensor)}


def _read_zip(file: io.BufferedIOBase) -> Weights:
    with zipfile.ZipFile(file) as archive:
        (pickled,) = (name for name in archive.namelist() if name.endswith("/data.pkl"))
        folder = pickled.removesuffix("data.pkl")
        state = _state(io.BytesIO(archive.read(pickled)))
        data = {
            t.storage.key: archive.read(f"{folder}data/{t.storage.key}") for t in state.values()
        }
    return {name: t.array(data) for name, t in state.items()}


def _read_stream(file: io.BufferedIOBase) -> Weights:
    if _Unpickler(file).load() != _MAGIC:
        raise ValueError("not a file of torch.save")
    for _ in ("protocol", "system"):
        _Unpickler(file).load()
    state = _state(file)
    keys = _Unpickler(file).load()
    dtypes = {t.storage.key: t.storage.dtype for t in state.values()}
    data = {}
    for key in keys:
        (count,) = struct.unpack("<q", file.read(8))
        data[key] = file.read(count * np.dtype(dtypes[key]).itemsize)
    return {name: t.array(data) for name, t in state.items()}
