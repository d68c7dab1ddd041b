"""femur with a tenth of a second more for each batch, so that a test can interrupt the training.

The call is that of Python: slowly.py -m femur_jax.main ARGUMENT...
"""

import sys
import time

from femur_jax import main
from femur_jax.training import loop

batches = loop.batches


def slow_batches(*arguments, **named):
    for batch in batches(*arguments, **named):
        time.sleep(0.1)
        yield batch


if __name__ == "__main__":
    loop.batches = slow_batches
    sys.exit(main.main(sys.argv[3:]))
