import numpy as np
import pytest
from ml_collections import ConfigDict

from femur_jax.data.letterbox import letterbox
from femur_jax.data.loader import Pool
from femur_jax.data.strategies import known_sizes, letterboxed_patch, patch_streams
from femur_jax.errors import UserError


def config(strategy, **changes):
    values = {"strategy": strategy, "mirror": True}
    values |= {"level_weights": (1.0,), "patch_shares": (0.5, 0.3, 0.2)}
    return ConfigDict(values | changes)


def test_patch_diffusion_draws_whole_images_and_smaller_patches(dataset):
    streams = patch_streams(Pool([dataset]), config("patch_diffusion"), seed=0)
    assert [weight for _, weight in streams] == [0.5, 0.3, 0.2]
    for (samples, _), side in zip(streams, (16, 8, 4), strict=True):
        patches = [samples[n] for n in range(60)]
        assert all(patch["pixels"].shape == (side, side) for patch in patches)
        assert all(patch["context"].shape == (side, side, 1) for patch in patches)
        assert all(patch["level"] == 0 and max(patch["level_size"]) <= 16 for patch in patches)
        origins = {tuple(patch["origin"]) for patch in patches}
        assert origins == {(0, 0)} if side == 16 else len(origins) > 10
        assert 15 < sum(int(patch["mirrored"]) for patch in patches) < 45


def test_a_share_of_zero_draws_nothing(dataset):
    chosen = config("patch_diffusion", patch_shares=(1.0, 0.0))
    [(samples, weight)] = patch_streams(Pool([dataset]), chosen, seed=0)
    assert weight == 1.0 and samples[0]["pixels"].shape == (16, 16)


def test_letterboxed_patches_hold_the_whole_radiograph(dataset):
    for n in range(len(dataset.entries)):
        boxed = letterbox(dataset, n, (16, 16))
        top, left, height, width = boxed["box"]
        expected = boxed["pixels"][top : top + height, left : left + width]
        for mirrored, step in ((False, 1), (True, -1)):
            patch = letterboxed_patch(dataset, n, mirrored=mirrored)
            np.testing.assert_array_equal(patch["pixels"][:height, :width], expected[:, ::step])
            assert tuple(patch["level_size"]) == (height, width)
            assert patch["mirrored"] == mirrored and not patch["context"].any()
        entry = dataset.entries[n]
        # The radiograph is reduced from a level whose sides are rounded already.
        [known] = known_sizes("letterbox", entry.height, entry.width, 16)
        assert np.abs(np.subtract(known, (height, width))).max() <= 1
    [(samples, _)] = patch_streams(Pool([dataset]), config("letterbox"), seed=0)
    assert 15 < sum(int(samples[n]["mirrored"]) for n in range(60)) < 45


def test_strategies_know_the_sizes_they_train_on(dataset):
    for n, entry in enumerate(dataset.entries):
        sizes = dataset.level_sizes(n)
        assert known_sizes("pyramid", entry.height, entry.width, 16) == sizes
        assert known_sizes("patch_diffusion", entry.height, entry.width, 16) == sizes[:1]


def test_an_unknown_strategy_is_reported(dataset):
    with pytest.raises(UserError, match="pyramide"):
        patch_streams(Pool([dataset]), config("pyramide"), seed=0)
