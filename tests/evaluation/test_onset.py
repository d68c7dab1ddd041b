"""The training step from which copies are found."""

import pytest

from femur_jax.evaluation.onset import Point, before_onset, onset_table


def points(found_copies):
    return [
        Point(100 * n, int(copied), 0.1, 0.01, 0.9, 0.5, copied)
        for n, copied in enumerate(found_copies, start=1)
    ]


@pytest.mark.parametrize(
    ("found_copies", "step", "words"),
    [
        ([False, False, True, True], 200, "--config.sample.snapshot=200"),
        ([False, True, False, True], 100, "--config.sample.snapshot=100"),
        ([False, False, False], 300, "No copies up to step 300"),
        ([True, True], None, "snapshot_every"),
    ],
)
def test_the_step_before_the_first_copies_is_named(found_copies, step, words):
    snapshots = points(found_copies)
    assert before_onset(snapshots[::-1]) == step
    assert words in onset_table(snapshots)
