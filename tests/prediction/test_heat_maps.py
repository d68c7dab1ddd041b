"""Heat maps against the equations that define them, and against the places of known spots."""

import jax.numpy as jnp
import numpy as np
import pytest

from femur_jax.evaluation.operating_point import exact_share
from femur_jax.prediction.basis import seen
from femur_jax.prediction.heat_maps import HeatMaps, network_inputs, peak, smooth
from femur_jax.stages.predict import open_classifier
from tests.prediction.conftest import RADIUS


@pytest.fixture(scope="module")
def model(run):
    return open_classifier(run)


@pytest.fixture(scope="module")
def heat_maps(model):
    return HeatMaps(model.task, model.params)


def logit(model, images):
    return np.asarray(model.task.model.apply(model.params, jnp.asarray(images))[0])


def test_blurred_input_keeps_the_mask_and_has_less_detail(model, spots):
    plain, blurred = network_inputs(seen(model.task, spots[0], 0))
    np.testing.assert_array_equal(plain[..., 2], blurred[..., 2])
    assert not blurred[plain[..., 2] == 0].any()
    detail = [np.diff(one[..., :2], axis=1).std() for one in (plain, blurred)]
    assert detail[1] < 0.5 * detail[0]


def test_integrated_gradients_are_complete(model, heat_maps, spots):
    """Their sum is the difference of the logits at the two ends of the path (proposition 1)."""
    for n in (0, 3, 90):
        radiograph = seen(model.task, spots[0], n)
        plain, blurred = network_inputs(radiograph)
        [change] = logit(model, plain) - logit(model, blurred)
        assert abs(change) > 0.5
        assert heat_maps.gradients(radiograph).sum() == pytest.approx(change, rel=0.05)


def test_occlusion_is_the_mean_fall_of_the_windows_over_a_pixel(model, heat_maps, spots):
    radiograph = seen(model.task, spots[0], 1)
    top, left, height, width = radiograph["box"]
    heat = heat_maps.occlusion(radiograph)
    assert heat.shape == (height, width)
    plain, blurred = network_inputs(radiograph)
    side = round(0.2 * min(height, width))
    # The first pixel lies in a single window, the last one too.
    for y, x in ((top, left), (top + height - side, left + width - side)):
        hidden = plain.copy()
        hidden[0, y : y + side, x : x + side] = blurred[0, y : y + side, x : x + side]
        [fall] = logit(model, plain) - logit(model, hidden)
        found = heat[0, 0] if (y, x) == (top, left) else heat[-1, -1]
        assert found == pytest.approx(fall, rel=1e-3, abs=1e-4)


def test_maps_point_at_the_spots(model, heat_maps, spots):
    """The pointing game (Zhang et al. 2016, arXiv 1608.00507) against a random point."""
    dataset, places = spots
    hits, areas = {"occlusion": [], "gradients": []}, []
    for n in dataset.split("test"):
        entry = dataset.entries[n]
        radiograph = seen(model.task, dataset, n)
        scale = radiograph["box"][2] / entry.height
        maps = {
            "occlusion": heat_maps.occlusion(radiograph),
            "gradients": smooth(heat_maps.gradients(radiograph)),
        }
        for name, heat in maps.items():
            apart = np.subtract(peak(heat), places[entry.name] * scale)
            hits[name].append(np.hypot(*apart) < 2 * RADIUS * scale)
        areas.append(np.pi * (2 * RADIUS) ** 2 / (entry.height * entry.width))
    for name, found in hits.items():
        share = exact_share(np.array(found))
        assert share.low > 2 * np.mean(areas), (name, share, np.mean(areas))


def test_the_sign_says_which_class_an_area_speaks_for(model, heat_maps, spots):
    dataset, _ = spots
    for label, sign in (("AFF", 1), ("NFF", -1)):
        own = [n for n in dataset.split("test") if dataset.entries[n].label == label][:4]
        maps = [heat_maps.occlusion(seen(model.task, dataset, n)) for n in own]
        strongest = [heat.flat[np.abs(heat).argmax()] for heat in maps]
        assert np.mean(np.sign(strongest) == sign) > 0.7
