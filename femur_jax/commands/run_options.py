"""Options of the commands that work in a run directory."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict, config_flags

from femur_jax.commands.options import Parser
from femur_jax.errors import UserError
from femur_jax.example import EXAMPLE
from femur_jax.run_folder import load_config

_EXAMPLES = {
    "train": """\
    femur train --config=configs/patch_diffusion.py:base --workdir=runs/diffusion \\
        --config.dataset=data/femur
    femur train runs/diffusion --config.train.steps=300000""",
    "sample": """\
    femur sample runs/diffusion
    femur sample runs/diffusion --config.sample.guidance=2 --config.sample.labels="('AFF',)\"""",
    "evaluate": "    femur evaluate runs/diffusion --config.evaluate.weights=dinov2_vits14.pth",
    "audit": "    femur audit runs/diffusion",
    "cross_validate": """\
    femur cross_validate --config=configs/classifier.py:base --workdir=runs/folds \\
        --config.dataset=data/femur""",
    "study": """\
    femur study --config=configs/study.py:base --workdir=runs/study \\
        --config.radiographs=radiographs --config.labels=labels.csv
    femur study runs/study --only="train gan-letterbox-joint-0\"""",
    "status": "    femur status runs/study",
    "plan": "    femur plan --config=configs/study.py:base --workdir=runs/study",
}
_USAGE = """\
femur {command} WORKDIR [--config.FIELD=VALUE ...]
femur {command} --config=FILE:VARIANT --workdir=WORKDIR [--config.FIELD=VALUE ...]

{purpose}

    WORKDIR                Run directory. It holds the run's config, so an existing one is enough.
    --config=FILE:VARIANT  Config of a new run, such as configs/gan.py:tiny.
    --config.FIELD=VALUE   Another value of a field. `femur show --config=FILE:VARIANT` lists them.
{more}
Examples:
{examples}
"""
_MORE = {
    "train": """\
    --from_example         Start from the model of `femur example`, as config.pretrained=example.
""",
    "study": """\
    --only=STAGE           One stage of the study, as `femur plan` names it.
""",
}


@dataclass(frozen=True)
class RunOptions:
    """What the command line says about a run.

    Attributes:
        command: Name of the command, such as `train`.
        config: Config of the run with the command line's values.
        workdir: Run directory of the run.
        more: Further arguments of the command's function, such as `only`, one stage of a study.
    """

    command: str
    config: ConfigDict
    workdir: Path
    more: dict[str, str]


def usage(command: str, purpose: str) -> str:
    """The help text of a command that works in a run directory."""
    return _USAGE.format(
        command=command,
        purpose=purpose,
        more=_MORE.get(command, ""),
        examples=_EXAMPLES[command],
    )


def parse(command: str, argv: Sequence[str]) -> RunOptions:
    """Reads the config, from its file or from the run directory, and the values given for fields.

    Args:
        command: Name of the command; "" trains a model or runs a study, as the config says.
        argv: Arguments after the command.

    Raises:
        UserError: The run directory is missing, the config cannot be loaded, has no such field or
            is not one for this command, or an option is unknown.
    """
    parser = _parser(command or "train")
    if command in ("", "study"):
        parser.add_argument("--only", default="")
    if command in ("", "train"):
        parser.add_argument("--from_example", action="store_true")
    others, fields = _split(argv)
    options, unknown = parser.parse_known_args(others)
    if getattr(options, "from_example", False):
        fields.append(f"--config.pretrained={EXAMPLE}")
    workdir = options.workdir or options.folder
    if not workdir:
        raise UserError("No run directory is named; add --workdir=FOLDER.")
    config = _config(options, [*fields, *unknown])
    is_study = "task" not in config
    command = command or ("study" if is_study else "train")
    if is_study != (command in ("study", "status", "plan")):
        other = "a study; use femur study or femur plan" if is_study else "a model, not of a study"
        raise UserError(f"femur {command} does not take this config: it is the config of {other}.")
    more = {"only": options.only} if command == "study" else {}
    return RunOptions(command, config, Path(workdir), more)


def config_and_file(argv: Sequence[str]) -> tuple[ConfigDict, Path | None]:
    """The config of a file or of a run directory, and the file where one is named.

    Raises:
        UserError: The config cannot be loaded, or an option is unknown.
    """
    others, fields = _split(argv)
    options, unknown = _parser("show").parse_known_args(others)
    file = Path(options.config.split(":")[0]) if options.config else None
    return _config(options, [*fields, *unknown]), file


def _parser(command: str) -> Parser:
    parser = Parser(command, None)
    parser.add_argument("folder", nargs="?")
    parser.add_argument("--workdir")
    parser.add_argument("--config")
    return parser


def _split(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Other arguments, and values of fields, with `--config.seed 1` as `--config.seed=1`.

    argparse does not know the config's fields, and takes an option that holds a space, such as
    `--config.sample.sizes=((8, 8),)`, for a run directory.
    """
    others: list[str] = []
    fields: list[str] = []
    waits = False
    for argument in argv:
        if waits and not argument.startswith("--"):
            fields[-1] += f"={argument}"
            waits = False
        elif argument.startswith("--config."):
            fields.append(argument)
            waits = "=" not in argument
        else:
            others.append(argument)
            waits = False
    return others, fields


def _config(options: argparse.Namespace, fields: Sequence[str]) -> ConfigDict:
    """The config of a file or of a run directory, with values for some of its fields.

    Raises:
        UserError: It cannot be loaded, or a field or value is wrong.
    """
    if options.folder and options.workdir:
        raise UserError(
            f"{options.folder!r} and --workdir={options.workdir} both name a run directory; "
            "name one."
        )
    arguments, values = ["femur", *fields], flags.FlagValues()
    if options.config:
        arguments.insert(1, f"--config={options.config}")
        config_flags.DEFINE_config_file("config", None, flag_values=values, sys_argv=arguments)
    elif folder := options.workdir or options.folder:
        config = load_config(Path(folder))
        config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=arguments)
    else:
        raise UserError("No config is named; add --config=FILE:VARIANT, or name a run directory.")
    try:
        unknown = values(arguments)[1:]
        values.config.get("task")  # reports a file that cannot be loaded only now
    except Exception as error:  # a config file may raise anything
        text = str(error.args[0] if len(error.args) == 1 else error)
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        # The cause of an error within the file stands last, after its traceback.
        is_traceback = isinstance(error, OSError) or "Traceback" in text
        raise UserError(" ".join(lines[-1:] if is_traceback else lines)) from None
    if unknown:
        name = unknown[0].partition("=")[0]  # the value may be the path of patients' files
        raise UserError(f"{name!r} is not an option; see --help.")
    return values.config
