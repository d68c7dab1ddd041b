"""The study: every stage from radiographs to the report, each run once, in one go or as jobs.

WORKDIR/
  cohort/                   simulated DICOM files and labels.csv, where no radiographs are given
  real/                     the dataset ingested from them
  generators/RUN/           a run of a generator, its dataset in synthetic/; see grid.py for names
  classifiers/MIXTURE/      a run for each mixture of training data, with the seeds of the generator
                            and of the classifier
  measurements/CELL.json    the evaluation of a cell's radiographs: distances from real ones with
                            their floor, and the audit
  report.html, report.txt, tables/, results.json
  finished/STAGE            a file for each finished stage, with its wall time in seconds
WORKDIR.private/            the key of the pseudonyms, the lines of the label table, and the paths
                            of the radiographs and of the label table, which must not be shared with
                            the rest
"""

import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import jax
from ml_collections import ConfigDict

from femur_jax import run_folder
from femur_jax.data.cohort import Pseudonyms
from femur_jax.data.shards import RadiographDataset
from femur_jax.errors import UserError
from femur_jax.evaluation.generators import View, evaluate_generator
from femur_jax.evaluation.memorization import CopySearches
from femur_jax.evaluation.radiograph_set import BOTH, of_split
from femur_jax.files import has_content, make_folder, write_atomically
from femur_jax.ingest.pipeline import ingest
from femur_jax.parallel.mesh import check_batch_size, make_mesh
from femur_jax.phantom.cohort import write_cohort
from femur_jax.stages import cards
from femur_jax.stages.evaluate import evaluate, view_of_judge
from femur_jax.stages.sample import SYNTHETIC, sample
from femur_jax.stages.train import train
from femur_jax.study import results
from femur_jax.study.grid import Cell, Classifier, Grid, Run
from femur_jax.study.report import page, tables

HIDDEN = ("radiographs", "labels")
"""Fields whose paths may name a patient, so that config.json holds only digests of them. The
private folder holds the paths."""


@dataclass(frozen=True)
class Stage:
    """A step of the study that runs once; stages that do not need each other may run in parallel.

    Attributes:
        name: Name of the stage, as `plan` prints it.
        needs: Stages that must have finished before, by name.
        run: Function that runs the stage.
    """

    name: str
    needs: tuple[str, ...]
    run: Callable[[], None]


def run(config: ConfigDict, workdir: Path, *, only: str = "") -> None:
    """Runs the stages that have not finished, and prints the AUCs and the report's path.

    Args:
        config: Config of the study.
        workdir: Run directory of the study; a new one is removed where not even the first stage
            finishes.
        only: Name of the one stage to run; all where empty.

    Raises:
        UserError: A stage fails, or the run directory belongs to another config.
    """
    new = [folder for folder in (workdir, private_folder(workdir)) if not folder.exists()]
    study = open_study(config, workdir, only=only)
    try:
        for stage in study.chosen(only):
            study.run_once(stage)
    except UserError:
        if workdir in new and not study.finished:
            for folder in new:
                shutil.rmtree(folder, ignore_errors=True)
        raise
    if "report" in study.finished and only in ("", "report"):
        print((workdir / "report.txt").read_text())
        print(f"Report: {workdir / 'report.html'}")


def plan(config: ConfigDict, workdir: Path) -> None:
    """Prints a line for each unfinished stage: its name, and the stages that it waits for.

    They are separated by tabs, for launch/study.

    Raises:
        UserError: A check of `open_study` fails.
    """
    study = open_study(config, workdir, lock="plan")
    for stage in study.stages:
        if stage.name not in study.finished:
            waits = [name for name in stage.needs if name not in study.finished]
            print("\t".join([stage.name, *waits]))


