from collections import Counter

import pytest

from femur_jax.errors import UserError
from femur_jax.reader_study.design import Design, schedule
from tests.reader_study.conftest import DESIGN


def test_a_session_shows_everything_in_an_order_of_the_readers_own(built):
    items = schedule(DESIGN, built.cases, "anna")
    assert items == schedule(DESIGN, built.cases, "anna")
    assert items != schedule(DESIGN, built.cases, "bo")
    assert [item.block for item in items] == (
        ["display"] + ["practice"] * 4 + ["single"] * 30 + ["pair"] * 4
    )
    for block in ("practice", "single", "pair"):
        shown = {image for item in items if item.block == block for image in item.images}
        assert shown == {case.image for case in built.cases if case.block == block}


def test_repeats_come_late_and_once(built):
    single = [
        item.images[0] for item in schedule(DESIGN, built.cases, "anna") if item.block == "single"
    ]
    again = [image for image, count in Counter(single).items() if count == 2]
    assert len(again) == 6 and len(single) == 30
    for image in again:
        first, second = (n for n, other in enumerate(single) if other == image)
        assert second - first >= 24 // 3


def test_pairs_are_of_one_class_and_half_have_the_real_one_on_the_left(built):
    cases = {case.image: case for case in built.cases}
    for reader in ("anna", "bo", "carl"):
        pairs = [
            item.images for item in schedule(DESIGN, built.cases, reader) if item.block == "pair"
        ]
        left, right = ([cases[pair[side]] for pair in pairs] for side in (0, 1))
        assert [case.label for case in left] == [case.label for case in right]
        assert sum(case.source == "real" for case in left) == 2
        assert sum(case.source == "real" for case in right) == 2


@pytest.mark.parametrize(
    "wrong",
    [
        {"single": 6},
        {"single": 0},
        {"pairs": 3},
        {"practice": -4},
        {"repeats": 0.5},
        {"margin": 0.5},
    ],
)
def test_a_design_that_cannot_be_is_refused(wrong):
    with pytest.raises(UserError, match=f"--{next(iter(wrong))}"):
        Design(**wrong)
