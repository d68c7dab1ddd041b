import numpy as np
import pytest

from femur_jax.ingest.dicom import read_dicom
from femur_jax.ingest.image_file import read_image_file
from femur_jax.ingest.polarity import DOUBTFUL, NEGATIVE, POSITIVE, polarity
from tests.ingest.conftest import same

OPPOSITE = {POSITIVE: NEGATIVE, NEGATIVE: POSITIVE, DOUBTFUL: DOUBTFUL}


def _limb(shape=(300, 200), air=5000, flesh=25_000, bone=45_000):
    """A thigh from top to bottom with air on both sides."""
    columns = np.linspace(-1, 1, shape[1])
    profile = np.where(abs(columns) < 0.6, flesh, air) + (bone - flesh) * (abs(columns) < 0.15)
    noise = np.random.default_rng(0).normal(0, 500, shape)
    return np.clip(profile + noise, 0, 65535).astype(np.uint16)


@pytest.mark.parametrize("turns", [0, 1])
@pytest.mark.parametrize("border", ["none", "black", "white"])
def test_a_limb_and_its_negative(turns, border):
    picture = np.rot90(_limb(), turns).copy()
    if border != "none":
        value = 0 if border == "black" else 65535
        picture[:20] = picture[-12:] = value
        picture[:, :15] = picture[:, -30:] = value
    assert polarity(picture) == POSITIVE
    assert polarity(65535 - picture) == NEGATIVE


@pytest.mark.parametrize("shape", [(1, 1), (4, 300), (40, 40), (700, 500)])
def test_noise_is_doubtful(shape):
    noise = np.random.default_rng(0).integers(0, 65536, shape).astype(np.uint16)
    assert polarity(noise) == DOUBTFUL
    assert polarity(np.full(shape, 9, np.uint16)) == DOUBTFUL


@pytest.mark.filterwarnings("ignore")  # pydicom warns of the real files' headers
def test_real_radiographs_and_their_negatives(real_radiographs):
    """None is taken for its opposite. Most are chests, which have no air at the borders."""
    pictures = [read_image_file(path) for path in sorted((real_radiographs / "chest").iterdir())]
    for name in ("RG1_J2KI", "RG2_JPLL"):
        pictures.append(read_dicom(real_radiographs / "dicom" / f"{name}.dcm", same))
    answers = [polarity(picture.pixels) for picture in pictures]
    assert NEGATIVE not in answers and POSITIVE in answers
    for picture, answer in zip(pictures, answers, strict=True):
        assert polarity(65535 - picture.pixels) == OPPOSITE[answer]
