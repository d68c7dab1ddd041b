"""The study: every stage from radiographs to the report, each done once, in one go or as jobs.

WORKDIR/
  cohort/                   simulated DICOM files and labels.csv, where no radiographs are given
  real/                     the dataset made of them
  generators/RUN/           a run of a generator, its dataset in synthetic/; see grid.py for names
  classifiers/MIXTURE/      a run for each mixture of training data and seed
  measurements/CELL.json    how far a cell's radiographs are from real ones, and whether they are
                            copies; real.json: the same of other real ones
  report.html, report.txt, tables/, results.json
  finished/STAGE            a file for each stage that is done, with its wall time in seconds
"""

import json
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, partial
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict

from femur_jax import run_folder
from femur_jax.classifier.task import ClassifierTask, Predictions, predict
from femur_jax.data.cohort import Pseudonyms
from femur_jax.data.shards import RadiographDataset
from femur_jax.errors import UserError
from femur_jax.evaluation import measurement, radiograph_set
from femur_jax.evaluation.features import network, radiograph_features
from femur_jax.files import write_atomically
from femur_jax.ingest.pipeline import ingest
from femur_jax.parallel.mesh import check_batch_size, make_mesh
from femur_jax.phantom.cohort import write_cohort
from femur_jax.stages import cards
from femur_jax.stages.evaluate import evaluate
from femur_jax.stages.sample import SYNTHETIC, sample
from femur_jax.stages.tasks import make_task
from femur_jax.stages.train import train
from femur_jax.study import results
from femur_jax.study.grid import REAL, Cell, Grid, Mixture, Run
from femur_jax.study.report import page, tables
from femur_jax.training import loop

HIDDEN = ("radiographs", "labels")
"""Fields whose paths may name a patient, so that config.json holds only digests of them."""


@dataclass(frozen=True)
class Stage:
    """A part of the study that is done once; stages may run at once, but for what they need.

    Attributes:
        needs: Names of the stages that must have finished before.
    """

    name: str
    needs: tuple[str, ...]
    run: Callable[[], None]


def run(config: ConfigDict, workdir: Path, *, only: str = "") -> None:
    """Runs the stages that are not done, or one; ends with the AUCs and the report's path.

    Args:
        config: Config of the study.
        workdir: Run directory of the study.
        only: Name of one stage, or "" for all.

    Raises:
        UserError: From any stage; or the workdir belongs to another config. A new workdir goes
            again where not even the first stage could finish.
    """
    is_new = not workdir.exists()
    study = begin(config, workdir, only)
    try:
        for stage in study.chosen(only):
            study.once(stage)
    except UserError:
        if is_new and not study.finished:
            shutil.rmtree(workdir)
        raise
    if "report" in study.finished and only in ("", "report"):
        print((workdir / "report.txt").read_text())
        print(f"Report: {workdir / 'report.html'}")


def plan(config: ConfigDict, workdir: Path) -> None:
    """Prints a line for each stage that is not done: its name, and those that it waits for.

    They are separated by tabs, for launch/study.

    Raises:
        UserError: As `run`, before anything is made.
    """
    study = begin(config, workdir, stage="plan")
    for stage in study.stages:
        if stage.name not in study.finished:
            waits = [name for name in stage.needs if name not in study.finished]
            print("\t".join([stage.name, *waits]))


def begin(config: ConfigDict, workdir: Path, only: str = "", *, stage: str = "study") -> "Study":
    """Claims the workdir for a study, after all that can be checked before.

    Raises:
        UserError: A batch does not fit the devices, the grid or `only` names what is not there, or
            the workdir belongs to another config.
    """
    for part in (config.diffusion, config.gan, config.classifier):
        check_batch_size(part.train.batch_size, make_mesh(part.mesh))
    study = Study(config, workdir)
    study.chosen(only)
    run_folder.claim(
        workdir,
        config,
        stage=only or stage,
        hidden=dict.fromkeys(HIDDEN, study.path_digest),
    )
    return study


