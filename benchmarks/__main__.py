"""Measures the speed of femur_jax against its peers and limits.

python -m benchmarks --only train_over_torch_cpu
"""

import sys

from benchmarks import (
    copies,
    data,
    demo,
    evaluation,
    gan,
    gpu_program,
    identities,
    mutations,
    phantom,
    polarity,
    rates,
    sampling,
    scale,
    training,
)
from benchmarks.command import Suite, main
from benchmarks.records import measurements_in

SUITE = Suite(
    title="Speed against peers and limits",
    target="bench",
    package="benchmarks",
    measurements=measurements_in(
        (
            copies,
            data,
            demo,
            evaluation,
            gan,
            gpu_program,
            identities,
            mutations,
            phantom,
            polarity,
            rates,
            sampling,
            scale,
            training,
        )
    ),
)

if __name__ == "__main__":
    sys.exit(main(SUITE, sys.argv[1:]))
