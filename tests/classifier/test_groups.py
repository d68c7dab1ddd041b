"""Groups of radiographs, for entries of a dataset that is written with known values."""

import numpy as np

from femur_jax.classifier.groups import groups_of
from femur_jax.data.radiograph import Radiograph, Source
from femur_jax.data.records import encode
from femur_jax.data.shards import DatasetWriter, RadiographDataset


def entries(folder, people):
    """Entries of radiographs with a sex, an age, a view, and further columns."""
    with DatasetWriter(folder / "d", patch=16, provenance={}) as writer:
        for n, (sex, age, view, columns) in enumerate(people):
            radiograph = Radiograph(
                np.full((16, 12), n, np.uint16),
                *(f"r{n}", "NFF", f"p{n}", "h", 0.1),
                view=view,
                source=Source(sex=sex, age=age),
                columns=columns,
            )
            writer.add(encode(radiograph, 16), "test")
    return RadiographDataset(folder / "d").entries


def test_groups_follow_from_what_is_known(tmp_path):
    people = [
        ("F", 59, "AP", {"implant": 1.0, "months": 1.0}),
        ("M", 60, "lateral", {"implant": 0.0, "months": 2.0}),
        ("unknown", 0, "unknown", {"implant": None, "months": 3.0}),
        *(("F", 80 + n, "AP", {"implant": 1.0, "months": 4.0 + n}) for n in range(3)),
    ]
    groups = groups_of(entries(tmp_path, people))
    assert groups == {
        "hospital": ["h"] * 6,
        "size": ["0 to 1 MP"] * 6,
        "sex": ["women", "men", "unknown", *["women"] * 3],
        "age": ["0 to 60 years", "60 to 70 years", "unknown", *["over 80 years"] * 3],
        "view": ["AP", "lateral", "unknown", *["AP"] * 3],
        "implant": ["implant 1", "implant 0", "unknown", *["implant 1"] * 3],
    }


def test_what_is_known_of_nobody_is_no_group(tmp_path):
    groups = groups_of(entries(tmp_path, [("unknown", 0, "unknown", {})] * 2))
    assert groups.keys() == {"hospital", "size"}
