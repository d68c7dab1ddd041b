"""The same as `femur readers`."""

import sys

from femur_jax.main import main

if __name__ == "__main__":
    sys.exit(main(["readers", *sys.argv[1:]]))
