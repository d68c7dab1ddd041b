"""The classifier on bars that a person distinguishes at once."""

from collections import Counter
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
from sklearn.metrics import log_loss, roc_auc_score

from femur_jax.classifier.protocol import Subset
from femur_jax.classifier.summary import summarise
from femur_jax.classifier.task import ClassifierTask, displaced, predict, standardised
from femur_jax.classifier.validation import Validation, left_out
from femur_jax.data.letterbox import letterbox
from femur_jax.data.loader import Pool, batches
from femur_jax.data.shards import RadiographDataset
from femur_jax.errors import UserError
from femur_jax.evaluation.operating_point import operating_point
from femur_jax.parallel.mesh import batch_sharding, make_mesh
from femur_jax.stages.train import train
from femur_jax.training import loop
from femur_jax.training.program import Program


@pytest.fixture(scope="module")
def known(dataset):
    """The dataset with the ages of four patients in five, and nobody's sex."""
    known, rng = RadiographDataset(dataset.folder), np.random.default_rng(0)
    known.entries = [
        replace(e, columns={"sex": None, "age": rng.normal(70, 10) if n % 5 else None})
        for n, e in enumerate(known.entries)
    ]
    return known


@pytest.fixture(scope="module")
def columns_config(classifier_config):
    config = classifier_config.copy_and_resolve_references()
    config.data.columns = ("age", "sex")
    return config


@pytest.fixture(scope="module")
def trained(dataset, classifier_config, tmp_path_factory):
    task = ClassifierTask(classifier_config, [dataset])
    folder = tmp_path_factory.mktemp("classifier") / "run"
    return task, loop.train(task, classifier_config, folder).ema


def test_learns_what_is_easy_to_see(trained, dataset):
    task, params = trained
    predictions = predict(task, params, dataset, dataset.split("test"))
    assert roc_auc_score(predictions.positive, predictions.logit) > 0.9


def test_predictions_are_in_order_and_do_not_depend_on_the_batch(trained, dataset):
    task, params = trained
    radiographs = dataset.split("train")  # more than one batch
    predictions = predict(task, params, dataset, radiographs)
    chosen = radiographs[5:8]
    some = predict(task, params, dataset, chosen)
    np.testing.assert_allclose(some.logit, predictions.logit[5:8], rtol=1e-4, atol=1e-5)
    assert some.patients == [dataset.entries[n].patient for n in chosen]
    np.testing.assert_array_equal(
        some.positive, [dataset.entries[n].label == "AFF" for n in chosen]
    )
    # The logit is linear in the features.
    ones = np.ones(len(predictions.logit))
    design = np.column_stack([predictions.features, ones])
    solved, *_ = np.linalg.lstsq(design, predictions.logit, rcond=None)
    np.testing.assert_allclose(design @ solved, predictions.logit, atol=1e-3)


