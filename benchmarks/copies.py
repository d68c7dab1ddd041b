"""What the audit of copies finds, and how often it accuses sets without any.

All measurements rest on one simulation: patients as in the demo are drawn into a training set, held
out, and a set that passes for synthetic, 200 times. Any accusation of the latter is false.
Changed radiographs of patients who are in the training set should be called copies.
"""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from benchmarks.datasets import simulated_dataset
from benchmarks.machine import cpu
from benchmarks.records import Goal, Result, measurement
from femur_jax.evaluation.copy_audit import Distances, audit
from femur_jax.evaluation.features import LONGEST, overview, pixels, radiograph_features
from femur_jax.evaluation.membership import membership_inference
from femur_jax.evaluation.memorization import (
    FALSE_COPIES,
    WHOLE,
    Pictures,
    Power,
    conclude,
    finds,
)
from femur_jax.evaluation.neighbours import euclidean_distances
from femur_jax.evaluation.planted import UNCHANGED, planted_copies
from femur_jax.evaluation.radiograph_set import of_split

_TRAIN, _HELD_OUT, _SYNTHETIC = 325, 56, 64
_REPEATS = 200
_PLANTED = 40
_CANDIDATES = 8  # of the cohort, so that about three are in the training set
_COHORT = {
    "patients": 470,
    "images": 700,
    "hospitals": 4,
    "aff_fraction": 0.4,
    "long_side": (96, 128),
    "coarsest_mm": 0.7,
    "seed": 17,
}


def _power_of(change: str) -> Result:
    shares = _simulated().found[change]
    return Result(
        value=float(shares.mean()),
        device=cpu(),
        details={
            "standard error": _error(shares),
            "training, held-out and audited radiographs": (_TRAIN, _HELD_OUT, _SYNTHETIC),
            "planted radiographs": len(shares),
            "repeats": _REPEATS,
        },
    )


def _error(shares: Float[np.ndarray, " planted"]) -> float:
    """Standard error of the mean share over planted radiographs."""
    return float(shares.std(ddof=1) / np.sqrt(len(shares)))


@measurement("", Goal(">=", 0.9))
def audit_power_rotated_5() -> Result:
    """Share of training radiographs that, rotated by 5 degrees, are called copies."""
    return _power_of("rotated by 5°")


@measurement("", Goal(">=", 0.8))
def audit_power_zoom_1_1() -> Result:
    """Share of training radiographs that, zoomed by 1.1, are called copies."""
    return _power_of("zoomed by 1.1")


@measurement("", Goal(">=", 0.8))
def audit_power_shift_10() -> Result:
    """Share of training radiographs that, shifted by 10 of 128 pixels, are called copies."""
    return _power_of("shifted by 8%")


@measurement("", Goal(">=", 0.5))
def audit_power_blend_70_30() -> Result:
    """Share of training radiographs that, blended 70/30 with another, are called copies."""
    return _power_of("blended 70/30 with another")


@measurement("", Goal("<=", 0.04))
def audit_false_accusation() -> Result:
    """Share of sets of new patients' radiographs that the whole verdict accuses.

    56 radiographs are held out. The expected share is 3%: 1% each for copies, flagged radiographs
    and membership.
    """
    rates = _simulated()
    share = rates.accused["any"]
    return Result(
        value=share,
        device=cpu(),
        details={
            "standard error": float(np.sqrt(share * (1 - share) / _REPEATS)),
            "by reason": rates.accused,
            "correlation of the membership AUCs of two sets": rates.common,
            "planted copies that are found, with standard errors": {
                change: (float(s.mean()), _error(s)) for change, s in rates.found.items()
            },
            "repeats": _REPEATS,
        },
    )


@dataclass(frozen=True)
class _Rates:
    """Rates over the repeats.

    Attributes:
        found: Share of planted copies that are called copies, by change and planted radiograph.
        accused: Share of honest sets that are accused, by reason.
        common: Correlation of the membership AUCs of two sets with the same real radiographs.
    """

    found: Mapping[str, Float[np.ndarray, " planted"]]
    accused: Mapping[str, float]
    common: float


@cache
def _simulated() -> _Rates:
    with tempfile.TemporaryDirectory() as folder:
        dataset = simulated_dataset(Path(folder), patch=32, fractions=(0.1, 0.1), **_COHORT)
        everyone = of_split([dataset], "train", "validation", "test")
        images = [overview(*member) for member in everyone.members]
        features = radiograph_features(pixels(32), dataset, [n for _, n in everyone.members])
        planted = planted_copies(everyone.thinned(_PLANTED))
    patients = np.array(everyone.patients)
    is_own = patients[:, None] == patients
    known = Pictures.of(images, LONGEST)
    changed = Pictures.of([image for of_change in planted.values() for image in of_change], LONGEST)
    near = known.distances(known, is_own, candidates=_CANDIDATES)
    near["pixels"] = np.where(is_own, np.inf, euclidean_distances(features, features))[None]
    near_changed = changed.distances(known, candidates=_CANDIDATES)
    sources = np.arange(len(everyone))[:: -(-len(everyone) // _PLANTED)]
    rng = np.random.default_rng(0)
    reasons, aucs, found = [], [], []
    for _ in range(_REPEATS):
        train, held_out, *new = _drawn(rng, patients)
        audits = {
            name: audit(
                Distances(*(d[:, rows][:, :, train] for rows in (new[0], held_out, train))),
                FALSE_COPIES,
            )
            for name, d in near.items()
        }
        is_found = finds(audits, {name: d[:, :, train] for name, d in near_changed.items()})
        found.append(np.where(np.isin(sources, train), is_found.reshape(len(planted), -1), np.nan))
        attacks = [
            membership_inference(
                near[WHOLE][0][np.ix_(rows, train)].min(axis=0),
                near[WHOLE][0][np.ix_(rows, held_out)].min(axis=0),
                patients[train].tolist(),
                patients[held_out].tolist(),
            )
            for rows in new
        ]
        aucs.append([attack.auc.value for attack in attacks])
        verdict = conclude(audits, attacks[0], Power(len(sources), {UNCHANGED: 1.0}))
        reasons.append(
            {
                "any": verdict.accuses,
                "copies or flagged ones": verdict.found_copies,
                "membership": verdict.reveals_members,
                **{f"copies by {name}": one.copies.any() for name, one in audits.items()},
            }
        )
    return _Rates(
        found=dict(zip(planted, np.nanmean(found, axis=0), strict=True)),
        accused={name: float(np.mean([r[name] for r in reasons])) for name in reasons[0]},
        common=float(np.corrcoef(np.array(aucs).T)[0, 1]),
    )


def _drawn(rng: np.random.Generator, patients: np.ndarray) -> tuple[Int[np.ndarray, " train"], ...]:
    """Radiographs of a training set, held-out ones, and two sets of new ones, by patient."""
    order = rng.permutation(np.unique(patients))
    radiographs = [n for patient in order for n in np.flatnonzero(patients == patient)]
    sets = []
    for count in (_TRAIN, _HELD_OUT, _SYNTHETIC, _SYNTHETIC):
        chosen, radiographs = radiographs[:count], radiographs[count:]
        sets.append(np.array(chosen))
        radiographs = [n for n in radiographs if patients[n] != patients[chosen[-1]]]
    return tuple(sets)
