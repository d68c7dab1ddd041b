"""FID and KID put degraded sets of simulated radiographs behind better ones."""

import pytest

from benchmarks.experiments.degraded_sets import CHOICES, PIXELS, features_for
from femur_jax.data.letterbox import paste_centred
from femur_jax.data.pyramid import shrink
from femur_jax.data.shards import RadiographDataset
from femur_jax.evaluation.distances import frechet_distance, kernel_distance
from femur_jax.evaluation.features import extract_features
from femur_jax.ingest.pipeline import ingest
from femur_jax.phantom.cohort import write_cohort

DISTANCES = [frechet_distance, lambda x, y: kernel_distance(x, y).value]


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory):
    """Half of 100 simulated radiographs to train on, the others held out."""
    folder = tmp_path_factory.mktemp("phantoms")
    labels = write_cohort(
        folder / "cohort",
        patients=100,
        images=100,
        hospitals=4,
        aff_fraction=0.5,
        long_side=(64, 80),
        coarsest_mm=1.2,
        seed=1,
    )
    ingest(
        labels.parent,
        labels,
        folder / "dataset",
        patch=32,
        key_file=folder / "key",
        fractions=(0.0, 0.5),
    )
    return RadiographDataset(folder / "dataset")


def features(extractor, dataset, chosen, change=lambda image, seed: image):
    """Of radiographs that were changed: small letterboxes, or their middles as they are."""
    side = extractor.side
    pictures = []
    for seed, n in enumerate(chosen):
        image = change(dataset.read(n), seed)
        if side > 12:
            top, left = (max(0, (length - side) // 2) for length in image.shape)
            image = image[top : top + side, left : left + side]
        pictures.append(paste_centred(shrink(image, (side, side)), (side, side))[0])
    return extract_features(extractor, pictures)


@pytest.mark.parametrize("kind", PIXELS)
def test_the_more_blur_or_noise_the_farther(phantoms, kind):
    extractor, train = features_for(kind), phantoms.split("train")
    reference = features(extractor, phantoms, phantoms.split("test"))
    sets = [features(extractor, phantoms, train)]
    sets += [features(extractor, phantoms, train, change) for change in PIXELS[kind]]
    for distance in DISTANCES:
        floor, little, much = (distance(reference, x) for x in sets)
        assert floor < little < much


@pytest.mark.parametrize("kind", CHOICES)
def test_dropped_modes_wrong_balance_and_copies_are_farther(phantoms, kind):
    extractor, train = features_for(kind), phantoms.split("train")
    reference, same, worse = (
        features(extractor, phantoms, chosen)
        for chosen in (phantoms.split("test"), train, CHOICES[kind](phantoms, train))
    )
    # So few radiographs show a wrong balance in FID alone.
    for distance in DISTANCES[: 1 if kind == "wrong class balance" else 2]:
        assert distance(reference, same) < distance(reference, worse)
