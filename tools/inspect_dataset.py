"""The same as `femur inspect`."""

import sys

from femur_jax.main import main

if __name__ == "__main__":
    sys.exit(main(["inspect", *sys.argv[1:]]))
