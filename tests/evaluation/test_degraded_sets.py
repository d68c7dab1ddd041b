"""FID and KID put degraded sets of simulated radiographs behind better ones."""

import csv
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks.experiments.degraded_sets import CHOICES, PIXELS, features_for
from femur_jax.data.letterbox import paste_centred
from femur_jax.data.pyramid import shrink
from femur_jax.evaluation.distances import frechet_distance
from femur_jax.evaluation.features import extract_features
from femur_jax.evaluation.kernels import kernel_distance
from femur_jax.ingest.dicom import read_dicom
from femur_jax.phantom.cohort import write_cohort

DISTANCES = [frechet_distance, lambda x, y: kernel_distance(x, y, permutations=0).value]
COUNT = 72


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory):
    """Pixels, label and hospital of simulated radiographs, each of another patient."""
    labels = write_cohort(
        tmp_path_factory.mktemp("phantoms") / "cohort",
        patients=COUNT,
        images=COUNT,
        hospitals=4,
        aff_fraction=0.5,
        long_side=(64, 80),
        coarsest_mm=1.2,
        seed=1,
        workers=1,
        progress=False,
    )
    with labels.open(newline="") as file:
        rows = list(csv.DictReader(file))
    pictures = [read_dicom(labels.parent / row["path"], lambda kind, name: "") for row in rows]
    return [
        SimpleNamespace(
            pixels=picture.pixels[picture.crop.slices], label=row["label"], hospital=row["hospital"]
        )
        for picture, row in zip(pictures, rows, strict=True)
    ]


@pytest.fixture(scope="module")
def halves():
    """Random halves of the radiographs, in pairs. One pair alone may be a lucky one."""
    rng = np.random.default_rng(0)
    return [np.split(rng.permutation(COUNT), 2) for _ in range(16)]


def features(kind, phantoms, change=lambda image, seed: image):
    """Of radiographs that were changed: small letterboxes, or their middles as they are."""
    extractor = features_for(kind)
    side = extractor.side
    pictures = []
    for seed, phantom in enumerate(phantoms):
        image = change(phantom.pixels, seed)
        if side > 12:
            top, left = (max(0, (length - side) // 2) for length in image.shape)
            image = image[top : top + side, left : left + side]
        pictures.append(paste_centred(shrink(image, (side, side)), (side, side))[0])
    return extract_features(extractor, pictures)


@pytest.mark.parametrize("kind", PIXELS)
def test_the_more_blur_or_noise_the_farther(phantoms, halves, kind):
    real = features(kind, phantoms)
    sets = [real, *(features(kind, phantoms, change) for change in PIXELS[kind])]
    for distance in DISTANCES:
        floor, little, much = (
            np.mean([distance(real[half], x[other]) for half, other in halves]) for x in sets
        )
        assert floor < little < much


@pytest.mark.parametrize("kind", CHOICES)
def test_dropped_modes_wrong_balance_and_copies_are_farther(phantoms, halves, kind):
    real = features(kind, phantoms)
    worse = [CHOICES[kind](phantoms, other) for _, other in halves]
    for distance in DISTANCES:
        floor = [distance(real[half], real[other]) for half, other in halves]
        assert np.mean(floor) < np.mean(
            [distance(real[half], real[bad]) for (half, _), bad in zip(halves, worse, strict=True)]
        )
