"""The stage that finds out from which step on a generator repeats training radiographs."""

import dataclasses
import json
from pathlib import Path

from ml_collections import ConfigDict

from femur_jax import run_folder
from femur_jax.errors import UserError
from femur_jax.evaluation.generators import open_synthetic
from femur_jax.evaluation.onset import before_onset, onset_table
from femur_jax.files import write_atomically
from femur_jax.progress import Progress
from femur_jax.stages.evaluate import make_extractor
from femur_jax.stages.evaluators import Copies
from femur_jax.stages.sample import average, write_samples
from femur_jax.stages.tasks import make_generator
from femur_jax.training import loop
from femur_jax.training.checkpoint import Snapshots
from femur_jax.training.monitor import event_writer

AUDIT = "audit"


def audit(config: ConfigDict, workdir: Path) -> None:
    """Audits radiographs of each snapshot of a generator's run.

    The results go to `workdir/audit.json`, to TensorBoard and as a table to the terminal. The
    radiographs of each snapshot stay in `workdir/audit/`, where a killed run resumes with them.

    Raises:
        UserError: The run trains a classifier, or has no snapshots.
    """
    task = make_generator(config)
    run_folder.claim(workdir, config, stage="audit", free=loop.FREE_FIELDS)
    state = loop.restore(task, config, workdir)
    steps = Snapshots(workdir / loop.SNAPSHOTS).steps if (workdir / loop.SNAPSHOTS).is_dir() else []
    if not steps:
        raise UserError(
            f"{workdir} has no snapshots to audit; train with --config.train.snapshot_every=STEPS."
        )
    copies = Copies(
        task, config, make_extractor(config.evaluate.weights), config.evaluate.copies_every
    )
    events = event_writer(workdir / AUDIT)
    points = []
    for step in Progress(steps, "audit"):
        folder = workdir / AUDIT / f"step_{step}"
        if not folder.exists():
            params = average(state, config, workdir, step)
            write_samples(task, config, params, step, folder)
        points.append(copies.audit(open_synthetic(folder), step))
        if events:
            events.write_scalars(
                step, {f"audit/{name}": float(v) for name, v in vars(points[-1]).items()}
            )
    if events:
        events.close()
    result = {
        "before_onset": before_onset(points),
        "points": [dataclasses.asdict(point) for point in points],
    }
    write_atomically(workdir / f"{AUDIT}.json", json.dumps(result, indent=1))
    print(onset_table(points))
