"""The stage that selects synthetic radiographs that may be given away, and writes them to a folder.

The audit flags radiographs that are near to patients, and a ruler rejects those that do not look
like radiographs. What is left is audited again, and is released only if that audit accuses nothing.
"""

import datetime
import shutil
from collections.abc import Container
from pathlib import Path

from ml_collections import ConfigDict

from femur_jax import run_folder
from femur_jax.data.manifest import MANIFEST
from femur_jax.data.shards import RadiographDataset
from femur_jax.errors import UserError
from femur_jax.evaluation.contrasts import auc_difference
from femur_jax.evaluation.generators import Evaluation, View, evaluate_generator, open_synthetic
from femur_jax.evaluation.memorization import Copies, CopySearch, Scope
from femur_jax.evaluation.radiograph_set import RadiographSet, of_split
from femur_jax.evaluation.statistics import roc_auc
from femur_jax.files import has_content, new_folder, require_absent
from femur_jax.progress import Progress
from femur_jax.release import card as release_card
from femur_jax.release import selection
from femur_jax.release.folder import DATASET, complete
from femur_jax.release.quality import Quality
from femur_jax.release.review import build_review, rejected_in
from femur_jax.stages import cards
from femur_jax.stages.evaluate import held_out_predictions, make_extractor
from femur_jax.stages.sample import SYNTHETIC
from femur_jax.stages.train import train
from femur_jax.training import loop


def release(
    source: Path,
    out: Path,
    *,
    license_name: str,
    url: str,
    creator: str,
    review: Path | None = None,
    classifier: Path | None = None,
) -> dict[str, int] | None:
    """Writes the radiographs that may be given away into a new folder, see `release.folder`.

    Args:
        source: Run directory of a generator, or a synthetic dataset in it.
        out: Folder of the release, which must not exist.
        license_name: One of `release.licenses.LICENSES`.
        url: Address at which the release will be found.
        creator: Name of the organisation that gives it away.
        review: Folder of the page on which people accept or reject radiographs. Where it does not
            exist, it is made, and nothing is released yet.
        classifier: Run directory of a classifier that was trained on the source alone, which is
            trained once more on what is released.

    Returns:
        Number of radiographs that were left out, by reason; None where the review was made.

    Raises:
        UserError: The source is not the work of a generator of this machine, the classifier is not
            one of the source, the review is not finished, no radiograph is left, or the audit of
            what is left accuses it. Nothing is released then.
    """
    require_absent(out)
    config, synthetic = _open(source)
    teaching = _Teaching(classifier, synthetic) if classifier else None
    every = of_split([synthetic], "train")
    auditor = _Auditor(config, every)
    copies, before = auditor.evaluated(every)
    reasons = selection.flagged_by(
        {label: (every.of(label), found) for label, found in copies.items()}
    )
    side = max(max(entry.height, entry.width) for entry in synthetic.entries)
    quality = Quality.of_real(auditor.real("train"), auditor.real("validation", "test"), side)
    reasons |= selection.rejected_by(quality, synthetic, _without(synthetic, reasons))
    readers = 0
    if review is not None and len(reasons) < len(synthetic.entries):
        left = _without(synthetic, reasons)
        if not review.exists():
            build_review(review, synthetic, left)
            return None
        rejected, readers = rejected_in(review, synthetic, left)
        reasons |= dict.fromkeys(rejected, selection.REJECTED)
    counts = selection.counts(reasons)
    selection.refuse_nothing(counts, len(synthetic.entries))
    rest = RadiographSet([(synthetic, n) for n in _without(synthetic, reasons)])
    _, after = auditor.evaluated(rest)
    selection.refuse_accused(after.copies)
    with new_folder(out) as partial:
        dataset = selection.write_rest(synthetic, reasons, partial / DATASET)
        taught = teaching.repeated(dataset, partial / "classifier") if teaching else None
        selected = release_card.lines(len(every), len(rest), readers, counts, before, after, taught)
        complete(
            partial,
            model_card=cards.model_card(config, after),
            data_card=cards.data_card(config, dataset, after, selected),
            license_name=license_name,
            url=url,
            creator=creator,
            published=datetime.datetime.now(datetime.UTC).date().isoformat(),
        )
    return counts


