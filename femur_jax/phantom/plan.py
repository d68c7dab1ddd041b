"""Who is in a cohort: class, hospitals, number of images and mishaps of every patient.

Drawn for the whole cohort at once, so that any patient can be simulated alone.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int

from femur_jax.errors import UserError
from femur_jax.phantom.hospital import Hospital, draw_hospitals

MOST_IMAGES = 8
"""Of one patient."""

REFERRED = 0.05
"""Share of the patients with several images who have some from a second hospital."""

FAULTS = {
    "resent": 0.2,
    "copied": 0.15,
    "recoded": 0.1,
    "unprocessed": 0.15,
    "annotated": 0.1,
    "truncated": 0.1,
    "untagged": 0.1,
    "high_bit": 0.05,
    "empty": 0.05,
}
"""What can go wrong with an image, see `faults`, and how often among all mishaps."""

MISFILED = 600
"""One image of so many patients is also filed under another patient."""


@dataclass(frozen=True)
class Patient:
    """What is planned for one patient.

    Attributes:
        number: From 0.
        label: 'AFF' or 'NFF'.
        hospitals: Where each image is taken.
        faults: What goes wrong with each, '' for nothing.
        misfiled_as: The number of the patient under whom the first image is also filed.
    """

    number: int
    label: str
    hospitals: tuple[Hospital, ...]
    faults: tuple[str, ...]
    misfiled_as: int | None = None


def plan_cohort(
    seed: int,
    *,
    patients: int,
    images: int,
    hospitals: int,
    aff_fraction: float,
    long_side: tuple[int, int],
    faults: float,
) -> list[Patient]:
    """Plans a cohort.

    Exactly round(patients * aff_fraction) patients have an atypical fracture, dealt out evenly
    over the hospitals. Nothing else of the plan depends on the class.

    Args:
        seed: Equal seeds give equal plans.
        patients: How many.
        images: Radiographs taken in all.
        hospitals: How many, at most as many as patients.
        aff_fraction: Share of patients with an atypical fracture, 0 to 1.
        long_side: Least and greatest length of an image's longer side, pixels.
        faults: Share of the images with which something goes wrong, 0 to 1.

    Raises:
        UserError: A number is out of range.
    """
    _check(patients, images, hospitals, aff_fraction, long_side, faults)
    rng = np.random.default_rng([seed, 2])
    places = draw_hospitals(seed, hospitals, long_side)
    atypical, homes = _assign(rng, patients, hospitals, aff_fraction)
    counts = share_out(rng, images, patients)
    misfiled = _misfiled(rng, atypical) if faults > 0.0 else {}
    plans = []
    for number, count in enumerate(counts):
        second = int(rng.integers(hospitals))
        moves_after = int(rng.integers(1, count)) if count > 1 else count
        referred = rng.random() < REFERRED
        where = [homes[number] if i < moves_after or not referred else second for i in range(count)]
        mishaps = rng.choice(list(FAULTS), count, p=list(FAULTS.values()))
        strikes = rng.random(count) < faults
        # Only flat detectors send unprocessed images beside the others.
        cr = [places[i].modality == "CR" for i in where]
        mishaps[cr & (mishaps == "unprocessed")] = "resent"
        plans.append(
            Patient(
                number=number,
                label="AFF" if atypical[number] else "NFF",
                hospitals=tuple(places[i] for i in where),
                faults=tuple(str(m) if s else "" for m, s in zip(mishaps, strikes, strict=True)),
                misfiled_as=misfiled.get(number),
            )
        )
    return plans


def share_out(rng: np.random.Generator, images: int, patients: int) -> Int[np.ndarray, "patients"]:
    """Number of images of each patient, 1 to MOST_IMAGES, with the given sum.

    Patients differ in how often they are seen: the shares are gamma distributed.
    """
    counts = np.ones(patients, int)
    tendency = rng.gamma(1.5, size=patients)
    while left := images - counts.sum():
        share = tendency * (counts < MOST_IMAGES)
        more = np.bincount(rng.choice(patients, left, p=share / share.sum()), minlength=patients)
        counts = np.minimum(counts + more, MOST_IMAGES)
    return counts


def _assign(
    rng: np.random.Generator, patients: int, hospitals: int, aff_fraction: float
) -> tuple[Bool[np.ndarray, "patients"], Int[np.ndarray, "patients"]]:
    """Class and hospital of every patient; each class goes round the hospitals in turn.

    The classes start from opposite ends, so every hospital gets a patient, and in an order of
    hospitals that depends on the seed.
    """
    atypical = rng.permutation(patients) < round(patients * aff_fraction)
    order = rng.permutation(hospitals)
    homes = np.empty(patients, int)
    homes[atypical] = order[np.arange(atypical.sum()) % hospitals]
    homes[~atypical] = order[::-1][np.arange((~atypical).sum()) % hospitals]
    return atypical, homes


def _misfiled(rng: np.random.Generator, atypical: Bool[np.ndarray, "patients"]) -> dict[int, int]:
    """Patients an image of whom is also filed under another of the same class."""
    result = {}
    for number in rng.choice(len(atypical), max(1, round(len(atypical) / MISFILED)), replace=False):
        others = np.flatnonzero(atypical == atypical[number])
        others = others[others != number]
        if len(others):
            result[int(number)] = int(rng.choice(others))
    return result


def _check(
    patients: int,
    images: int,
    hospitals: int,
    aff_fraction: float,
    long_side: tuple[int, int],
    faults: float,
) -> None:
    if not 1 <= hospitals <= patients:
        raise UserError(
            f"{hospitals} hospitals do not suit {patients} patients: "
            "choose at least 1 hospital and at least one patient for each."
        )
    if not patients <= images <= MOST_IMAGES * patients:
        raise UserError(
            f"{images} images do not suit {patients} patients: "
            f"choose 1 to {MOST_IMAGES} for each patient."
        )
    for name, share in (("AFF", aff_fraction), ("faults", faults)):
        if not 0.0 <= share <= 1.0:
            raise UserError(f"The share of {name}, {share}, must lie between 0 and 1.")
    if not 32 <= long_side[0] <= long_side[1]:
        raise UserError(
            f"The image sides {long_side[0]} to {long_side[1]} pixels must be in rising order "
            "and at least 32."
        )
