import numpy as np
import pytest

from femur_jax.data.radiograph import LABELS
from femur_jax.data.synthetic import JITTER, draw_requests, wanted_labels
from femur_jax.errors import UserError


def test_requests_are_like_training_radiographs_but_not_one_of_them(dataset):
    requests = draw_requests(dataset, per_label=100, seed=0)
    assert [r.label for r in requests] == [LABELS[0]] * 100 + [LABELS[1]] * 100
    spreads = []
    for label in LABELS:
        known = np.log(
            [
                (e.height, e.width, e.spacing_mm)
                for e in dataset.entries
                if e.split == "train" and e.label == label
            ]
        )
        drawn = np.log([(r.height, r.width, r.spacing_mm) for r in requests if r.label == label])
        distances = np.abs(drawn[:, None, :2] - known[:, :2]).max(axis=2)
        nearest = distances.argmin(axis=1)
        assert distances.min(axis=1).max() < 0.2
        assert len(set(nearest)) > len(known) / 2
        spreads += list(drawn[:, 2] - known[nearest, 2])
    # The spacing differs by its own factor, and makes up for those of height and width.
    assert np.std(spreads) == pytest.approx(JITTER * np.sqrt(1 + 2 / 4), rel=0.25)
    assert min(abs(np.array(spreads))) > 0


def test_the_seed_decides(dataset):
    first = draw_requests(dataset, per_label=5, seed=1)
    assert first == draw_requests(dataset, per_label=5, seed=1)
    assert first != draw_requests(dataset, per_label=5, seed=2)


def test_a_missing_class_is_reported(dataset, monkeypatch):
    only = [e for e in dataset.entries if e.label == "NFF" or e.split != "train"]
    monkeypatch.setattr(dataset, "entries", only)
    with pytest.raises(UserError, match="no radiograph with label AFF"):
        draw_requests(dataset, per_label=1, seed=0)


def test_requested_sizes_are_used_in_turn_and_keep_the_area(dataset):
    sizes = ((60, 45), (30, 31))
    requests = draw_requests(dataset, per_label=3, seed=0, labels=("AFF",), sizes=sizes)
    assert [(r.height, r.width) for r in requests] == [sizes[0], sizes[1], sizes[0]]
    areas = {e.height * e.width * e.spacing_mm**2 for e in dataset.entries if e.split == "train"}
    for r in requests:
        area = r.height * r.width * r.spacing_mm**2
        assert min(abs(np.log(area / known)) for known in areas) < 2 * 4 * JITTER


@pytest.mark.parametrize("size", [(3000, 5000), (400, 251), (20, 20)])
def test_any_number_of_pixels_from_the_smallest_to_15_megapixels(dataset, size):
    [request] = draw_requests(dataset, per_label=1, seed=0, labels=("NFF",), sizes=[size])
    assert (request.height, request.width) == size


@pytest.mark.parametrize(
    ("size", "words"),
    [
        ((4000, 5000), "4000 x 5000.*15 megapixels"),
        ((5, 5), "5 x 5.*megapixels"),
        ((0, 1000), "0 x 1000"),
        ((-400, -400), "-400"),
        ((1000, 100), "10 times as high as wide"),
        ((100, 1000), "0.1 times as high as wide"),
    ],
)
def test_sizes_out_of_range_are_reported(dataset, size, words):
    with pytest.raises(UserError, match=words):
        draw_requests(dataset, per_label=1, seed=0, sizes=[size])


def test_requests_of_a_letterboxing_model_fit_its_square(dataset):
    """The square's side is 32; the test radiographs have 14 to 59 pixels a side."""
    sizes = ((32, 20), (32, 32))
    requests = draw_requests(dataset, per_label=2, seed=0, sizes=sizes, square=32)
    assert [(r.height, r.width) for r in requests] == [*sizes, *sizes]
    for size in ((64, 40), (8, 8), (2000, 1500), (0, 32)):
        with pytest.raises(UserError, match=f"{size[0]} x {size[1]} pixels.* to 32 pixels"):
            draw_requests(dataset, per_label=1, seed=0, sizes=[size], square=32)
    with pytest.raises(UserError, match="32 times as high as wide"):
        draw_requests(dataset, per_label=1, seed=0, sizes=[(32, 1)], square=32)


def test_a_request_for_no_radiographs_is_refused(dataset):
    with pytest.raises(UserError, match="per_label"):
        draw_requests(dataset, per_label=0, seed=0)


def test_labels_are_those_that_the_model_was_trained_on():
    assert wanted_labels((), ()) == LABELS
    assert wanted_labels((), (0.0, 1.0)) == ("AFF",)
    assert wanted_labels(("AFF",), (0.5, 0.5)) == ("AFF",)
    with pytest.raises(UserError, match="not trained on NFF"):
        wanted_labels(("NFF",), (0.0, 1.0))
    with pytest.raises(UserError, match="'ABC'"):
        wanted_labels(("ABC",), ())
