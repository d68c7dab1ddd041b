"""The same as `femur simulate`."""

import sys

from femur_jax.main import main

if __name__ == "__main__":
    sys.exit(main(["simulate", *sys.argv[1:]]))
