"""Random patches as a student would load them: PyTorch's DataLoader over DICOM files.

    python patches_pydicom.py FILE...

Prints the seconds for a patch as JSON. One process without workers uses one core.
"""

import json
import sys
import time

import numpy as np
import pydicom
import torch
from torch.utils.data import DataLoader, Dataset

PATCH, BATCH = 256, 4


class Patches(Dataset):
    """Opens a file for each patch, since 4300 radiographs do not fit into memory."""

    def __init__(self, files: list[str], count: int):
        self.files, self.count = files, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> torch.Tensor:
        rng = np.random.default_rng(index)
        pixels = pydicom.dcmread(self.files[index % len(self.files)]).pixel_array
        row, column = (int(rng.integers(side - PATCH + 1)) for side in pixels.shape)
        patch = pixels[row : row + PATCH, column : column + PATCH]
        return torch.from_numpy(patch.astype(np.float32))


def main() -> None:
    torch.set_num_threads(1)
    files = sys.argv[1:]
    for _ in DataLoader(Patches(files, BATCH), batch_size=BATCH):
        pass
    start_time, count = time.perf_counter(), 0
    while time.perf_counter() - start_time < 4.0:
        for batch in DataLoader(Patches(files, 2 * BATCH), batch_size=BATCH):
            count += len(batch)
    print(json.dumps({"seconds_per_patch": (time.perf_counter() - start_time) / count}))


if __name__ == "__main__":
    main()
