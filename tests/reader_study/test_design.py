from collections import Counter

import pytest

from femur_jax.errors import UserError
from femur_jax.reader_study.design import Design, schedule
from tests.reader_study.conftest import DESIGN


def test_a_session_shows_every_radiograph_in_an_order_that_depends_on_the_reader(built):
    items = schedule(DESIGN, built.cases, "anna")
    assert items == schedule(DESIGN, built.cases, "anna")
    assert items != schedule(DESIGN, built.cases, "bo")
    assert [item.block for item in items] == (
        ["display"] + ["practice"] * 4 + ["single"] * 30 + ["pair"] * 4
    )
    for block in ("practice", "single", "pair"):
        shown = {image for item in items if item.block == block for image in item.images}
        assert shown == {case.image for case in built.cases if case.block == block}


def test_repeats_appear_once_and_late(built):
    single = [
        item.images[0] for item in schedule(DESIGN, built.cases, "anna") if item.block == "single"
    ]
    repeated = [image for image, count in Counter(single).items() if count == 2]
    assert len(repeated) == 6 and len(single) == 30
    for image in repeated:
        first, second = (n for n, other in enumerate(single) if other == image)
        assert second - first >= 24 // 3


def test_pairs_have_one_class_and_the_real_one_is_on_the_left_in_half_of_them(built):
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
def test_an_invalid_design_is_refused(wrong):
    with pytest.raises(UserError, match=f"--{next(iter(wrong))}"):
        Design(**wrong)
