"""The stage that tests a classifier, or compares a generator's radiographs with real ones."""

import json
from pathlib import Path

from ml_collections import ConfigDict

from femur_jax import run_folder
from femur_jax.classifier.summary import summarise
from femur_jax.classifier.task import ClassifierTask, Predictions, label_counts, predict
from femur_jax.data.shards import RadiographDataset
from femur_jax.evaluation import generator
from femur_jax.evaluation.features import Extractor, network, pixels
from femur_jax.files import write_atomically
from femur_jax.stages.sample import SYNTHETIC
from femur_jax.stages.tasks import classifier_protocol, make_classifier, make_task
from femur_jax.training import loop

EVALUATION = "evaluation.json"
_FEATURE_SIDE = 32


def evaluate(config: ConfigDict, workdir: Path) -> None:
    """Tests a classifier on real held-out patients, or compares synthetic radiographs with them.

    The result goes to `workdir/evaluation.json` and, in short, to the terminal.
    """
    task = make_task(config)
    run_folder.claim(workdir, config, stage="evaluate", free=loop.FREE_FIELDS)
    real = RadiographDataset(config.dataset)
    if isinstance(task, ClassifierTask):
        predictions = held_out_predictions(config, workdir)
        counts = label_counts([real], config.data.draw.by)
        result = summarise(
            predictions,
            trained_share=task.positive_share,
            true_share=float(counts[1] / sum(counts)),
        )
        print("AUC {value:.3f} [{low:.3f}, {high:.3f}]".format(**result["auc"]))
    else:
        synthetic = generator.open_synthetic(workdir / SYNTHETIC)
        extractor, by = make_extractor(config), config.data.draw.by
        compared = generator.distances(real, synthetic, extractor, by=by)
        found = generator.copies(real, synthetic, extractor, by=by)
        result = {"features": extractor.name, **generator.as_json(compared, found)}
        print(generator.as_text(compared, found, extractor.name))
    write_atomically(workdir / EVALUATION, json.dumps(result))


def make_extractor(config: ConfigDict) -> Extractor:
    """Of the features that a generator's radiographs are compared by."""
    weights = config.evaluate.weights
    return network(Path(weights)) if weights else pixels(_FEATURE_SIDE)


def held_out_predictions(config: ConfigDict, workdir: Path) -> Predictions:
    """What the trained classifier in a workdir says of the radiographs that it is tested on."""
    parts = classifier_protocol(config)
    task = make_classifier(config, parts)
    params = loop.restore(task, config, workdir).ema
    return predict(task, params, parts.test.dataset, parts.test.radiographs)
