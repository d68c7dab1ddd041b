"""The study: every stage from radiographs to the report, each done once.

WORKDIR/
  cohort/                 simulated DICOM files and labels.csv, where no radiographs are given
  real/                   the dataset made of them
  diffusion/, gan/        a run each, with its dataset in synthetic/
  classifier/NAME/        a run for each mixture of training data
  report.html, report.txt, tables/
  finished.json           the stages that are done, with their wall time in seconds
"""

import json
import shutil
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from femur_jax import results, stages
from femur_jax import workdir as workdirs
from femur_jax.config import Config
from femur_jax.data.ingest import ingest
from femur_jax.data.shards import RadiographDataset
from femur_jax.errors import UserError
from femur_jax.evaluation import report
from femur_jax.files import write_atomically
from femur_jax.parallel.mesh import check_batch_size, make_mesh
from femur_jax.phantom.cohort import write_cohort

GENERATORS = ("diffusion", "gan")

MIXTURES = (("real",), ("diffusion",), ("gan",), ("real", "diffusion"), ("real", "gan"))
"""What classifiers are trained on; all are tested on real held-out patients."""


def run(config: Config, workdir: Path) -> None:
    """Does what is not yet done, and ends with the table of AUCs and the report's path.

    Raises:
        UserError: From any stage; or the workdir belongs to another config. A new workdir goes
            again where not even the first stage could finish.
    """
    for part in (config.diffusion, config.gan, config.classifier):
        check_batch_size(part.train.batch_size, make_mesh(part.mesh))
    is_new = not workdir.exists()
    workdirs.claim(workdir, config, stage="study", hidden=("radiographs", "labels"))
    study = Study(config, workdir)
    try:
        for name, stage in study.stages().items():
            study.once(name, stage)
    except UserError:
        if is_new and not study.finished:
            shutil.rmtree(workdir)
        raise
    print((workdir / "report.txt").read_text())
    print(f"Report: {workdir / 'report.html'}")


class Study:
    """The stages of one study, and where each leaves its result.

    Attributes:
        finished: Wall seconds of the stages that are done.
    """

    def __init__(self, config: Config, workdir: Path):
        self.config, self.workdir = config, workdir
        self._log = workdir / "finished.json"
        self.finished: dict[str, float] = {}
        if self._log.is_file():
            self.finished = json.loads(self._log.read_text())

    def stages(self) -> dict[str, Callable[[], None]]:
        """All stages in their order."""
        result: dict[str, Callable[[], None]] = {}
        if not self.config.radiographs:
            result["phantoms"] = self.phantoms
        result["ingest"] = self.ingest
        for name in GENERATORS:
            config, folder = self.generator(name), self.workdir / name
            result[f"train {name}"] = partial(stages.train, config, folder)
            result[f"sample {name}"] = partial(self.sample, config, folder)
        for mixture in MIXTURES:
            result[f"classifier {'+'.join(mixture)}"] = partial(self.classify, mixture)
        result["report"] = self.report
        return result

    def once(self, name: str, stage: Callable[[], None]) -> None:
        """Runs a stage unless it has finished, and notes its wall time."""
        if name in self.finished:
            print(f"{name}: done before, in {self.finished[name]:.0f} s")
            return
        print(f"{name} ...", flush=True)
        begin = time.monotonic()
        stage()
        self.finished[name] = round(time.monotonic() - begin, 1)
        write_atomically(self._log, json.dumps(self.finished, indent=1))

    # A folder that appears only when it is complete may be there without its stage being
    # noted as finished, when the process was killed in between.

    def phantoms(self) -> None:
        folder = self.workdir / "cohort"
        if not folder.exists():
            write_cohort(folder, **self.config.phantom, seed=self.config.seed)

    def ingest(self) -> None:
        if self.dataset("real").exists():
            return
        cohort = self.workdir / "cohort"
        summary = ingest(
            Path(self.config.radiographs or cohort),
            Path(self.config.labels or cohort / "labels.csv"),
            self.dataset("real"),
            key_file=self.workdir / "pseudonyms.key",
            seed=self.config.seed,
            **self.config.ingest,
        )
        print(summary)

    def sample(self, config: Config, folder: Path) -> None:
        if not (folder / stages.SYNTHETIC).exists():
            stages.sample(config, folder)

    def classify(self, mixture: Sequence[str]) -> None:
        config, folder = self.classifier(mixture), self.classifier_folder(mixture)
        stages.train(config, folder)
        stages.evaluate(config, folder)

    def report(self) -> None:
        sources = ("real", *GENERATORS)
        found = results.gather(
            datasets={name: RadiographDataset(self.dataset(name)) for name in sources},
            runs={name: (self.generator(name), self.workdir / name) for name in GENERATORS},
            classifiers={m: (self.classifier(m), self.classifier_folder(m)) for m in MIXTURES},
            finished=self.finished,
            config=self.config,
        )
        report.write_report(found, self.workdir / "report.html")
        report.write_tables(found, self.workdir / "tables")
        write_atomically(self.workdir / "report.txt", report.auc_table(found.classifiers))

    def dataset(self, source: str) -> Path:
        """The folder of the real or a synthetic dataset."""
        return self.workdir / ("real" if source == "real" else f"{source}/{stages.SYNTHETIC}")

    def generator(self, name: str) -> Config:
        """The config of a generator's run."""
        config = self.config[name].copy_and_resolve_references()
        config.update(dataset=str(self.dataset("real")), seed=self.config.seed)
        return config

    def classifier(self, mixture: Sequence[str]) -> Config:
        """The config of a classifier's run."""
        config = self.config.classifier.copy_and_resolve_references()
        config.update(
            dataset=str(self.dataset("real")),
            train_datasets=tuple(str(self.dataset(source)) for source in mixture),
            seed=self.config.seed,
        )
        return config

    def classifier_folder(self, mixture: Sequence[str]) -> Path:
        """The workdir of a classifier's run."""
        return self.workdir / "classifier" / "+".join(mixture)
