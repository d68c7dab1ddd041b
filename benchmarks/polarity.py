"""Whether the pixels of a simulated radiograph tell it from its negative."""

import csv
import tempfile
from collections import Counter
from pathlib import Path

from benchmarks.machine import cpu
from benchmarks.records import Goal, Result, measurement
from femur_jax.data.cohort import Pseudonyms
from femur_jax.ingest.dicom import read_dicom
from femur_jax.ingest.polarity import NEGATIVE, POSITIVE, polarity
from femur_jax.phantom.cohort import write_cohort

_SEED = 2028  # not one of the cohorts that the rule was chosen on
_IMAGES = 100


@measurement("", Goal(">=", 0.99))
def inversion_told() -> Result:
    """Share of simulated radiographs and of their negatives that the pixels tell apart.

    100 radiographs of 50 patients from 50 hospitals, 700 to 1500 pixels long, are read from DICOM,
    and their grey values are exchanged for the negatives. The value is the lower one of the shares
    of both kinds; a doubtful answer counts as an error.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        labels = write_cohort(
            folder / "cohort",
            patients=_IMAGES // 2,
            images=_IMAGES,
            hospitals=_IMAGES // 2,
            aff_fraction=0.3,
            long_side=(700, 1500),
            seed=_SEED,
        )
        pseudonym = Pseudonyms(folder / "key")
        answers, negatives = Counter(), Counter()
        with labels.open(newline="") as table:
            for row in csv.DictReader(table):
                pixels = read_dicom(labels.parent / row["path"], pseudonym).pixels
                answers[polarity(pixels)] += 1
                negatives[polarity(0xFFFF - pixels)] += 1
    shares = (answers[POSITIVE] / _IMAGES, negatives[NEGATIVE] / _IMAGES)
    return Result(
        value=min(shares),
        spread=(min(shares), max(shares)),
        device=cpu(),
        details={
            "answers for radiographs": dict(answers),
            "answers for their negatives": dict(negatives),
            "radiographs taken for negatives": answers[NEGATIVE],
            "negatives taken for radiographs": negatives[POSITIVE],
        },
    )
