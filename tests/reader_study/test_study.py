import errno
import json
from collections import Counter, defaultdict

import numpy as np
import pytest

from femur_jax.errors import UserError
from femur_jax.reader_study.build import build
from femur_jax.reader_study.design import Design
from femur_jax.reader_study.study import open_study
from tests.reader_study.conftest import DESIGN, write_dataset
from tests.reader_study.test_pictures import decode


def test_sources_and_classes_are_balanced_and_no_patient_appears_twice(built):
    count = Counter((case.block, case.source == "real", case.label) for case in built.cases)
    expected = {"practice": 1, "single": 6, "pair": 2}
    assert count == {
        (block, real, label): n
        for block, n in expected.items()
        for real in (True, False)
        for label in ("AFF", "NFF")
    }
    single = Counter(case.source for case in built.cases if case.block == "single")
    assert single == {"real": 12, "diffusion": 6, "gan": 6}
    assert len({case.radiograph for case in built.cases}) == len(built.cases)


def test_no_property_of_a_file_reveals_the_source(built):
    pairs = defaultdict(dict)
    for case in built.cases:
        path = built.image(case.image)
        pixels = decode(path.read_bytes())
        status = path.stat()
        pairs[case.pair][case.source == "real"] = (
            pixels.shape,
            status.st_size,
            status.st_mtime,
            pixels.min(),
            pixels.max(),
            len(path.stem),
        )
    assert len(pairs) == 18
    for pair in pairs.values():
        assert pair[True] == pair[False]
    names = sorted(built.cases, key=lambda case: case.image)
    real = np.array([case.source == "real" for case in names])
    assert abs(np.corrcoef(real, np.arange(len(real)))[0, 1]) < 0.4  # chance: 0.17


def test_the_same_seed_gives_the_same_bytes(built, sources, tmp_path):
    build(tmp_path / "again", DESIGN, sources.real, sources.synthetic, splits=["test"])
    assert open_study(tmp_path / "again").fingerprint == built.fingerprint
    other = Design(**(vars(DESIGN) | {"seed": 4}))
    build(tmp_path / "other", other, sources.real, sources.synthetic, splits=["test"])
    assert open_study(tmp_path / "other").fingerprint != built.fingerprint


def test_too_few_radiographs_are_refused(sources, tmp_path):
    real, synthetic = sources.real, sources.synthetic
    with pytest.raises(UserError, match=r"needs 18 real patients with NFF .* there are 16"):
        build(
            tmp_path / "a", Design(single=64, pairs=2, practice=4), real, synthetic, splits=["test"]
        )
    with pytest.raises(UserError, match="needs 11 diffusion NFF, but there are 8"):
        few = {"diffusion": synthetic["diffusion"]}
        build(tmp_path / "a", Design(single=40, pairs=2, practice=0), real, few, splits=["test"])
    with pytest.raises(UserError, match="in the split train, but there are 0"):
        build(tmp_path / "a", Design(single=4, pairs=2), real, synthetic, splits=["train"])
    assert list(tmp_path.iterdir()) == []


def test_a_patient_with_both_classes_contributes_one_radiograph(sources, tmp_path):
    real = write_dataset(tmp_path / "real", "real", per_label=6, split="test")
    for n, entry in enumerate(real.entries):
        object.__setattr__(entry, "patient", f"patient-{n // 2}")  # each patient has both classes
    design = Design(single=12, pairs=0, practice=0, repeats=0.0)
    build(tmp_path / "study", design, real, sources.synthetic, splits=["test"])
    cases = open_study(tmp_path / "study").cases
    names = {entry.name: entry.patient for entry in real.entries}
    patients = [names[case.radiograph] for case in cases if case.source == "real"]
    assert len(set(patients)) == len(patients) == 6


def test_a_change_is_detected(study):
    path = study.image(study.cases[0].image)
    data = path.read_bytes()
    path.write_bytes(data[:-1] + b"?")
    with pytest.raises(UserError, match="damaged"):
        open_study(study.folder)
    path.write_bytes(data)
    open_study(study.folder)
    text = json.loads((study.folder / "study.json").read_text())
    text["cases"][0]["source"] = "real"
    (study.folder / "study.json").write_text(json.dumps(text))
    with pytest.raises(UserError, match="damaged"):
        open_study(study.folder)


def test_a_folder_without_a_study_is_refused(tmp_path):
    with pytest.raises(UserError, match="holds no reader study"):
        open_study(tmp_path)


def test_a_failing_disk_leaves_nothing_behind(sources, tmp_path):
    """The kernel refuses writes beyond a limit on the file size, as with a full disk."""
    import resource
    import signal

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20000, before[1]))
        with pytest.raises(OSError) as error:
            build(tmp_path / "study", DESIGN, sources.real, sources.synthetic, splits=["test"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert error.value.errno == errno.EFBIG
    assert list(tmp_path.iterdir()) == []
