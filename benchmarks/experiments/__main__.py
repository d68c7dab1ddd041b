"""Runs experiments on what the generators, the metrics and the simulator do.

python -m benchmarks.experiments --only gan_modes
"""

import sys

from benchmarks.command import Suite, main
from benchmarks.experiments import (
    degraded_sets,
    diffusion_quality,
    gan_modes,
    gan_quality,
    heat_maps,
    memorization,
    phantom_classifier,
    phantom_fairness,
    teaching,
)
from benchmarks.records import measurements_in

SUITE = Suite(
    title="Experiments",
    target="experiment",
    package="benchmarks.experiments",
    measurements=measurements_in(
        (
            degraded_sets,
            diffusion_quality,
            gan_modes,
            gan_quality,
            heat_maps,
            memorization,
            phantom_classifier,
            phantom_fairness,
            teaching,
        )
    ),
)

if __name__ == "__main__":
    sys.exit(main(SUITE, sys.argv[1:]))