class _Auditor:
    """Compares sets of radiographs of one generator with the real ones that it was trained on."""

    def __init__(self, config: ConfigDict, every: RadiographSet):
        self._dataset, self._by = RadiographDataset(config.dataset), config.data.draw.by
        self._labels = every.labels
        weights = config.evaluate.weights
        self._view = View.of(make_extractor(weights), published=bool(weights))
        self._searches = {
            label: CopySearch(
                self._dataset, Scope.of(every.of(label)), self._view.extractor, by=self._by
            )
            for label in Progress(self._labels, "real radiographs", unit="class")
        }

    def real(self, *splits: str) -> RadiographSet:
        """Real radiographs of the generator's classes."""
        return of_split([self._dataset], *splits, by=self._by).of(*self._labels)

    def evaluated(self, radiographs: RadiographSet) -> tuple[dict[str, Copies], Evaluation]:
        """The audits by class, and all numbers of a set."""
        copies = {
            label: self._searches[label].copies(radiographs.of(label))
            for label in Progress(radiographs.labels, "audit", unit="class")
        }
        evaluation = evaluate_generator(
            self._dataset, radiographs, self._view, by=self._by, audits=copies
        )
        return copies, evaluation


class _Teaching:
    """A classifier of all radiographs, which is trained again on some."""

    def __init__(self, run: Path, synthetic: RadiographDataset):
        """Tests the classifier in a run directory on its real test patients.

        Raises:
            UserError: It is not a classifier that was trained on the dataset alone.
        """
        self._config = run_folder.load_config(run)
        trained_on = [Path(name).resolve() for name in self._config.get("train_datasets", ())]
        if trained_on != [synthetic.folder.resolve()]:
            raise UserError(
                f"{run} is not the run directory of a classifier that was trained on "
                f"{synthetic.folder} alone; name one, or leave out --classifier."
            )
        self._before = held_out_predictions(self._config, run).test.by_patient()

    def repeated(self, rest: RadiographDataset, workdir: Path) -> release_card.Taught:
        """Trains the same classifier on a dataset, in a run directory that is removed."""
        config = self._config.copy_and_resolve_references()
        config.train_datasets = (str(rest.folder),)
        train(config, workdir)
        after = held_out_predictions(config, workdir).test.by_patient()
        shutil.rmtree(workdir)
        contrast = auc_difference([[after]], [[self._before]])
        return release_card.Taught(roc_auc(self._before), roc_auc(after), contrast.difference)


def _without(dataset: RadiographDataset, dropped: Container[int]) -> list[int]:
    return [n for n in range(len(dataset.entries)) if n not in dropped]


def _open(source: Path) -> tuple[ConfigDict, RadiographDataset]:
    """The config of the run and the synthetic dataset that a path names."""
    run, folder = source, source / SYNTHETIC
    if has_content(source / MANIFEST):
        if not RadiographDataset(source).is_synthetic:
            raise UserError(
                f"{source} holds radiographs of patients, or does not state that it is synthetic; "
                "femur release is for synthetic radiographs alone."
            )
        run, folder = source.resolve().parent, source
    config = run_folder.load_config(run)
    if config.get("task", "classifier") == "classifier":
        raise UserError(f"{run} is not the run directory of a generator; name one.")
    synthetic = open_synthetic(folder)
    if synthetic.provenance["config"] != run_folder.config_hash(config, without=loop.FREE_FIELDS):
        raise UserError(
            f"{folder} was generated by another run than {run}; name the run that made it."
        )
    known = synthetic.provenance
    if any(start["trained_on"] != known["trained_on"] for start in known.get("started_from", ())):
        raise UserError(
            f"The model of {run} started from one of other radiographs, whose patients this audit "
            "would not look for; release what a model of one dataset generates."
        )
    return config, synthetic
