"""The command line: `femur COMMAND`, the same as `python -m femur_jax.main COMMAND`."""

import importlib
import sys
from collections.abc import Callable, Sequence

from femur_jax.commands.options import with_underscores
from femur_jax.errors import UserError
from femur_jax.files import as_user_error, for_owner_only

TOOLS = {
    "example": "Generate a few radiographs with the model that comes with the package.",
    "simulate": "Write simulated patients as DICOM files.",
    "ingest": "Make a dataset of DICOM or image files and a label table.",
    "inspect": "Write a page on what a dataset holds.",
    "predict": "Ask a classifier about new films; not a medical device.",
    "release": "Select synthetic radiographs, and write a folder to share.",
    "export": "Write the radiographs of a dataset as DICOM files.",
    "send": "Send DICOM files to a PACS.",
    "readers": "Run a reader study: power, build, serve, score.",
    "plan_gpu": "Predict memory and time of a training on GPUs.",
    "show": "Print a config with the meaning of its fields.",
}
"""Commands with a module of their own in femur_jax/commands."""

STAGES = {
    "train": ("stages.train:train", "Train a model, or resume its training."),
    "sample": ("stages.sample:sample", "Generate radiographs with a trained model."),
    "evaluate": ("stages.evaluate:evaluate", "Test a classifier, or judge generated radiographs."),
    "audit": ("stages.audit:audit", "Find the step from which a generator copies patients."),
    "cross_validate": ("stages.cross_validate:cross_validate", "Test a classifier by folds."),
    "study": ("study.runner:run", "Run all stages from radiographs to the report."),
    "status": ("study.status:status", "Print what a study has done, and the time left."),
    "plan": ("study.runner:plan", "Print the stages of a study that are not done."),
}
"""Commands that work in a run directory: module and function of each, and what it does."""

HELP = """\
femur: synthetic radiographs of femur fractures, and whether they are any good.

    femur COMMAND [OPTIONS]
    femur COMMAND --help

Commands:
{commands}

Examples:
    femur example
    femur study --config=configs/study.py:demo --workdir=runs/demo
    femur train --config=configs/patch_diffusion.py:tiny --workdir=runs/diffusion \\
        --config.dataset=data/femur
    femur sample runs/diffusion --config.sample.guidance=2
"""


@for_owner_only()
def main(argv: Sequence[str]) -> int:
    """Runs one command; all files that it writes are private.

    Args:
        argv: Arguments after the program's name. Without a command, a config trains its model or
            runs its study.

    Returns:
        The exit code: 0, 2 after a user's mistake or on a full disk, which cost one sentence on
        stderr, or what the command documents.
    """
    arguments = [with_underscores(argument) for argument in argv]
    if not arguments or arguments[0] in ("--help", "-h", "help"):
        print(HELP.format(commands=_table()))
        return 0
    command = ""
    if not arguments[0].startswith("-"):
        command = arguments.pop(0).replace("-", "_")
    try:
        if command in TOOLS:
            return importlib.import_module(f"femur_jax.commands.{command}").main(arguments)
        if command and command not in STAGES:
            names = ", ".join((*STAGES, *TOOLS))
            raise UserError(f"{command!r} is not a command; name one of {names}.")
        # These import JAX, which a worker and --help do without.
        from femur_jax import run_folder
        from femur_jax.commands import run_options
        from femur_jax.parallel import distributed

        if {"--help", "-h"} & set(arguments):
            print(run_options.usage(command or "train", STAGES[command or "train"][1]))
            return 0
        options = run_options.parse(command, arguments)
        run = _function(options.command)
        run_folder.keep_compiled(options.workdir)
        with distributed.together(logs=options.workdir / "logs"):
            run(options.config, options.workdir, **options.more)
    except Exception as error:
        reported = as_user_error(error)
        if not isinstance(reported, UserError):
            raise
        print(f"femur_jax: {reported}", file=sys.stderr)
        return 2
    return 0


def _function(command: str) -> Callable[..., None]:
    """The function of a stage. Its module takes seconds to import, so only one is imported."""
    from absl import logging

    # Orbax and TFDS report much that helps nobody, and log failures which they raise as well.
    logging.set_verbosity(logging.FATAL)
    module, name = STAGES[command][0].split(":")
    return getattr(importlib.import_module(f"femur_jax.{module}"), name)


def _table() -> str:
    described = {name: text for name, (_, text) in STAGES.items()}
    return "\n".join(f"    {name:15} {text}" for name, text in (described | TOOLS).items())


def console() -> None:
    """The console script `femur`."""
    sys.exit(main(sys.argv[1:]))


if __name__ == "__main__":
    console()
