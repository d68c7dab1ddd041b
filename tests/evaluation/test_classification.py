"""The classifier, on bars that a person tells apart at once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from femur_jax.data.letterbox import letterbox
from femur_jax.evaluation.classification import ClassifierTask, predict, standardised
from femur_jax.training import loop


@pytest.fixture(scope="module")
def trained(dataset, classifier_config, tmp_path_factory):
    task = ClassifierTask(classifier_config, [dataset])
    folder = tmp_path_factory.mktemp("classifier") / "run"
    return task, loop.train(task, classifier_config, folder).ema


def test_learns_what_is_plain_to_see(trained, dataset):
    task, params = trained
    found = predict(task, params, dataset, dataset.split("test"))
    assert roc_auc_score(found.positive, found.logit) > 0.9


def test_predictions_are_in_order_and_do_not_depend_on_the_batch(trained, dataset):
    task, params = trained
    radiographs = dataset.split("train")  # more than one batch
    found = predict(task, params, dataset, radiographs)
    chosen = radiographs[5:8]
    some = predict(task, params, dataset, chosen)
    np.testing.assert_allclose(some.logit, found.logit[5:8], rtol=1e-4, atol=1e-5)
    assert some.patients == [dataset.entries[n].patient for n in chosen]
    np.testing.assert_array_equal(
        some.positive, [dataset.entries[n].label == "AFF" for n in chosen]
    )
    # The logit is linear in the features.
    ones = np.ones(len(found.logit))
    design = np.column_stack([found.features, ones])
    solved, *_ = np.linalg.lstsq(design, found.logit, rcond=None)
    np.testing.assert_allclose(design @ solved, found.logit, atol=1e-3)


def test_standardised_ignores_exposure_and_surround(dataset):
    box = letterbox(dataset, 0, 32)
    pixels = jnp.asarray(box["pixels"])[None]
    place = jnp.asarray(box["box"])[None]
    grey, mask = standardised(pixels, place)
    top, left, height, width = box["box"]
    inside = np.asarray(grey)[0, top : top + height, left : left + width, 0]
    raw = box["pixels"][top : top + height, left : left + width].astype(float)
    np.testing.assert_allclose(inside, (raw - raw.mean()) / raw.std(), atol=1e-3)
    assert float(mask.sum()) == height * width
    assert not np.asarray(grey)[np.asarray(mask) == 0].any()
    darker, _ = standardised((pixels // 2).astype(jnp.uint16), place)
    np.testing.assert_allclose(darker, grey, atol=5e-3)


def test_gradient_reaches_every_parameter(dataset, classifier_config):
    task = ClassifierTask(classifier_config, [dataset])
    state = jax.jit(task.init)(jax.random.key(0))
    rows = [task.streams()[0].samples[n] for n in range(8)]
    batch = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    _, metrics = jax.jit(task.step)(state, batch, jax.random.key(0))
    assert float(metrics["loss"]) == pytest.approx(np.log(2), abs=0.5)
