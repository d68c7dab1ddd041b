import pytest

from femur_jax.data.radiograph import LABELS
from femur_jax.data.requests import draw_requests
from femur_jax.errors import UserError


def test_requests_are_drawn_from_the_training_radiographs(dataset):
    requests = draw_requests(dataset, per_label=40, seed=0)
    assert [r.label for r in requests] == [LABELS[0]] * 40 + [LABELS[1]] * 40
    for label in LABELS:
        known = {
            (e.height, e.width, e.spacing_mm)
            for e in dataset.entries
            if e.split == "train" and e.label == label
        }
        drawn = {(r.height, r.width, r.spacing_mm) for r in requests if r.label == label}
        assert drawn <= known
        assert len(drawn) > len(known) / 2


def test_the_seed_decides(dataset):
    first = draw_requests(dataset, per_label=5, seed=1)
    assert first == draw_requests(dataset, per_label=5, seed=1)
    assert first != draw_requests(dataset, per_label=5, seed=2)


def test_a_missing_class_is_told(dataset, monkeypatch):
    only = [e for e in dataset.entries if e.label == "NFF" or e.split != "train"]
    monkeypatch.setattr(dataset, "entries", only)
    with pytest.raises(UserError, match="no radiograph with label AFF"):
        draw_requests(dataset, per_label=1, seed=0)
