"""Options as all commands spell them: words joined by underscores, or by dashes."""

import argparse
from collections.abc import Sequence
from typing import Any, NoReturn

from femur_jax.errors import UserError


def with_underscores(argument: str) -> str:
    """Spells the name of an option with underscores, such as `--max_quarantined=0.1`.

    Fields of a config are Python names, so all options have underscores; dashes are accepted.
    """
    if not argument.startswith("--"):
        return argument
    name, equals, value = argument[2:].partition("=")
    return f"--{name.replace('-', '_')}{equals}{value}"


class Parser(argparse.ArgumentParser):
    """A parser whose errors are UserErrors, and whose help keeps the lines of the description."""

    def __init__(self, command: str, description: str | None):
        """Takes the command's name, such as `ingest`, and its module's docstring."""
        super().__init__(
            prog=f"femur {command}",
            description=description,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:
        """Parses all arguments; an unknown one is named without its value, perhaps a path."""
        known, unknown = self.parse_known_args(args, namespace)
        if unknown:
            names = [text.partition("=")[0] for text in unknown if text.startswith("-")]
            self.error(f"{names[0]} is not an option" if names else "there are too many arguments")
        return known

    def error(self, message: str) -> NoReturn:
        """Raises a UserError with argparse's message."""
        raise UserError(f"{self.prog}: {message}; see {self.prog} --help.")
