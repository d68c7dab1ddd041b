"""The study's grid: the generators that are trained, and their names.

An arm is a model, a strategy for sizes, and one model for both classes or one per class:
`diffusion-pyramid-joint`. A cell is an arm with a seed, `diffusion-pyramid-joint-0`. It is trained
in one run of the same name, or in one for each class, `diffusion-pyramid-per_class-0-AFF`.
"""

import itertools
from dataclasses import dataclass
from pathlib import Path

from ml_collections import ConfigDict

from femur_jax.data.radiograph import LABELS
from femur_jax.data.strategies import STRATEGIES
from femur_jax.errors import UserError
from femur_jax.stages.sample import SYNTHETIC

REAL_DATA = "real"
"""Name of the real dataset among the generators."""

AXES = {
    "model": ("diffusion", "gan"),
    "strategy": STRATEGIES,
    "classes": ("joint", "per_class"),
}


@dataclass(frozen=True)
class Arm:
    """One way to generate radiographs; its fields are the grid's axes, see AXES."""

    model: str
    strategy: str
    classes: str

    @classmethod
    def parse(cls, name: str, field: str = "config.grid") -> "Arm":
        """Inverts `str`.

        Args:
            name: Name of an arm.
            field: Field that holds the name, for the message.

        Raises:
            UserError: There is no such arm.
        """
        known = {str(arm): arm for arm in every_arm()}
        if name not in known:
            raise UserError(f"{field} names {name!r}; write some of {', '.join(known)}.")
        return known[name]

    def __str__(self) -> str:
        return "-".join((self.model, self.strategy, self.classes))


def every_arm() -> list[Arm]:
    """The whole grid. GANs have one strategy, since they generate images of one size."""
    arms = [Arm(*values) for values in itertools.product(*AXES.values())]
    return [arm for arm in arms if arm.model != "gan" or arm.strategy == "letterbox"]


@dataclass(frozen=True)
class Run:
    """The training of one generator for one class, or ("") for both."""

    arm: Arm
    seed: int
    label: str

    def __str__(self) -> str:
        return f"{self.arm}-{self.seed}" + (f"-{self.label}" if self.label else "")


@dataclass(frozen=True)
class Cell:
    """An arm with a seed, which yields one set of synthetic radiographs of both classes."""

    arm: Arm
    seed: int

    def __str__(self) -> str:
        return f"{self.arm}-{self.seed}"

    @property
    def runs(self) -> list[Run]:
        """The runs that are trained for the cell."""
        labels = ("",) if self.arm.classes == "joint" else LABELS
        return [Run(self.arm, self.seed, label) for label in labels]


@dataclass(frozen=True)
class Mixture:
    """The training data of some classifiers: real radiographs, those of an arm, or both.

    Attributes:
        real: Whether they are trained on real radiographs.
        arm: Generator of the synthetic ones; None without any.
        per_label: Most radiographs of each class, of the synthetic ones where there are both kinds;
            0 for all.
        is_pretrained: Whether they are trained on the synthetic ones first and on the real ones
            then, not on both together.
        is_validated_on_rest: Whether radiographs that `per_label` leaves out choose the checkpoint,
            in place of real validation patients.
    """

    real: bool
    arm: Arm | None = None
    per_label: int = 0
    is_pretrained: bool = False
    is_validated_on_rest: bool = False

    def __str__(self) -> str:
        if self.is_pretrained:
            return f"{self.arm}_then_{REAL_DATA}"
        sources = "+".join([REAL_DATA] * self.real + ([str(self.arm)] if self.arm else []))
        return (
            sources
            + (f"_{self.per_label}" if self.per_label else "")
            + ("_rest" if self.is_validated_on_rest else "")
        )


@dataclass(frozen=True)
class Classifier:
    """A classifier that is trained with its own seed on a mixture.

    Attributes:
        mixture: Training data in general.
        cell: Arm and seed that its synthetic radiographs come from; None without any.
        seed: Seed of the classifier.
    """

    mixture: Mixture
    cell: Cell | None
    seed: int

    def __str__(self) -> str:
        return "-".join(
            [str(self.mixture)] + ([str(self.cell.seed)] if self.cell else []) + [str(self.seed)]
        )

    @property
    def runs(self) -> list[Run]:
        """The runs that generate its synthetic radiographs."""
        return self.cell.runs if self.cell else []

    @property
    def before(self) -> "Classifier | None":
        """The classifier of synthetic radiographs alone that it starts from."""
        if not self.mixture.is_pretrained:
            return None
        return Classifier(Mixture(False, self.mixture.arm), self.cell, self.seed)


