"""Prints a config with the meaning of its fields, as the comments of its file state it.

Examples:
    femur show --config=configs/gan.py:tiny
    femur show runs/gan
"""

import ast
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import configs
from femur_jax.commands import run_options
from femur_jax.commands.options import Parser

_FILES = Path(configs.__file__).parent
_BY_TASK = {"diffusion": "patch_diffusion.py", "gan": "gan.py", "classifier": "classifier.py"}
_WIDTH = 46  # characters before a comment


def main(argv: Sequence[str]) -> int:
    """Prints a line for each field: its name, its value and its meaning."""
    if {"-h", "--help"} & set(argv):
        parser = Parser("show", __doc__)
        parser.add_argument("folder", nargs="?", help="run directory")
        parser.add_argument("--config", metavar="FILE:VARIANT", help="config of a file")
        parser.parse_args(argv)
    config, file = run_options.config_and_file(argv)
    file = file or _FILES / (_BY_TASK[config.task] if "task" in config else "study.py")
    meanings = dict(_meanings(file))
    for name, value in _fields(config.to_dict()):
        line = f"{name} = {value!r}"
        meaning = meanings.get(name, "")
        print(f"{line:{_WIDTH}}  # {meaning}" if meaning else line)
    return 0


def _fields(fields: dict, prefix: str = "") -> Iterator[tuple[str, object]]:
    for name, value in fields.items():
        if isinstance(value, dict):
            yield from _fields(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _meanings(file: Path, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Dotted names and comments of the fields that `get_config` of a file sets.

    A comment stands on the line of the field's name, or alone on the lines above it.
    """
    text = file.read_text()
    lines = text.splitlines()
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.Assign) or not isinstance(node.targets[0], ast.Attribute):
            continue
        target = ast.unparse(node.targets[0])
        if not target.startswith("config."):
            continue
        name = prefix + target.removeprefix("config.")
        yield name, _comment(lines, node.lineno)
        yield from _within(node.value, name, lines)


def _within(value: ast.expr, name: str, lines: Sequence[str]) -> Iterator[tuple[str, str]]:
    """The fields of a dictionary, or of the config of another file."""
    if isinstance(value, ast.Call) and ast.unparse(value.func).endswith(".get_config"):
        module = ast.unparse(value.func).removesuffix(".get_config")
        yield from _meanings(_FILES / f"{module}.py", f"{name}.")
    elif isinstance(value, ast.Call) and value.args:
        yield from _within(value.args[0], name, lines)
    elif isinstance(value, ast.Dict):
        for key, item in zip(value.keys, value.values, strict=True):
            if isinstance(key, ast.Constant):
                field = f"{name}.{key.value}"
                yield field, _comment(lines, key.lineno)
                yield from _within(item, field, lines)


def _comment(lines: Sequence[str], number: int) -> str:
    if match := re.search(r"  # (.*)$", lines[number - 1]):
        return match[1]
    above: list[str] = []
    while number > 1 and (match := re.match(r"\s*# (.*)$", lines[number - 2])):
        above.insert(0, match[1])
        number -= 1
    return " ".join(above)