def open_study(
    config: ConfigDict, workdir: Path, *, only: str = "", lock: str = "study"
) -> "Study":
    """Claims the run directory for a study, after all checks that need no data.

    Args:
        config: Config of the study.
        workdir: Run directory of the study.
        only: Name of the one stage to run, which then names the lock as well.
        lock: Name of the lock, which only one process at a time can hold.

    Raises:
        UserError: A batch does not fit the devices, the grid or `only` names something unknown, or
            the run directory belongs to another config.
    """
    for family in (config.diffusion, config.gan, config.classifier):
        check_batch_size(family.train.batch_size, make_mesh(family.mesh))
    study = Study(config, workdir)
    study.chosen(only)
    if config.primary and not study.grid.primary and jax.process_index() == 0:
        print(
            f"femur_jax: No comparison is named beforehand: config.grid lacks "
            f"{' or '.join(name for name in config.primary if name not in config.grid)}.",
            file=sys.stderr,
        )
    run_folder.claim(
        workdir,
        config,
        stage=only or lock,
        hidden=dict.fromkeys(HIDDEN, study.path_digest),
    )
    if jax.process_index() == 0:
        study.keep_paths()
    return study


def private_folder(workdir: Path) -> Path:
    """The folder next to a study's run directory for what must not be shared with it."""
    return workdir.resolve().with_name(f"{workdir.resolve().name}.private")