class Study:
    """The stages of one study, and where each leaves its result."""

    def __init__(self, config: ConfigDict, workdir: Path):
        """Lays the stages out; does nothing yet.

        Raises:
            UserError: The grid is empty, or names what is not there.
        """
        self.config, self.workdir = config, workdir
        self.grid = Grid(config, workdir)

    @property
    def key_file(self) -> Path:
        """The key of the patients' pseudonyms."""
        return self.workdir / "pseudonyms.key"

    def path_digest(self, path: str) -> str:
        """A keyed digest of a path, which stands for it in config.json."""
        self.workdir.mkdir(parents=True, exist_ok=True)
        return Pseudonyms(self.key_file)("path", path)

    @cached_property
    def stages(self) -> list[Stage]:
        """All stages, none before one that it needs."""
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
                f"classifier {mixture}",
                (data.name, *(f"sample {run}" for run in mixture.runs)),
                partial(self.classify, mixture),
            )
            for mixture in self.grid.mixtures
        ]
        measure = [Stage(f"measure {REAL}", (f"classifier {self.grid.judge}",), self.measure_real)]
        measure += [
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
        """All stages, or one by its name.

        Raises:
            UserError: There is none of that name, or others must be done before.
        """
        if not only:
            return self.stages
        found = [stage for stage in self.stages if stage.name == only]
        if not found:
            raise UserError(
                f"The study has no stage {only!r}; femur plan {self.workdir} prints their names."
            )
        missing = [name for name in found[0].needs if name not in self.finished]
        if missing and found[0].name not in self.finished:
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise UserError(
                f"'{found[0].name}' needs '{missing[0]}'{more}, not done in {self.workdir}; "
                f'run it with --only="{missing[0]}" first.'
            )
        return found

    @property
    def finished(self) -> dict[str, float]:
        """Wall seconds of the stages that are done; other processes may be adding to them."""
        files = {stage.name: self.workdir / "finished" / stage.name for stage in self.stages}
        return {name: json.loads(f.read_text()) for name, f in files.items() if f.is_file()}

    def once(self, stage: Stage) -> None:
        """Runs a stage unless it has finished, and notes its wall time."""
        seconds = self.finished.get(stage.name)
        if seconds is not None:
            print(f"{stage.name}: done before, in {seconds:.0f} s")
            return
        print(f"{stage.name} ...", flush=True)
        begin = time.monotonic()
        stage.run()
        if jax.process_index() == 0:
            file = self.workdir / "finished" / stage.name
            file.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(file, json.dumps(round(time.monotonic() - begin, 1)))

    # A folder that appears only when it is complete may be there without its stage being
    # noted as finished, when the process was killed in between.

    def phantoms(self) -> None:
        folder = self.workdir / "cohort"
        if not folder.exists():
            write_cohort(folder, **self.config.phantom, seed=self.config.seed)

    def ingest(self) -> None:
        if self.grid.real.exists():
            return
        for name in HIDDEN:
            if run_folder.is_hidden(self.config[name]):
                raise UserError(
                    f"{self.workdir} keeps no path of patients' files; add --config.{name} as in "
                    "the study's first command."
                )
        cohort = self.workdir / "cohort"
        summary = ingest(
            Path(self.config.radiographs or cohort),
            Path(self.config.labels or cohort / "labels.csv"),
            self.grid.real,
            key_file=self.key_file,
            seed=self.config.seed,
            **self.config.ingest,
        )
        print(summary)

    def sample(self, run: Run) -> None:
        if not (self.grid.folder(run) / SYNTHETIC).exists():
            sample(self.grid.generator(run), self.grid.folder(run))

    def classify(self, mixture: Mixture) -> None:
        config, folder = self.grid.classifier(mixture), self.grid.classifier_folder(mixture)
        train(config, folder)
        evaluate(config, folder)

    def measure_real(self) -> None:
        """The floor: validation patients against test patients."""
        validation, test = (
            radiograph_set.of_split([self.real_data], split) for split in ("validation", "test")
        )
        self._write_measurement(REAL, measurement.measure(test, validation, self.view))

    def measure(self, cell: Cell) -> None:
        """A cell's radiographs against real ones; their cards tell what was found."""
        made = [RadiographDataset(self.grid.synthetic(run)) for run in cell.runs]
        found = measurement.measure(
            radiograph_set.of_split([self.real_data], "test"),
            radiograph_set.of_split(made, "train"),
            self.view,
            train=radiograph_set.of_split([self.real_data], "train"),
            held_out=radiograph_set.of_split([self.real_data], "validation", "test"),
        )
        for run, dataset in zip(cell.runs, made, strict=True):
            config, folder = self.grid.generator(run), self.grid.folder(run)
            cards.write(config, folder, dataset, found.by_label(run.label))
        self._write_measurement(str(cell), found)

    def _write_measurement(self, name: str, found: measurement.Measurement) -> None:
        file = self.grid.measurement_file(name)
        file.parent.mkdir(exist_ok=True)
        write_atomically(file, json.dumps(found.to_json(), indent=1))

    @cached_property
    def view(self) -> measurement.View:
        """Logits of the judge; and its features, or those of a network whose weights are given."""
        config = self.grid.classifier(self.grid.judge)
        task = make_task(config)
        assert isinstance(task, ClassifierTask)
        params = loop.restore(task, config, self.grid.classifier_folder(self.grid.judge)).ema

        @cache
        def seen(dataset: RadiographDataset, radiographs: tuple[int, ...]) -> Predictions:
            return predict(task, params, dataset, radiographs)

        def logits(dataset: RadiographDataset, radiographs: Sequence[int]) -> np.ndarray:
            return seen(dataset, tuple(radiographs)).logit

        def features(dataset: RadiographDataset, radiographs: Sequence[int]) -> np.ndarray:
            return seen(dataset, tuple(radiographs)).features

        name = "the last layer of the classifier trained on the real train split"
        if self.config.weights:
            extractor = network(Path(self.config.weights))
            features, name = partial(radiograph_features, extractor), extractor.name
        return measurement.View(logits, features, name)

    @cached_property
    def real_data(self) -> RadiographDataset:
        """The real dataset, once it has been made."""
        return RadiographDataset(self.grid.real)

    def report(self) -> None:
        found = results.gather(self.grid, self.finished)
        page.write_report(found, self.workdir / "report.html")
        tables.write_tables(found, self.workdir / "tables")
        write_atomically(self.workdir / "results.json", tables.as_json(found))
        write_atomically(self.workdir / "report.txt", tables.auc_table(found.classifiers))
