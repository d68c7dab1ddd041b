"""The page on which readers accept or reject radiographs: what it shows, and what it decides."""

from contextlib import closing

import numpy as np
import pytest

from femur_jax.data.shards import RadiographDataset
from femur_jax.errors import UserError
from femur_jax.reader_study.answers import AnswerStore
from femur_jax.reader_study.study import open_study
from femur_jax.release.review import build_review, rejected_in
from tests.reader_study.conftest import write_dataset
from tests.reader_study.test_pictures import decode

SHOWN = [0, 2, 3, 5]


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory) -> RadiographDataset:
    folder = tmp_path_factory.mktemp("synthetic") / "gan"
    return write_dataset(folder, "synthetic", per_label=3, sides=(40, 60))


@pytest.fixture
def review(synthetic, tmp_path):
    build_review(tmp_path / "review", synthetic, SHOWN)
    return tmp_path / "review"


def answer(folder, reader, verdicts):
    """Answers the next items of a session that was perhaps left before."""
    with closing(AnswerStore(open_study(folder))) as store:
        store.invite(reader)
        for verdict in verdicts:
            number = store.next_number(reader)
            answers = {"verdict": verdict} if number else {"visible": []}
            store.save(reader, number, answers, 10, final=True)


def test_radiographs_are_whole_and_have_16_bits(review, synthetic):
    study = open_study(review)
    assert [case.radiograph for case in study.cases] == [synthetic.entries[n].name for n in SHOWN]
    for case, n in zip(study.cases, SHOWN, strict=True):
        shown, pixels = decode(study.image(case.image).read_bytes()), synthetic.read(n)
        assert shown.shape == pixels.shape
        # Only the contrast is stretched.
        assert np.corrcoef(shown.ravel(), pixels.ravel())[0, 1] > 0.99


def test_one_rejection_is_enough_and_a_session_resumes(review, synthetic):
    answer(review, "anna", [0, 2, 2])
    with pytest.raises(UserError, match="anna has answered 3 of 5 pages"):
        rejected_in(review, synthetic, SHOWN)
    answer(review, "anna", [1, 2])
    assert rejected_in(review, synthetic, SHOWN) == ({3}, 1)
    answer(review, "bo", [0, 1, 2, 2, 2])
    assert rejected_in(review, synthetic, SHOWN) == ({0, 3}, 2)


def test_a_review_of_other_radiographs_is_refused(review, synthetic):
    with pytest.raises(UserError, match="Nobody has judged"):
        rejected_in(review, synthetic, SHOWN)
    with pytest.raises(UserError, match="shows other radiographs"):
        rejected_in(review, synthetic, SHOWN[1:])
