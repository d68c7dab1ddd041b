import io
import itertools

import numpy as np
import pytest
import scipy.ndimage
from PIL import Image

from femur_jax.data.radiograph import Box, Source
from femur_jax.data.records import RadiographEntry
from femur_jax.data.spool import FileFacts
from femur_jax.ingest.duplicates import (
    Duplicate,
    close_hashes,
    components,
    find_duplicates,
    perceptual_hash,
)


def _facts(pixels, instance="", made_from=(), label="NFF", intent="presentation"):
    entry = RadiographEntry(
        name="n",
        height=1,
        width=2,
        label=label,
        patient="p",
        hospital="h",
        spacing_mm=0.0,
        spacing_source="unknown",
        view="unknown",
        laterality="unknown",
        crop=Box(0, 0, 1, 2),
        recorded=(1, 2),
        source=Source(intent=intent),
        sha256=pixels,
    )
    return FileFacts(entry, instance, tuple(made_from), 0)


def _find(*files, patients=None):
    return find_duplicates(files, patients or [str(n) for n in range(len(files))])


def test_different_pictures_are_kept():
    result = _find(
        _facts("a", "1"), _facts("b", "2"), _facts("c"), _facts("d"), _facts("e", "3", "4")
    )
    assert (result.duplicates, result.conflicts, result.connected) == ([], [], [])


def test_of_the_same_pixels_the_first_is_kept():
    result = _find(_facts("a", "1"), _facts("b", "2"), _facts("a", "3"), _facts("a"))
    assert result.duplicates == [Duplicate(2, 0, "pixels"), Duplicate(3, 0, "pixels")]


def test_of_the_same_instance_the_first_is_kept():
    result = _find(_facts("a", "1"), _facts("b", "1"), _facts("c", "2"))
    assert result.duplicates == [Duplicate(1, 0, "instance")]


@pytest.mark.parametrize("turned", [False, True])
def test_of_an_acquisition_the_presentation_is_kept(turned):
    raw = _facts("raw", "1", intent="processing")
    shown = _facts("shown", "2", ["0", "1"])
    files, left, kept = ([shown, raw], 1, 0) if turned else ([raw, shown], 0, 1)
    assert _find(*files).duplicates == [Duplicate(left, kept, "acquisition")]


def test_two_presentations_of_an_acquisition_are_two_pictures():
    """Their common acquisition is missing, and yet their patients belong together."""
    result = _find(_facts("a", "1", ["0"]), _facts("b", "2", ["0"]), patients=["p", "q"])
    assert result.duplicates == [] and result.connected == [{"p", "q"}]


def test_a_presentation_made_from_another_is_kept():
    """A magnification is kept, for example; only pictures for processing are left out."""
    assert _find(_facts("a", "1"), _facts("b", "2", ["1"])).duplicates == []


def test_a_raw_picture_without_its_presentation_is_kept():
    assert _find(_facts("a", "1", intent="processing"), _facts("b", "2")).duplicates == []


def test_one_picture_under_both_labels_is_nowhere():
    aff, nff = _facts("a", "1", label="AFF"), _facts("a", "2")
    result = _find(_facts("b", "3"), nff, aff, patients=["p", "q", "r"])
    assert (result.conflicts, result.duplicates) == ([1, 2], [])
    assert result.connected == [{"q", "r"}]


def test_a_chain_of_pictures_is_one_conflict():
    """The first and the last file are connected only through those between them."""
    chain = [
        _facts("a", "1", label="AFF"),
        _facts("a", "2", label="AFF"),
        _facts("b", "2", label="AFF"),
        _facts("c", "3", ["2"], label="NFF"),
    ]
    result = _find(*chain, patients=["p", "q", "r", "s"])
    assert (result.conflicts, result.duplicates) == ([0, 1, 2, 3], [])
    assert result.connected == [{"p", "q", "r", "s"}]


def test_patients_are_connected_through_others():
    files = [_facts("a"), _facts("a"), _facts("b"), _facts("b"), _facts("c"), _facts("c")]
    result = _find(*files, patients=["p", "q", "q", "r", "s", "s"])
    assert result.connected == [{"p", "q", "r"}]


def test_components_are_what_chains_of_keys_reach():
    rng = np.random.default_rng(0)
    for _ in range(30):
        keys = [rng.integers(0, 30, rng.integers(0, 4)).tolist() for _ in range(25)]
        together = np.array([[bool({*a} & {*b}) for b in keys] for a in keys]) | np.eye(
            25, dtype=bool
        )
        reached = np.linalg.matrix_power(together.astype(float), 25) > 0
        expected = sorted({tuple(np.flatnonzero(row).tolist()) for row in reached})
        assert [tuple(group) for group in components(keys)] == expected
    assert components([]) == []


def _picture(seed: int) -> np.ndarray:
    """A blurred picture, as smooth as a radiograph."""
    noise = np.random.default_rng(seed).normal(size=(120, 90))
    soft = scipy.ndimage.gaussian_filter(noise, 6)
    return np.round(20000 + 15000 * soft / abs(soft).max()).astype(np.uint16)


def _distance(a: np.ndarray, b: np.ndarray) -> int:
    return (perceptual_hash(a) ^ perceptual_hash(b)).bit_count()


def test_a_picture_looks_like_its_copies():
    for seed in range(5):
        picture = _picture(seed)
        larger = scipy.ndimage.zoom(picture, 3, order=1)
        brighter = (picture * 1.4).astype(np.uint16)
        file = io.BytesIO()
        Image.fromarray((picture >> 8).astype(np.uint8)).save(file, "JPEG", quality=80)
        compressed = np.asarray(Image.open(file)).astype(np.uint16) * 257
        for copy in (larger, brighter, compressed):
            assert _distance(picture, copy) <= 3


def test_other_pictures_look_different():
    distances = [
        _distance(_picture(a), _picture(b)) for a, b in itertools.combinations(range(12), 2)
    ]
    assert min(distances) > 12
    assert np.mean(distances) == pytest.approx(32, abs=2)  # half of the bits


def test_similar_pairs_are_those_of_all():
    rng = np.random.default_rng(0)
    hashes = [int(h) for h in rng.integers(0, 2**64, 20, np.uint64)]
    hashes += [hashes[3], hashes[5] ^ 0b111, hashes[7] ^ (1 << 63), hashes[9] ^ 0b1111]
    expected = [
        (a, b, (hashes[a] ^ hashes[b]).bit_count())
        for a, b in itertools.combinations(range(24), 2)
        if (hashes[a] ^ hashes[b]).bit_count() <= 3
    ]
    assert len(expected) == 3
    assert close_hashes(hashes, most=3) == expected
    assert close_hashes([], most=3) == []
