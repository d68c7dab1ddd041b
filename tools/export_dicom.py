"""The same as `femur export`."""

import sys

from femur_jax.main import main

if __name__ == "__main__":
    sys.exit(main(["export", *sys.argv[1:]]))
