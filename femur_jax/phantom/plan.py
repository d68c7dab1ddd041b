"""The plan of a cohort: class, hospitals, number of images and faults of every patient.

The plan is drawn for the whole cohort at once, so that any patient can be simulated alone.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int

from femur_jax.errors import UserError
from femur_jax.phantom.hospital import Hospital, draw_hospitals

MOST_IMAGES = 8
"""Largest number of images of one patient."""

REFERRED = 0.05
"""Share of patients with images from a second hospital, among those with several images."""

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
"""Shares of the faults of an export among all images with a fault; see the module `faults`."""

MISFILED = 600
"""Number of patients per image that is also filed under another patient."""


@dataclass(frozen=True)
class Patient:
    """The plan of one patient.

    Attributes:
        number: Number of the patient, counted from 0.
        label: The class, 'AFF' or 'NFF'.
        hospitals: Hospital of each image.
        faults: Fault of each image, '' for none.
        misfiled_as: Number of the patient under whom the first image is also filed, None if it
            is not misfiled.
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

    Exactly round(patients * aff_fraction) patients have an atypical fracture, and they are spread
    evenly over the hospitals. Nothing else in the plan depends on the class.

    Args:
        seed: Seed of the plan.
        patients: Number of patients.
        images: Number of radiographs of all patients together.
        hospitals: Number of hospitals, at most that of patients.
        aff_fraction: Share of patients with an atypical fracture, 0 to 1.
        long_side: Least and greatest length of an image's longer side, pixels.
        faults: Share of the images with a fault, 0 to 1.

    Raises:
        UserError: A number is out of range.
    """
    _check(patients, images, hospitals, aff_fraction, long_side, faults)
    rng = np.random.default_rng([seed, 2])
    all_hospitals = draw_hospitals(seed, hospitals, long_side)
    atypical, first_hospitals = _assign(rng, patients, hospitals, aff_fraction)
    counts = share_out(rng, images, patients)
    misfiled = _misfiled(rng, atypical) if faults > 0.0 else {}
    plans = []
    for number, count in enumerate(counts):
        second = int(rng.integers(hospitals))
        moves_after = int(rng.integers(1, count)) if count > 1 else count
        referred = rng.random() < REFERRED
        first = first_hospitals[number]
        taken_at = [
            all_hospitals[first if i < moves_after or not referred else second]
            for i in range(count)
        ]
        kinds = rng.choice(list(FAULTS), count, p=list(FAULTS.values()))
        faulty = rng.random(count) < faults
        # Only flat detectors also send unprocessed images.
        cr = [hospital.modality == "CR" for hospital in taken_at]
        kinds[cr & (kinds == "unprocessed")] = "resent"
        plans.append(
            Patient(
                number=number,
                label="AFF" if atypical[number] else "NFF",
                hospitals=tuple(taken_at),
                faults=tuple(str(k) if f else "" for k, f in zip(kinds, faulty, strict=True)),
                misfiled_as=misfiled.get(number),
            )
        )
    return plans


def share_out(rng: np.random.Generator, images: int, patients: int) -> Int[np.ndarray, "patients"]:
    """Draws the number of images of each patient, 1 to MOST_IMAGES, with the given sum.

    The patients' shares of the images are gamma distributed.
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
    """Draws class and first hospital of every patient; each class fills the hospitals in turn.

    The classes start at opposite ends of a random order of hospitals, so that every hospital gets
    a patient.
    """
    atypical = rng.permutation(patients) < round(patients * aff_fraction)
    order = rng.permutation(hospitals)
    first_hospitals = np.empty(patients, int)
    first_hospitals[atypical] = order[np.arange(atypical.sum()) % hospitals]
    first_hospitals[~atypical] = order[::-1][np.arange((~atypical).sum()) % hospitals]
    return atypical, first_hospitals


def _misfiled(rng: np.random.Generator, atypical: Bool[np.ndarray, "patients"]) -> dict[int, int]:
    """Draws patients with a misfiled image, each with another patient of the same class."""
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
            f"A cohort of {patients} patients cannot have {hospitals} hospitals; "
            "use at least 1 hospital and at least one patient for each hospital."
        )
    if not patients <= images <= MOST_IMAGES * patients:
        raise UserError(
            f"A cohort of {patients} patients cannot have {images} images; "
            f"use 1 to {MOST_IMAGES} for each patient."
        )
    for name, share in (("AFF", aff_fraction), ("faults", faults)):
        if not 0.0 <= share <= 1.0:
            raise UserError(f"The share of {name} is {share}; use a number between 0 and 1.")
    if not 32 <= long_side[0] <= long_side[1]:
        raise UserError(
            f"The range of image sides, {long_side[0]} to {long_side[1]} pixels, is not usable; "
            "give two numbers in rising order, both at least 32."
        )
