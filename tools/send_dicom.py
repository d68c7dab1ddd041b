"""The same as `femur send`."""

import sys

from femur_jax.main import main

if __name__ == "__main__":
    sys.exit(main(["send", *sys.argv[1:]]))