def test_standardised_ignores_exposure_and_surround(dataset):
    box = letterbox(dataset, 0, (40, 32))
    pixels = jnp.asarray(box["pixels"])[None]
    boxes = jnp.asarray(box["box"])[None]
    seen, mask = standardised(pixels, boxes)
    top, left, height, width = box["box"]
    inside = np.asarray(seen)[0, top : top + height, left : left + width]
    raw = box["pixels"][top : top + height, left : left + width].astype(float)
    np.testing.assert_allclose(inside[..., 0], (raw - raw.mean()) / raw.std(), atol=1e-3)
    # The mean of the 5 x 5 surroundings within the letterbox.
    counts = scipy.ndimage.uniform_filter(np.ones_like(raw), 5, mode="constant")
    local = raw - scipy.ndimage.uniform_filter(raw, 5, mode="constant") / counts
    np.testing.assert_allclose(inside[..., 1], (local - local.mean()) / local.std(), atol=1e-3)
    assert float(mask.sum()) == height * width
    assert not np.asarray(seen)[np.asarray(mask)[..., 0] == 0].any()
    darker, _ = standardised((pixels // 2).astype(jnp.uint16), boxes)
    np.testing.assert_allclose(darker, seen, atol=5e-3)


def test_displaced_moves_about_the_middle():
    """The edges of a bar after zoom and shift are those of the affine map."""
    image = np.zeros((1, 40, 60, 1), np.float32)
    image[0, 10:20, 24:42] = 1.0
    still = displaced(jax.random.key(0), jnp.asarray(image), mirror=True, zoom=0.0, shift=0.0)
    assert min(abs(still - image).max(), abs(still - image[:, :, ::-1]).max()) < 1e-6
    flips, sizes, middles = set(), [], []
    for seed in range(40):
        moved = np.asarray(
            displaced(jax.random.key(seed), jnp.asarray(image), mirror=True, zoom=0.1, shift=0.02)
        )
        rows, columns = moved[0, ..., 0].sum(1), moved[0, ..., 0].sum(0)
        middle = [float((p * (np.arange(len(p)) + 0.5)).sum() / p.sum()) for p in (rows, columns)]
        flips.add(middle[1] < 30)
        sizes.append(np.log(moved.sum() / image.sum()) / 2)  # of the logarithm of the scale
        middles.append((middle[0] - 20) / np.exp(sizes[-1]))
    assert flips == {True, False}
    assert np.std(sizes) == pytest.approx(0.1, rel=0.35)
    assert np.mean(middles) == pytest.approx(-5, abs=0.6)  # 15 of 40 rows, seen from the middle


def test_gradient_reaches_known_columns(known, columns_config):
    task = ClassifierTask(columns_config, [known])
    first = state = jax.jit(task.init)(jax.random.key(0))
    rows = [task.streams()[0].samples[n] for n in range(8)]
    batch = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    step = jax.jit(task.step)
    for _ in range(3):  # the first learning rate and the branches' last scales are zero
        state, metrics = step(state, batch, jax.random.key(0))
    assert float(metrics["loss"]) == pytest.approx(np.log(2), abs=0.5)
    kernel = np.asarray(state.params["beside"]["kernel"])[:, 0]
    assert kernel[0] != 0 and kernel[1] == 0  # nobody's sex is known
    for (path, old), new in zip(
        jax.tree_util.tree_leaves_with_path(first.params),
        jax.tree.leaves(state.params),
        strict=True,
    ):
        assert np.any(np.asarray(old) != np.asarray(new)), path


def test_datasets_are_mixed_at_their_shares(dataset, classifier_config):
    config = classifier_config.copy_and_resolve_references()
    config.data.dataset_shares = (3.0, 1.0)
    streams = ClassifierTask(config, [dataset, dataset]).streams()
    assert [stream.weight for stream in streams] == [3.0, 1.0]
    with pytest.raises(UserError, match="for 1 datasets"):
        ClassifierTask(config, [dataset])


def test_real_radiographs_that_are_repeated_are_drawn_as_before(dataset):
    """In the control of repeated radiographs a run sees each of them as often as without."""
    counts = []
    for datasets in ([dataset], [dataset, dataset]):
        pool = Pool(datasets, label_shares=(0.5, 0.5))
        drawn = pool.positions(seed=0)
        names = [pool.radiographs[drawn[n]] for n in range(96)]
        counts.append(Counter(dataset.entries[radiograph].name for _, radiograph in names))
    assert counts[0] == counts[1]
    assert set(counts[0].values()) == {4}


def test_validation_is_the_log_loss_of_patients(trained, dataset, classifier_config):
    """The reference is scikit-learn, with the classes weighted as they are drawn."""
    task, params = trained
    chosen = dataset.split("validation")
    config = classifier_config.copy_and_resolve_references()
    config.data.draw.label_shares = (3.0, 1.0)
    weighted = ClassifierTask(config, [dataset])
    state = replace(weighted.init(jax.random.key(0)), ema=params)
    numbers = Validation(weighted, [Subset(dataset, chosen)]).run(state)
    scores = predict(task, params, dataset, chosen).by_patient()
    p = 1 / (1 + np.exp(-scores.score))
    weights = np.where(
        scores.positive, 0.25 / scores.positive.sum(), 0.75 / (~scores.positive).sum()
    )
    expected = log_loss(scores.positive, p, sample_weight=weights)
    assert numbers["loss"] == pytest.approx(expected, rel=1e-4)
    assert numbers["auc"] == roc_auc_score(scores.positive, scores.score)
    # In two parts the patients are the same.
    halves = [Subset(dataset, chosen[::2]), Subset(dataset, chosen[1::2])]
    assert Validation(weighted, halves).run(state)["auc"] == numbers["auc"]


def test_what_is_left_out_can_choose_the_checkpoint(dataset, classifier_config, tmp_path):
    config = classifier_config.copy_and_resolve_references()
    config.data.per_label = (3,)
    task = ClassifierTask(config, [dataset])
    [rest] = left_out(task)
    drawn = {n for pool in task.pools for _, n in pool.radiographs}
    assert len(drawn) == 6 and rest.labels == {"NFF", "AFF"}
    assert sorted([*drawn, *rest.radiographs]) == dataset.split("train")
    config.dataset = str(dataset.folder)
    for most, chosen, message in (
        ((), "rest", "leaves out no radiograph of a class"),
        ((3,), "test", "config.data.validated_on is 'test'; write real or rest"),
        ((3, 4), "rest", r"config.data.per_label is \(3, 4\) for 1 datasets"),
    ):
        config.data.update(per_label=most, validated_on=chosen)
        with pytest.raises(UserError, match=message):
            train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_columns_reach_the_logit_standardised(known, columns_config):
    """With a head that ignores the image, the logit follows from the table alone."""
    task = ClassifierTask(columns_config, [known])
    params = jax.device_get(jax.jit(task.init)(jax.random.key(0)).params)
    params["head"]["kernel"] = np.zeros_like(params["head"]["kernel"])
    params["beside"]["kernel"] = np.array([[2.0], [9.0], [-1.0], [0.5]], np.float32)
    chosen = known.split("test")
    logit = predict(task, params, known, chosen).logit
    ages = np.array([e.columns["age"] or np.nan for e in known.entries])
    train = ages[known.split("train")]
    standard = (ages - np.nanmean(train)) / np.nanstd(train)
    expected = np.where(np.isnan(ages), -1.0, 2.0 * standard) + 0.5  # nobody's sex is known
    assert np.isnan(ages[chosen]).any()
    np.testing.assert_allclose(logit, expected[chosen], rtol=1e-4, atol=1e-4)


def test_a_step_is_compiled_once_for_classifiers_that_differ_in_data_alone(
    dataset, known, classifier_config, columns_config
):
    compiled = []

    class Counted(ClassifierTask):
        def loss(self, *args):
            compiled.append(self)
            return super().loss(*args)

    def first_step(config, dataset):
        task, mesh = Counted(config, [dataset]), make_mesh(config.mesh)
        program, key = Program(task, mesh), jax.random.key(0)
        stream = batches(task.streams(), batch_size=16, start=0, sharding=batch_sharding(mesh))
        _, metrics = program.update(program.init(key), next(stream), program.key(0))
        return float(metrics["loss"])

    def changed(**fields):
        config = classifier_config.copy_and_resolve_references()
        config.update(fields)
        return config

    losses = [first_step(changed(seed=seed), dataset) for seed in (0, 1)]
    assert losses[0] != losses[1] and len(compiled) == 1
    slower = changed(train={"learning_rate": 1e-5})
    first_step(slower, dataset)
    assert len(compiled) == 2
    # Columns are standardised by the patients of the training data.
    younger = RadiographDataset(dataset.folder)
    younger.entries = [
        replace(e, columns={"sex": None, "age": (e.columns["age"] or 70) / 2})
        for e in known.entries
    ]
    assert ClassifierTask(columns_config, [known]) == ClassifierTask(columns_config, [known])
    assert ClassifierTask(columns_config, [known]) != ClassifierTask(columns_config, [younger])


def test_training_starts_from_other_parameters(trained, dataset, classifier_config):
    _, params = trained
    state = ClassifierTask(classifier_config, [dataset], start=params).init(jax.random.key(5))
    jax.tree.map(np.testing.assert_array_equal, state.params, params)
    jax.tree.map(np.testing.assert_array_equal, state.ema, params)


def test_imported_weights_need_fixed_norms(dataset, classifier_config):
    config = classifier_config.copy_and_resolve_references()
    config.weights = "resnet50.pth"
    with pytest.raises(UserError, match=r"config\.model\.norm"):
        ClassifierTask(config, [dataset])
    config.model.norm = "fixed"
    with pytest.raises(UserError, match=r"no file of weights resnet50\.pth"):
        ClassifierTask(config, [dataset])


def test_summary_holds_the_whole_report(trained, dataset):
    task, params = trained
    predictions = predict(task, params, dataset, dataset.split("test"))
    patients = predictions.by_patient()
    point = operating_point([(patients, patients)])
    summary = summarise(predictions, point, trained_share=0.5, true_share=0.5)
    assert summary["auc"]["value"] > 0.9
    assert summary["operating_point"]["specificity"]["value"] == 1.0  # no false alarm allowed
    assert summary["auc_over_hospitals"] is None  # of three hospitals
    hospitals = summary["by"]["hospital"]
    assert [row["group"] for row in hospitals] == sorted(set(predictions.hospitals))
    assert sum(row["radiographs"] for row in hospitals) == len(predictions.logit)
    assert [row["group"] for row in summary["by"]["size"]] == ["0 to 1 MP"]
    assert sum(b["patients"] for b in summary["calibration"]["bins"]) == summary["patients"]
