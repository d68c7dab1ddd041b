"""One of several processes that train least squares together, started as by srun.

The arguments are the run directory, a JSON object with fields of the config, and the rank of the
process that fails, or -1.
"""

import json
import os
import sys
from pathlib import Path

from femur_jax.parallel import distributed
from femur_jax.training import loop
from tests.training.least_squares import KernelMean, LeastSquares, least_squares_config


class Failing(LeastSquares):
    """A task whose data cannot be read in one process."""

    def __init__(self, rank):
        super().__init__()
        self._fails = os.environ["SLURM_PROCID"] == rank

    def streams(self):
        if self._fails:
            raise RuntimeError("the data are upside down")
        return super().streams()


if __name__ == "__main__":
    folder, fields, failing = sys.argv[1:]
    config = least_squares_config()
    config.update_from_flattened_dict(json.loads(fields))
    with distributed.together(logs=Path(folder) / "logs"):
        loop.train(Failing(failing), config, Path(folder), [KernelMean()])
