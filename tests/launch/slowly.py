"""femur_jax.main with a tenth of a second more for each batch, so that tests can come between.

Called as python is: slowly.py -m femur_jax.main ARGUMENT...
"""

import sys
import time

from absl import app

from femur_jax import main
from femur_jax.training import loop

batches = loop.batches


def slow_batches(*arguments, **named):
    for batch in batches(*arguments, **named):
        time.sleep(0.1)
        yield batch


if __name__ == "__main__":
    loop.batches = slow_batches
    sys.argv[:3] = sys.argv[:1]
    app.run(main.main, flags_parser=main.parse_flags)