class Grid:
    """All runs of a study, with their configs and folders.

    Attributes:
        arms: The arms that the config names.
        cells: Each arm with each of its seeds.
        mixtures: Training data of the classifiers: real radiographs, as many of them as there are
            synthetic ones, those of each arm, both, one after the other, and those of each arm
            again, validated on themselves.
        sized: The first four of them with fewer radiographs, see `config.sizes`; of one generator's
            training.
        primary: The two arms of the comparison that was named beforehand; None without one, and
            where the grid lacks an arm of it.
    """

    def __init__(self, config: ConfigDict, workdir: Path):
        """Reads the arms, the seeds and the sizes of the config.

        Raises:
            UserError: One is empty, or names an unknown arm; or `config.primary` is not two
                arms, or `config.sizes` or `config.relevant_difference` is out of range.
        """
        if not (config.grid and config.seeds and config.classifier_seeds):
            raise UserError(
                "config.grid, config.seeds and config.classifier_seeds need at least one entry "
                "each."
            )
        if set(config.seeds) & set(config.primary_seeds):
            raise UserError(
                f"config.primary_seeds is {tuple(config.primary_seeds)}, and some are in "
                "config.seeds already; give further ones, or () for none."
            )
        if any(size < 1 for size in config.sizes):
            raise UserError(
                f"config.sizes is {tuple(config.sizes)}; give numbers of radiographs of each "
                "class, or () for none."
            )
        self.config, self.workdir = config, workdir
        self.arms = [Arm.parse(name) for name in config.grid]
        self.primary = self._primary()
        if not 0 < config.relevant_difference < 0.5:
            raise UserError(
                f"config.relevant_difference is {config.relevant_difference}; give a difference of "
                "AUC between 0 and 0.5."
            )
        self.cells = [Cell(arm, seed) for arm in self.arms for seed in self.seeds(arm)]
        self.mixtures = [
            Mixture(True),
            *dict.fromkeys(self.matched(arm) for arm in self.arms),
            *(Mixture(False, arm) for arm in self.arms),
            *(Mixture(True, arm) for arm in self.arms),
            *(Mixture(True, arm, is_pretrained=True) for arm in self.arms if config.pretraining),
            *(self._without_patients(arm) for arm in self.arms if config.synthetic_validation),
        ]
        smaller = [
            Mixture(*sources, per_label=size)
            for sources in [(True, None), *((r, arm) for r in (False, True) for arm in self.arms)]
            for size in sorted(set(config.sizes))
            if not sources[1] or size < config[sources[1].model].sample.per_label
        ]
        self.sized = [mixture for mixture in smaller if mixture not in self.mixtures]

    def _primary(self) -> tuple[Arm, Arm] | None:
        named = [Arm.parse(name, "config.primary") for name in self.config.primary]
        if named and (len(named) != 2 or named[0] == named[1]):
            raise UserError(
                f"config.primary is {', '.join(self.config.primary)}; name two arms of "
                "config.grid, or write () for no comparison that is named beforehand."
            )
        return (named[0], named[1]) if named and set(named) <= set(self.arms) else None

    def seeds(self, arm: Arm) -> tuple[int, ...]:
        """The seeds of an arm; the arms of the primary comparison have more than the others."""
        more = self.config.primary_seeds if arm in (self.primary or ()) else ()
        return (*self.config.seeds, *more)

    def _without_patients(self, arm: Arm) -> Mixture:
        """An arm without real validation patients: a fifth of its radiographs takes their place."""
        most = self.config[arm.model].sample.per_label
        return Mixture(False, arm, per_label=most - max(most // 5, 1), is_validated_on_rest=True)

    def matched(self, arm: Arm) -> Mixture:
        """The control of an arm: as many real radiographs of each class as synthetic ones."""
        return Mixture(True, per_label=self.config[arm.model].sample.per_label)

    def classifiers(self, mixture: Mixture) -> list[list[Classifier]]:
        """The classifiers of a mixture, with every seed: a list for each set of radiographs.

        There are as many sets as seeds of generators, one in `sized`, or one of real radiographs
        alone.
        """
        cells: list[Cell | None] = [None]
        if mixture.arm:
            seeds = self.seeds(mixture.arm)[: 1 if mixture in self.sized else None]
            cells = [Cell(mixture.arm, seed) for seed in seeds]
        return [[Classifier(mixture, c, s) for s in self.config.classifier_seeds] for c in cells]

    @property
    def judge(self) -> Classifier:
        """The classifier trained on real radiographs that judges the synthetic ones."""
        return self.classifiers(self.mixtures[0])[0][0]

    @property
    def real(self) -> Path:
        """The folder of the real dataset."""
        return self.workdir / REAL_DATA

    def folder(self, run: Run) -> Path:
        """The run directory of a generator."""
        return self.workdir / "generators" / str(run)

    def synthetic(self, run: Run) -> Path:
        """The dataset that a run has generated."""
        return self.folder(run) / SYNTHETIC

    def classifier_folder(self, classifier: Classifier) -> Path:
        """The run directory of a classifier."""
        return self.workdir / "classifiers" / str(classifier)

    def evaluation_file(self, cell: Cell) -> Path:
        """The evaluation of a cell's synthetic radiographs."""
        return self.workdir / "measurements" / f"{cell}.json"

    def generator(self, run: Run) -> ConfigDict:
        """The config of a generator's run.

        The models of an arm share its steps, so all arms of a model are trained equally long. A
        GAN's burn-in, which is counted in images, shrinks with them.
        """
        config = self.config[run.arm.model].copy_and_resolve_references()
        config.update(dataset=str(self.real), seed=run.seed)
        if run.label:
            config.data.draw.label_shares = tuple(float(label == run.label) for label in LABELS)
            config.train.steps //= len(LABELS)
            if run.arm.model == "gan":
                config.train.burn_in_images //= len(LABELS)
        config.sample.seed = run.seed
        if run.arm.model == "diffusion":
            config.data.strategy = run.arm.strategy
        return config

    def classifier(self, classifier: Classifier) -> ConfigDict:
        """The config of a classifier's run."""
        config = self.config.classifier.copy_and_resolve_references()
        folders = [self.real] * classifier.mixture.real
        folders += [self.synthetic(run) for run in classifier.runs]
        config.update(
            dataset=str(self.real),
            train_datasets=tuple(str(folder) for folder in folders),
            seed=classifier.seed,
        )
        if classifier.mixture.is_validated_on_rest:
            config.data.validated_on = "rest"
        if classifier.before:
            config.train_datasets = (str(self.real),)
            config.pretrained = str(self.classifier_folder(classifier.before))
        if most := classifier.mixture.per_label:
            both = classifier.mixture.real and classifier.runs
            config.data.per_label = (0,) * bool(both) + (most,) * (len(folders) - bool(both))
        return config
