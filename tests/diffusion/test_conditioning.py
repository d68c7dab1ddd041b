import numpy as np

from femur_jax.diffusion.conditioning import NO_LABEL, Conditioning


def conditioning(side=8, **changes):
    values = {
        "context": np.ones((1, side, side, 1)),
        "context_sigma": [0.1],
        "origin": [[0, 0]],
        "level_size": [[10, 20]],
        "size": [[10, 20]],
        "level": [1],
        "label": [0],
        "spacing_mm": [0.2],
        "mirrored": [0],
    } | changes
    real = ("context", "context_sigma", "spacing_mm")
    return Conditioning(
        **{k: np.array(v, np.float32 if k in real else np.int32) for k, v in values.items()}
    )


def test_mask_ends_where_the_radiograph_ends():
    mask = conditioning(16, origin=[[4, 8]]).mask()
    expected = np.zeros((16, 16))
    expected[: 10 - 4, : 20 - 8] = 1
    np.testing.assert_array_equal(mask[0, :, :, 0], expected)


def test_coordinates_are_true_to_the_aspect_ratio():
    coordinates = conditioning(origin=[[2, 4]]).coordinates()
    for row, column in ((0, 0), (5, 7)):
        y, x = 2 + row + 0.5, 4 + column + 0.5
        expected = ((y - 5) / 10, (x - 10) / 10)  # half of the longer side is 10 pixels
        np.testing.assert_allclose(coordinates[0, row, column], expected, rtol=1e-6)


def test_the_context_is_hidden_outside_of_the_radiograph_and_at_level_0():
    tile = conditioning(16, origin=[[4, 8]])
    context = tile.channels()[0, :, :, 0]
    np.testing.assert_array_equal(context, tile.mask()[0, :, :, 0])
    assert context.any()
    assert not conditioning(level=[0]).channels()[..., 0].any()


def test_the_vector_tells_everything_apart():
    base = conditioning().vector(3)[0]
    for changes in (
        {"label": [1]},
        {"label": [NO_LABEL]},
        {"level": [0]},
        {"level": [2]},
        {"size": [[20, 20]]},
        {"size": [[10, 40]]},
        {"level_size": [[5, 10]]},
        {"spacing_mm": [0.4]},
        {"spacing_mm": [0.0]},
        {"mirrored": [1]},
        {"context_sigma": [0.5]},
    ):
        assert not np.allclose(base, conditioning(**changes).vector(3)[0])
    assert np.isfinite(conditioning(spacing_mm=[0.0], context_sigma=[0.0]).vector(3)).all()
    np.testing.assert_array_equal(
        conditioning().without_label().vector(3), conditioning(label=[NO_LABEL]).vector(3)
    )
