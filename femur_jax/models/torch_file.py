"""Reads published weights from safetensors and PyTorch files, without PyTorch."""

import io
import json
import math
import pickle
import pickletools
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
    objects are refused, so that no file can run code. The tensors are views of the file's bytes, so
    that none needs more memory than the file.

    Raises:
        UserError: The file does not exist, has another format, or holds a tensor that does not lie
            within its storage.
    """
    if not path.is_file():
        raise UserError(f"There is no file of weights {path}; give the path of a downloaded file.")
    try:
        content = path.read_bytes()
        if path.suffix == ".safetensors":
            return _read_safetensors(content)
        is_zip = content.startswith(b"PK\x03\x04")
        return (_read_zip if is_zip else _read_stream)(io.BytesIO(content))
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


def _read_safetensors(content: bytes) -> Weights:
    (length,) = struct.unpack_from("<Q", content)
    if 8 + length > len(content):
        raise ValueError("the file ends within its header")
    header = json.loads(content[8 : 8 + length])
    data = memoryview(content)[8 + length :]
    weights = {}
    for name, entry in header.items():
        if name != "__metadata__":
            start, end = entry["data_offsets"]
            if not 0 <= start <= end <= len(data) or min(entry["shape"], default=0) < 0:
                raise ValueError("a tensor does not lie within the file")
            flat = np.frombuffer(data[start:end], _SAFETENSORS[entry["dtype"]])
            weights[name] = flat.reshape(entry["shape"])
    return weights


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
        flat = np.frombuffer(data[self.storage.key], self.storage.dtype)
        last = self.offset + sum(
            (n - 1) * step for n, step in zip(self.size, self.stride, strict=True)
        )
        if (
            min((self.offset, *self.size, *self.stride)) < 0
            or math.prod(self.size) > flat.size
            or (all(self.size) and last >= flat.size)
        ):
            raise ValueError("a tensor does not lie within its storage")
        strides = [step * flat.itemsize for step in self.stride]
        return np.lib.stride_tricks.as_strided(
            flat[self.offset :], self.size, strides, writeable=False
        )


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


def _unpickle(file: io.BytesIO) -> Any:
    """Loads one pickle. Its memo grows to the largest number that an entry is given."""
    start = file.tell()
    for before, (opcode, argument, _) in enumerate(pickletools.genops(file)):
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and (argument or 0) > before:
            raise ValueError("a pickle asks for more memory than it fills")
    file.seek(start)
    return _Unpickler(file).load()


def _state(file: io.BytesIO) -> dict[str, _Tensor]:
    state = _unpickle(file)
    state = state.get("state_dict", state)
    return {str(name): value for name, value in state.items() if isinstance(value, _Tensor)}


def _read_zip(file: io.BytesIO) -> Weights:
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        # torch.save compresses nothing; members that overlap could be read for ever.
        if (
            any(member.compress_type for member in members)
            or sum(member.file_size for member in members) > file.getbuffer().nbytes
        ):
            raise ValueError("the archive holds more than the file")
        (pickled,) = (m.filename for m in members if m.filename.endswith("/data.pkl"))
        folder = pickled.removesuffix("data.pkl")
        state = _state(io.BytesIO(archive.read(pickled)))
        keys = {tensor.storage.key for tensor in state.values()}
        data = {key: archive.read(f"{folder}data/{key}") for key in keys}
    return {name: t.array(data) for name, t in state.items()}


def _read_stream(file: io.BytesIO) -> Weights:
    if _unpickle(file) != _MAGIC:
        raise ValueError("not a file of torch.save")
    for _ in ("protocol", "system"):
        _unpickle(file)
    state = _state(file)
    keys = _unpickle(file)
    dtypes = {t.storage.key: t.storage.dtype for t in state.values()}
    data = {}
    for key in keys:
        (count,) = struct.unpack("<q", file.read(8))
        length = count * np.dtype(dtypes[key]).itemsize
        data[key] = file.read(length)
        if len(data[key]) != length:
            raise ValueError("the file ends within a storage")
    return {name: t.array(data) for name, t in state.items()}
