"""torch-fidelity and prdc on the same features.

    python metrics.py FOLDER

FOLDER holds real.npy and synthetic.npy, float32. Each line of the input names a metric; the answer
is a line of JSON with its seconds and values.
"""

import io
import json
import sys
import time
import types
from pathlib import Path

import numpy as np
import torch


def _absent(name: str, **attributes) -> None:
    sys.modules[name] = types.ModuleType(name)
    vars(sys.modules[name]).update(attributes, __path__=[])


# torch-fidelity imports torchvision for data sets and colour images, which nothing here needs; it
# has no build for PyTorch's CPU version.
_absent("torchvision")
_absent("torchvision.transforms")
_absent("torchvision.transforms.functional")
_absent("torchvision.datasets", CIFAR10=object, CIFAR100=object, STL10=object)

from prdc import compute_prdc  # noqa: E402
from torch_fidelity.metric_fid import (  # noqa: E402
    fid_features_to_statistics,
    fid_statistics_to_metric,
)
from torch_fidelity.metric_kid import kernel_mmd, kid_features_to_metric  # noqa: E402
from torch_fidelity.metric_prc import prc_features_to_metric  # noqa: E402


def main() -> None:
    folder = Path(sys.argv[1])
    real, synthetic = (np.load(folder / f"{name}.npy") for name in ("real", "synthetic"))
    x, y = torch.from_numpy(synthetic), torch.from_numpy(real)

    def fid() -> dict:
        statistics = [fid_features_to_statistics(features) for features in (x, y)]
        return fid_statistics_to_metric(*statistics, verbose=False)

    def kid() -> dict:
        metrics = kid_features_to_metric(x, y, verbose=False)
        return metrics | {"first thousand": float(kernel_mmd(synthetic[:1000], real[:1000]))}

    metrics = {
        "fid": fid,
        "kid": kid,
        "prc": lambda: prc_features_to_metric(x, y, verbose=False),
        "prdc": lambda: {k: float(v) for k, v in compute_prdc(real, synthetic, 5).items()},
    }
    out = sys.stdout
    sys.stdout = io.StringIO()  # prdc prints
    print(json.dumps({"threads": torch.get_num_threads(), "torch": torch.__version__}), file=out)
    out.flush()
    for line in sys.stdin:
        start_time = time.perf_counter()
        values = metrics[line.strip()]()
        seconds = time.perf_counter() - start_time
        print(json.dumps({"seconds": seconds} | values), file=out, flush=True)


if __name__ == "__main__":
    main()
