"""Runs commands of `femur` one after another in one process, so that libraries are imported once.

    python tests/run_commands.py < commands.json

Standard input is a JSON list of pairs: the arguments of a command, and its accepted exit codes.
The first command that ends otherwise ends the program. `mv FROM TO` renames a folder.
"""

import json
import shutil
import sys
import time

from femur_jax.main import main


def exit_code(arguments: list[str]) -> int:
    """Runs a command and returns its exit code, as a shell would see it."""
    if arguments[0] == "mv":
        shutil.move(*arguments[1:])
        return 0
    try:
        return main(arguments)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)


if __name__ == "__main__":
    for arguments, accepted in json.load(sys.stdin):
        start_time = time.monotonic()
        code = exit_code(arguments)
        print(f"{time.monotonic() - start_time:6.1f} s  femur {' '.join(arguments)}", flush=True)
        if code not in accepted:
            sys.exit(f"femur {' '.join(arguments)}\nended with exit code {code}")
