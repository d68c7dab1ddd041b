"""MS-SSIM against a direct transcription with loops over windows."""

import numpy as np
import pytest

from femur_jax.errors import UserError
from femur_jax.evaluation.diversity import mean_similarity, ms_ssim


def ssim_from_definition(x, y):
    """Means of (luminance x structure) and of structure over all whole windows."""
    g = np.exp(-(np.arange(-5, 6) ** 2) / 4.5)
    g = np.outer(g, g) / g.sum() ** 2
    both, structure = [], []
    for i in range(x.shape[0] - 10):
        for j in range(x.shape[1] - 10):
            a, b = x[i : i + 11, j : j + 11], y[i : i + 11, j : j + 11]
            ma, mb = (g * a).sum(), (g * b).sum()
            va, vb = (g * (a - ma) ** 2).sum(), (g * (b - mb) ** 2).sum()
            cov = (g * (a - ma) * (b - mb)).sum()
            s = (2 * cov + 9e-4) / (va + vb + 9e-4)
            both.append(s * (2 * ma * mb + 1e-4) / (ma**2 + mb**2 + 1e-4))
            structure.append(s)
    return np.mean(both), np.mean(structure)


def test_agrees_with_its_definition():
    rng = np.random.default_rng(0)
    x = rng.random((30, 25))
    y = np.clip(x + 0.2 * rng.normal(size=x.shape), 0, 1)
    _, structure = ssim_from_definition(x, y)
    small = [v[:, :24].reshape(15, 2, 12, 2).mean((1, 3)) for v in (x, y)]
    both, _ = ssim_from_definition(*small)  # 25 // 2 >= 11: two scales
    weights = np.array([0.0448, 0.2856]) / (0.0448 + 0.2856)
    expected = structure ** weights[0] * both ** weights[1]
    assert ms_ssim(x[None], y[None])[0] == pytest.approx(expected, rel=1e-10)


def test_equal_images_and_opposites():
    x = np.random.default_rng(1).random((2, 176, 180))
    np.testing.assert_allclose(ms_ssim(x, x), 1.0)
    assert np.all(ms_ssim(x, 1 - x) == 0.0)


def test_a_collapsed_set_is_less_varied():
    rng = np.random.default_rng(2)
    varied = rng.random((12, 32, 32))
    collapsed = varied[:1] + 0.02 * rng.normal(size=varied.shape)
    assert mean_similarity(collapsed) > 0.9 > 0.3 > mean_similarity(varied)
    assert mean_similarity(varied, seed=1) == mean_similarity(varied, seed=1)


def test_too_small_images_and_sets_are_refused():
    with pytest.raises(UserError, match="window"):
        ms_ssim(np.zeros((1, 10, 40)), np.zeros((1, 10, 40)))
    with pytest.raises(UserError, match="diversity of 1"):
        mean_similarity(np.zeros((1, 20, 20)))
