"""Leaks that must be found however they are disguised, and verdicts from the numbers."""

import numpy as np
import pytest
from scipy.ndimage import rotate, zoom
from scipy.ndimage import shift as moved

from femur_jax.evaluation.alignment import fitted_distances
from femur_jax.evaluation.copy_audit import Audit, Distances, audit
from femur_jax.evaluation.membership import MembershipInference
from femur_jax.evaluation.memorization import WHOLE, Power, Verdict, conclude, finds
from femur_jax.evaluation.statistics import Interval

TRAIN, HELD_OUT, NEW = 90, 20, 30
ORIGINS = np.array([17, 70])

LEAKS = {
    "as it is": lambda x, rng: x,
    "shifted": lambda x, rng: moved(x, (5, -4), mode="nearest"),
    "mirrored": lambda x, rng: x[:, ::-1],
    "noised": lambda x, rng: x + 0.007 * 65535 * rng.normal(size=x.shape),
    "re-windowed": lambda x, rng: np.clip(1.5 * x - 5000, 0, 65535) ** 1.4,
    "rotated": lambda x, rng: rotate(x, 6, reshape=False, order=1, mode="nearest"),
    "zoomed": lambda x, rng: zoom(x, 1.25, order=1)[6:54, 6:54],
}


@pytest.fixture(scope="module")
def audits(pictures) -> tuple[dict[str, Audit], np.ndarray]:
    """The audit of new pictures, and distances of two leaks of each kind."""
    rng = np.random.default_rng(8)
    train, held_out, new = (
        pictures[split][:n].astype(float)
        for split, n in (("train", TRAIN), ("validation", HELD_OUT), ("test", NEW))
    )
    leaked = [change(train[n], rng) for change in LEAKS.values() for n in ORIGINS]
    others = fitted_distances(np.concatenate([new, held_out, leaked]), train)[None]
    new, held_out, leaked = np.split(others, np.cumsum([NEW, HELD_OUT]), axis=1)
    of_train = fitted_distances(train, train, np.eye(TRAIN, dtype=bool))[None]
    return {WHOLE: audit(Distances(new, held_out, of_train))}, leaked


def coin(auc: float = 0.5, p_value: float = 0.5) -> MembershipInference:
    return MembershipInference(Interval(auc, auc - 0.05, auc + 0.05), p_value, None)


def verdict(audits, attack: MembershipInference, unchanged: float = 1.0) -> Verdict:
    return conclude(audits, attack, Power(20, {"unchanged": unchanged, "bent": 0.25}))


@pytest.mark.parametrize("kind", LEAKS)
def test_a_leak_is_found_however_it_is_disguised(audits, kind):
    results, leaked = audits
    rows = 2 * list(LEAKS).index(kind) + np.arange(2)
    np.testing.assert_array_equal(leaked[0, rows].argmin(axis=1), ORIGINS)
    assert finds(results, {WHOLE: leaked[:, rows]}).all()


def test_an_honest_set_is_acquitted_with_thresholds_and_power(audits):
    got = verdict(audits[0], coin())
    assert not got.accuses and got.sentence.startswith("No sign of copies")
    for result in audits[0].values():
        assert f"{result.copy_ratio:.2f}" in got.sentence
        assert f"{result.threshold:.2f}" in got.sentence
        assert result.calibrated_on == TRAIN + HELD_OUT
    assert "100% unchanged, 25% bent" in got.sentence and "Not searched" in got.sentence


def test_a_membership_auc_of_0_9_accuses_alone(audits):
    got = verdict(audits[0], coin(0.9, 1e-6))
    assert got.accuses and not got.found_copies
    assert got.sentence.startswith("Do not share: the set reveals who was in the training set")


def test_an_audit_that_would_miss_copies_decides_nothing(audits):
    got = verdict(audits[0], coin(), unchanged=0.4)
    assert not got.accuses and got.sentence.startswith("Not decided")
