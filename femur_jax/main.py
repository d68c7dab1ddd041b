"""Runs one stage of one config.

    python -m femur_jax.main --config=configs/study.py:demo --workdir=runs/demo

The config's `stage` says what is done: train, sample, evaluate, audit, cross_validate, study, or
plan, which prints the stages of a study. Any field of it can be set on the command line:
--config.train.steps=100.
"""

import sys
from pathlib import Path

from absl import app, flags, logging
from ml_collections import config_flags

from femur_jax.errors import UserError

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "A file of configs/, a colon, and a variant of it.", lock_config=True
)
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run; it is made, or gone on with.")


def main(argv: list[str]) -> int:
    """Hands the config to its stage; a user's mistake ends with one sentence and exit code 2."""
    try:
        if len(argv) > 1:
            raise UserError(f"{argv[1]!r} is no option; see --help.")
        if _CONFIG.value is None or not _WORKDIR.value:
            raise UserError("Both --config=FILE:VARIANT and --workdir=FOLDER are needed.")
        run(_CONFIG.value, Path(_WORKDIR.value))
    except UserError as error:
        print(f"femur_jax: {error}", file=sys.stderr)
        return 2
    return 0


def run(config, workdir: Path) -> None:
    """Runs the stage that `config.stage` names, under srun with the other processes."""
    # Slow to import, and of no use to --help or to a worker.
    from femur_jax import run_folder
    from femur_jax.parallel import distributed
    from femur_jax.stages.audit import audit
    from femur_jax.stages.cross_validate import run as cross_validate
    from femur_jax.stages.evaluate import evaluate
    from femur_jax.stages.sample import sample
    from femur_jax.stages.train import train
    from femur_jax.study import runner

    logging.set_verbosity(logging.ERROR)  # Orbax and TFDS tell much that helps nobody
    runs = {
        "train": train,
        "sample": sample,
        "evaluate": evaluate,
        "cross_validate": cross_validate,
        "audit": audit,
        "study": runner.run,
        "plan": runner.plan,
    }
    if config.stage not in runs:
        raise UserError(f"config.stage is {config.stage!r}; write one of {', '.join(runs)}.")
    run_folder.keep_compiled(workdir)
    with distributed.together(logs=workdir / "logs"):
        runs[config.stage](config, workdir)


def parse_flags(argv: list[str]) -> list[str]:
    """Parses the command line; a wrong config or field ends with one sentence and exit code 2."""
    try:
        remaining = flags.FLAGS(argv)
        if _CONFIG.value is not None:
            _CONFIG.value.get("stage")  # a file that cannot be loaded is told only now
    except Exception as error:  # a config file may raise anything
        text = str(error.args[0] if len(error.args) == 1 else error)
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        # The cause of an error within the file stands last, after its traceback.
        told = lines[-1:] if isinstance(error, OSError) or "Traceback" in text else lines
        print(f"femur_jax: {' '.join(told)}", file=sys.stderr)
        sys.exit(2)
    return remaining


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
