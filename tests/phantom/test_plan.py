"""Tests of plans: exact numbers, and only the pixels depend on the class."""

from collections import Counter

import numpy as np
import pytest
from scipy.stats import ks_2samp

from femur_jax.phantom.anatomy import draw_femur
from femur_jax.phantom.dicom_writer import draw_identity
from femur_jax.phantom.fracture import draw_fracture
from femur_jax.phantom.hardware import draw_hardware
from femur_jax.phantom.plan import MOST_IMAGES, plan_cohort, share_out

SETTINGS = {"hospitals": 72, "aff_fraction": 0.2, "long_side": (1500, 3900), "faults": 0.03}


@pytest.fixture(scope="module")
def plan():
    return plan_cohort(0, patients=1200, images=4300, **SETTINGS)


def test_numbers_of_patients_and_images_are_exact(plan):
    counts = np.array([len(patient.hospitals) for patient in plan])
    assert (len(plan), counts.sum()) == (1200, 4300)
    assert counts.min() == 1 and counts.max() == MOST_IMAGES
    assert len(set(counts)) == MOST_IMAGES
    assert [patient.number for patient in plan] == list(range(1200))
    assert sum(patient.label == "AFF" for patient in plan) == 240


@pytest.mark.parametrize("images", [5, 23, 40])
def test_all_images_are_shared_out(images):
    counts = share_out(np.random.default_rng(0), images, 5)
    assert counts.sum() == images and counts.min() >= 1 and counts.max() <= MOST_IMAGES


def test_each_class_is_spread_evenly_over_the_hospitals(plan):
    first = Counter((patient.label, patient.hospitals[0].name) for patient in plan)
    for label, share in (("AFF", 240 / 72), ("NFF", 960 / 72)):
        counts = [n for (of, _), n in first.items() if of == label]
        assert len(counts) == 72
        assert max(counts) - min(counts) <= 1
        assert np.mean(counts) == pytest.approx(share)


def test_one_patient_in_twenty_is_referred(plan):
    several = [patient for patient in plan if len(patient.hospitals) > 1]
    referred = np.mean([len(set(patient.hospitals)) > 1 for patient in several])
    assert 0.03 < referred < 0.07
    assert all(len(set(patient.hospitals)) <= 2 for patient in plan)


def test_misfiled_images_keep_their_class(plan):
    labels = {patient.number: patient.label for patient in plan}
    pairs = [(p.number, p.misfiled_as) for p in plan if p.misfiled_as is not None]
    assert len(pairs) == 2
    assert all(a != b and labels[a] == labels[b] for a, b in pairs)


def attributes(patient):
    """All data of a patient that a header or a table could reveal."""
    rng = np.random.default_rng([0, 3, patient.number])
    femur = draw_femur(rng, patient.label)
    hardware = draw_hardware(rng, femur, draw_fracture(rng, femur, patient.label))
    laterality = rng.choice(["L", "R"])
    identity = draw_identity(rng, "")
    hospital = patient.hospitals[-1]
    return {
        "images": len(patient.hospitals),
        "side": hospital.long_side,
        "aspect": hospital.aspect[0],
        "bits": hospital.bits,
        "photometric": hospital.photometric == "MONOCHROME1",
        "modality": hospital.modality == "DX",
        "faults": sum(fault != "" for fault in patient.faults),
        "age": identity.age,
        "sex": identity.sex == "F",
        "year": int(identity.study_date[:4]),
        "laterality": laterality == "L",
        "implant": hardware.implant > 0,
        "cast": hardware.cast > 0,
        "length": femur.length,
        "thigh": femur.thigh_radius,
        "midline": femur.midline,
    }


def test_only_the_pixels_reveal_the_class():
    """Kolmogorov-Smirnov tests at a level that 16 attributes exceed together in 1 of 600 seeds."""
    plan = plan_cohort(3, patients=1500, images=4000, **SETTINGS | {"aff_fraction": 0.5})
    drawn = {"AFF": [], "NFF": []}
    for patient in plan:
        drawn[patient.label].append(attributes(patient))
    for name in drawn["AFF"][0]:
        values = [np.array([a[name] for a in drawn[label]], float) for label in drawn]
        assert ks_2samp(*values).pvalue > 1e-4, name
