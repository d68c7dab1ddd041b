"""Files of weights as PyTorch and safetensors write them, made without either."""

import io
import json
import pickle
import struct
import zipfile

import numpy as np


def save(path, tensors):
    """Writes tensors in float32, in the format of the path's suffix: .safetensors, or any other."""
    arrays = {name: np.asarray(value, np.float32) for name, value in tensors.items()}
    content = _safetensors(arrays) if path.suffix == ".safetensors" else _torch_zip(arrays)
    path.write_bytes(content)
    return path


def _safetensors(arrays):
    header, end = {}, 0
    for name, array in arrays.items():
        ends = [end, end := end + array.nbytes]
        header[name] = {"dtype": "F32", "shape": array.shape, "data_offsets": ends}
    text = json.dumps(header).encode()
    return b"".join([struct.pack("<Q", len(text)), text, *(a.tobytes() for a in arrays.values())])


def _torch_zip(arrays):
    """The archive of torch.save(state_dict), whose pickle is written by hand."""

    def pushed(value):
        return pickle.dumps(value, 2)[2:-1]

    state, file = [b"\x80\x02ccollections\nOrderedDict\n)R"], io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for key, (name, array) in enumerate(arrays.items()):
            strides = tuple(step // array.itemsize for step in array.strides)
            storage = pushed("storage") + b"ctorch\nFloatStorage\n" + pushed(str(key))
            storage = b"(" + storage + pushed("cpu") + pushed(array.size) + b"tQ"
            view = b"".join(map(pushed, (0, array.shape, strides, False)))
            hooks = b"ccollections\nOrderedDict\n)R"
            tensor = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + view + hooks + b"tR"
            state.append(pushed(name) + tensor + b"s")
            archive.writestr(f"archive/data/{key}", array.tobytes())
        archive.writestr("archive/data.pkl", b"".join([*state, b"."]))
    return file.getvalue()
