"""Tests of the processing of a detector's signal."""

from dataclasses import replace

import numpy as np
import pytest

from femur_jax.phantom.hospital import draw_hospitals
from femur_jax.phantom.processing import (
    LEAD,
    collimated_field,
    draw_marker,
    grid_lines,
    present,
)

RAMP = np.tile(np.linspace(0, 4, 80, dtype=np.float32), (120, 1))
ALL = (slice(0, 120), slice(0, 80))


def hospital_with(**changes):
    return replace(draw_hospitals(0, 1, (64, 64))[0], **changes)


def test_percentiles_become_black_and_white_with_the_display_curve_between():
    hospital = hospital_with(border="none", detail=0.0, gamma=2.0, black=10.0, white=90.0)
    image = present(hospital, RAMP.copy(), ALL, None, spacing=1.0)
    expected = np.clip((np.linspace(0, 1, 80) - 0.1) / 0.8, 0, 1) ** 2
    np.testing.assert_allclose(image, np.tile(expected, (120, 1)), atol=0.01)


def test_processing_removes_coarse_structure_and_keeps_detail():
    hospital = hospital_with(border="none", gamma=1.0, black=0.0, white=100.0)
    y, x = np.mgrid[:400, :300].astype(np.float32)
    stripes = 0.1 * np.sin(2 * np.pi * x / 8)
    images, field = {}, (slice(0, 400), slice(0, 300))
    for detail in (0.0, 0.8):
        signal = (3.0 * y / 400 + stripes).astype(np.float32)
        images[detail] = present(replace(hospital, detail=detail), signal, field, None, spacing=1.0)
    contrast = {d: image[200].std() / image.std() for d, image in images.items()}
    assert contrast[0.8] > 2 * contrast[0.0]


@pytest.mark.parametrize(("border", "value"), [("dark", 0.0), ("bright", 1.0)])
def test_outside_the_collimation_is_the_border(border, value):
    hospital = hospital_with(border=border)
    field = collimated_field(np.random.default_rng(1), hospital, RAMP.shape)
    image = present(hospital, RAMP.copy(), field, None, spacing=1.0)
    outside = np.ones(image.shape, bool)
    outside[field] = False
    assert 0.05 < outside.mean() < 0.35
    assert (image[outside] == value).all()
    assert 0.0 < image[field].mean() < 1.0


def test_without_border_the_whole_detector_is_exposed():
    field = collimated_field(np.random.default_rng(1), hospital_with(border="none"), (120, 80))
    assert field == ALL


@pytest.mark.parametrize("letter", ["L", "R"])
def test_marker_shadow_lies_within_the_field_for_any_block_size(letter):
    field = (slice(10, 110), slice(5, 70))
    marker = draw_marker(np.random.default_rng(2), (120, 80), field, letter)
    whole, blocks = np.zeros((120, 80), np.float32), np.zeros((120, 80), np.float32)
    marker.shade(whole, 0)
    for top in range(0, 120, 3):
        marker.shade(blocks[top : top + 3], top)
    np.testing.assert_array_equal(whole, blocks)
    rows, columns = np.nonzero(whole)
    assert rows.min() >= 10 and rows.max() < 110 and columns.min() >= 5 and columns.max() < 70
    assert np.ptp(rows) == 6 and np.ptp(columns) == 4
    assert len(rows) == {"L": 11, "R": 18}[letter]
    assert np.unique(whole).tolist() == [0.0, LEAD]


def test_lead_stops_the_beam():
    """1 mm of lead transmits less than 1 in 100 and more than 1 in 10^4 of a diagnostic beam."""
    assert 1e-4 < np.exp(-LEAD) < 1e-2


def test_grid_lines_are_aliased_by_the_pixels():
    """6 lines per mm at 6.67 pixels per mm appear as 0.67 lines per mm, weakened by the pixel."""
    hospital = hospital_with(grid=(0.01, 6.0))
    lines = grid_lines(hospital, 2000, 0.15)
    power = np.abs(np.fft.rfft(lines))
    assert np.fft.rfftfreq(2000, 0.15)[power.argmax()] == pytest.approx(1 / 0.15 - 6.0, abs=0.01)
    amplitude = 0.01 * np.sin(0.9 * np.pi) / (0.9 * np.pi)
    assert np.sqrt(2) * lines.std() == pytest.approx(amplitude, rel=0.01)
    assert not grid_lines(hospital_with(grid=(0.0, 6.0)), 100, 0.15).any()


def test_the_marker_does_not_set_the_grey_scale():
    hospital = hospital_with(border="none", detail=0.0, gamma=1.0, black=0.0, white=100.0)
    marker = draw_marker(np.random.default_rng(2), RAMP.shape, ALL, "R")
    signal = RAMP.copy()
    marker.shade(signal, 0)
    image = present(hospital, signal, ALL, marker, spacing=1.0)
    shadow = np.zeros(RAMP.shape, np.float32)
    marker.shade(shadow, 0)
    assert (image[shadow > 0] == 1.0).all()
    np.testing.assert_allclose(image[shadow == 0], RAMP[shadow == 0] / 4, atol=0.02)