class Study:
    """The stages of one study."""

    def __init__(self, config: ConfigDict, workdir: Path):
        """Reads the grid; runs nothing yet.

        Raises:
            UserError: The grid is empty, or names an unknown arm.
        """
        self.config, self.workdir = config, workdir
        self.grid = Grid(config, workdir)

    @property
    def key_file(self) -> Path:
        """The key of the patients' pseudonyms."""
        return private_folder(self.workdir) / "pseudonyms.key"

    def path_digest(self, path: str) -> str:
        """A keyed digest of a path, which stands for it in config.json."""
        make_folder(self.key_file.parent)
        return Pseudonyms(self.key_file)("path", path)

    def keep_paths(self) -> None:
        """Keeps the given paths for later commands, whose command line others can see."""
        for name in HIDDEN:
            path = self.config[name]
            if path and not run_folder.is_hidden(path):
                write_atomically(self.key_file.with_name(f"{name}.path"), os.fsencode(path))

    def given_path(self, name: str) -> str:
        """The path in one of the HIDDEN fields, "" where none is given.

        Raises:
            UserError: Only a digest of the path is left.
        """
        value = self.config[name]
        if not run_folder.is_hidden(value):
            return value
        file = self.key_file.with_name(f"{name}.path")
        if not has_content(file):
            raise UserError(
                f"{file.parent} has lost the path of config.{name}; add --config.{name} as in the "
                "study's first command."
            )
        return os.fsdecode(file.read_bytes())

    @cached_property
    def stages(self) -> list[Stage]:
        """All stages, each after those that it needs."""
        phantoms = [] if self.config.radiographs else [Stage("phantoms", (), self.phantoms)]
        data = Stage("ingest", tuple(s.name for s in phantoms), self.ingest)
        runs = [run for cell in self.grid.cells for run in cell.runs]
        trains = [
            Stage(
                f"train {run}",
                (data.name,),
                partial(train, self.grid.generator(run), self.grid.folder(run)),
            )
            for run in runs
        ]
        samples = [Stage(f"sample {r}", (f"train {r}",), partial(self.sample, r)) for r in runs]
        classify = [
            Stage(
                f"classifier {classifier}",
                (
                    data.name,
                    *(f"sample {run}" for run in classifier.runs),
                    *([f"classifier {classifier.before}"] if classifier.before else []),
                ),
                partial(self.classify, classifier),
            )
            for mixture in (*self.grid.mixtures, *self.grid.sized)
            for of_set in self.grid.classifiers(mixture)
            for classifier in of_set
        ]
        measure = [
            Stage(
                f"measure {cell}",
                (f"classifier {self.grid.judge}", *(f"sample {run}" for run in cell.runs)),
                partial(self.measure, cell),
            )
            for cell in self.grid.cells
        ]
        report = Stage("report", tuple(s.name for s in (*classify, *measure)), self.report)
        return [*phantoms, data, *trains, *samples, *classify, *measure, report]

    def chosen(self, only: str) -> list[Stage]:
        """All stages, or the one that `only` names.

        Raises:
            UserError: There is no stage of that name, or others must finish before.
        """
        if not only:
            return self.stages
        named = [stage for stage in self.stages if stage.name == only]
        if not named:
            raise UserError(
                f"The study has no stage {only!r}; femur plan {self.workdir} prints their names."
            )
        missing = [name for name in named[0].needs if name not in self.finished]
        if missing and only not in self.finished:
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise UserError(
                f"'{only}' needs '{missing[0]}'{more}, not finished in {self.workdir}; "
                f'run it with --only="{missing[0]}" first.'
            )
        return named

    @property
    def finished(self) -> dict[str, float]:
        """Wall seconds of the finished stages, to which other processes may add."""
        files = {stage.name: self.workdir / "finished" / stage.name for stage in self.stages}
        return {name: json.loads(f.read_text()) for name, f in files.items() if has_content(f)}

    def run_once(self, stage: Stage) -> None:
        """Runs a stage unless it has finished, and records its wall time."""
        seconds = self.finished.get(stage.name)
        if seconds is not None:
            print(f"{stage.name}: done before, in {seconds:.0f} s")
            return
        print(f"{stage.name} ...", flush=True)
        start_time = time.monotonic()
        stage.run()
        if jax.process_index() == 0:
            file = self.workdir / "finished" / stage.name
            file.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(file, json.dumps(round(time.monotonic() - start_time, 1)))

    # A folder that appears only when it is complete may exist although its stage is not recorded as
    # finished, where the process was killed in between.

    def phantoms(self) -> None:
        folder = self.workdir / "cohort"
        if not folder.exists():
            write_cohort(folder, **self.config.phantom, seed=self.config.seed)

    def ingest(self) -> None:
        if self.grid.real.exists():
            return
        cohort = self.workdir / "cohort"
        summary = ingest(
            Path(self.given_path("radiographs") or cohort),
            Path(self.given_path("labels") or cohort / "labels.csv"),
            self.grid.real,
            key_file=self.key_file,
            seed=self.config.seed,
            **self.config.ingest,
        )
        print(summary)

    def sample(self, run: Run) -> None:
        if not (self.grid.folder(run) / SYNTHETIC).exists():
            sample(self.grid.generator(run), self.grid.folder(run))

    def classify(self, classifier: Classifier) -> None:
        config, folder = self.grid.classifier(classifier), self.grid.classifier_folder(classifier)
        train(config, folder)
        evaluate(config, folder)

    def measure(self, cell: Cell) -> None:
        """Evaluates a cell's radiographs, and writes the cards of its runs."""
        datasets = [RadiographDataset(self.grid.synthetic(run)) for run in cell.runs]
        synthetic = of_split(datasets, "train")
        by = self.grid.generator(cell.runs[0]).data.draw.by
        evaluation = evaluate_generator(
            self.real,
            synthetic,
            self.view,
            by=by,
            audits={
                label: self.searches.copies(synthetic.of(label), by=by)
                for label in synthetic.labels
            },
        )
        for run, dataset in zip(cell.runs, datasets, strict=True):
            config, folder = self.grid.generator(run), self.grid.folder(run)
            cards.write(config, folder, dataset, evaluation.of(run.label or BOTH))
        file = self.grid.evaluation_file(cell)
        file.parent.mkdir(exist_ok=True)
        write_atomically(file, json.dumps(evaluation.to_json(), indent=1))

    @cached_property
    def real(self) -> RadiographDataset:
        """The real dataset."""
        return RadiographDataset(self.grid.real)

    @cached_property
    def searches(self) -> CopySearches:
        """The searches for copies, which cells of one scope share."""
        return CopySearches(self.real, self.view.extractor)

    @cached_property
    def view(self) -> View:
        """The judge's view, with the features of a network whose weights are given."""
        judge = self.grid.judge
        folder = self.grid.classifier_folder(judge)
        return view_of_judge(self.grid.classifier(judge), folder, self.config.weights)

    def report(self) -> None:
        study_results = results.gather(self.grid, self.finished)
        page.write_report(study_results, self.workdir / "report.html")
        tables.write_tables(study_results, self.workdir / "tables")
        write_atomically(self.workdir / "results.json", tables.as_json(study_results))
        write_atomically(self.workdir / "report.txt", tables.auc_table(study_results.classifiers))
