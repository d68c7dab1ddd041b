"""The same as `femur ingest`."""

import sys

from femur_jax.main import main

if __name__ == "__main__":
    sys.exit(main(["ingest", *sys.argv[1:]]))
