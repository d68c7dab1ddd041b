"""Tests of the polychromatic beam against float64 sums and published attenuation."""

import numpy as np
import pytest

from femur_jax.phantom.spectrum import ATTENUATION, ENERGY_KEV, WEIGHTS, attenuate

MATERIALS = ("bone", "adipose", "soft", "steel")
RAYS = {
    "bone": np.array([0.0, 5.0, 20.0, 10.0, 0.0], np.float32),
    "adipose": np.array([0.0, 10.0, 0.0, 30.0, 0.0], np.float32),
    "soft": np.array([0.0, 0.0, 150.0, 120.0, 0.0], np.float32),
    "steel": np.array([0.0, 0.0, 0.0, 4.0, 1e4], np.float32),
}


def log_signal(bone=0.0, adipose=0.0, soft=0.0, steel=0.0):
    """The signal -log sum_e w_e exp(-sum_m mu_em l_m), term by term in float64."""
    lengths = zip(MATERIALS, (bone, adipose, soft, steel), strict=True)
    exponents = -sum(ATTENUATION[m] * float(length) for m, length in lengths)
    return -np.log(np.sum(WEIGHTS * np.exp(exponents)))


def test_attenuation_is_beer_lambert_summed_over_energies():
    transmission, _ = attenuate(RAYS)
    expected = [log_signal(*(RAYS[m][i] for m in MATERIALS)) for i in range(4)]
    np.testing.assert_allclose(-np.log(transmission[:4]), expected, atol=2e-5)
    assert 0 < transmission[4] < 1e-20  # the signal behind 10 m of steel is finite


def test_sensitivity_is_the_derivative_by_bone():
    _, sensitivity = attenuate(RAYS)
    step = 1e-4
    for i in range(4):
        lengths = [float(RAYS[m][i]) for m in MATERIALS]
        more, less = (log_signal(lengths[0] * (1 + s), *lengths[1:]) for s in (step, -step))
        assert sensitivity[i] == pytest.approx((more - less) / (2 * step), rel=1e-4, abs=1e-6)


def test_the_beam_hardens():
    """Each further centimetre of bone attenuates less; thin bone has the mean coefficient."""
    lengths = np.array([0.01, 10.0, 20.0, 30.0])
    signal = np.array([log_signal(bone=length) for length in lengths])
    assert signal[0] / 0.01 == pytest.approx(WEIGHTS @ ATTENUATION["bone"], rel=1e-2)
    slopes = np.diff(signal) / np.diff(lengths)
    assert (np.diff(slopes) < -1e-3).all()
    transmission, _ = attenuate({"bone": lengths.astype(np.float32)})
    np.testing.assert_allclose(-np.log(transmission), signal, atol=2e-5)


def test_coefficients_agree_with_published_ones_at_50_kev():
    """The reference is NIST SRD 126: mass attenuation in cm2/g times ICRU-44 density."""
    published = {"bone": 0.4242 * 1.92, "adipose": 0.2123 * 0.95, "soft": 0.2264 * 1.06}
    for material, per_cm in published.items():
        at_50 = np.exp(np.interp(np.log(50), np.log(ENERGY_KEV), np.log(ATTENUATION[material])))
        assert at_50 == pytest.approx(0.1 * per_cm, rel=0.015)
    assert WEIGHTS.sum() == pytest.approx(1.0, abs=1e-9)
