"""Files with random damage are read or rejected."""

import numpy as np
import pytest

from benchmarks.faults import FAULTS, File, kinds, with_table
from benchmarks.mutations import mutated, outcome
from femur_jax.ingest.dicom import read_dicom
from tests.ingest.conftest import LOSSLESS, LOSSY, smooth_values

pytestmark = pytest.mark.filterwarnings("ignore")  # pydicom warns of the damaged values


@pytest.fixture(scope="module")
def file(dicom_file, tmp_path_factory):
    """A tiny radiograph in a syntax, with a full header; the file and its picture."""

    def make(name, shape=(33, 47)):
        bits = 8 if name == "JPEG baseline" else 12
        path = dicom_file(
            tmp_path_factory.mktemp("mutations") / "f",
            smooth_values(bits, shape=shape),
            syntax=(LOSSLESS | LOSSY)[name],
            bits=bits,
            WindowCenter=["2000", "1800"],
            WindowWidth=["4000", "100"],
            PixelSpacing=[0.1, 0.1],
            ShutterShape="CIRCULAR",
            CenterOfCircularShutter=[16, 20],
            RadiusOfCircularShutter=30,
        )
        return path, read_dicom(path, lambda kind, name: "")

    return make


@pytest.mark.parametrize("name", LOSSLESS | LOSSY)
def test_damage_raises_nothing_but_rejections(file, tmp_path, name):
    path, picture = file(name)
    whole, outcomes = path.read_bytes(), set()
    for seed in range(40):
        damaged = mutated(whole, np.random.default_rng(seed))
        assert damaged != whole
        (tmp_path / "f").write_bytes(damaged)
        outcomes.add(outcome(tmp_path / "f", picture))
    assert "rejected" in outcomes


@pytest.mark.parametrize("name", LOSSLESS | LOSSY)
def test_no_file_that_was_cut_off_shows_a_wrong_picture(file, tmp_path, name):
    path, picture = file(name)
    whole = path.read_bytes()
    for length in np.random.default_rng(0).integers(len(whole), size=30):
        (tmp_path / "f").write_bytes(whole[:length])
        # The last bytes of a file may be padding.
        assert outcome(tmp_path / "f", picture) in ("rejected", "unchanged")


def test_a_changed_byte_in_a_jpeg_ls_scan_is_seen(file, tmp_path):
    path, picture = file("JPEG-LS")
    whole = path.read_bytes()
    scan = whole.index(b"\xff\xda") + 10
    rng = np.random.default_rng(0)
    for position in rng.integers(scan, whole.index(b"\xff\xd9", scan), size=60):
        changed = bytearray(whole)
        changed[position] ^= int(rng.integers(1, 256))
        (tmp_path / "f").write_bytes(changed)
        assert outcome(tmp_path / "f", picture) == "rejected"


def test_outcomes_tell_pixels_from_facts(file, dicom_file, tmp_path):
    """The measurement detects each outcome that it counts."""
    path, picture = file("explicit")
    assert outcome(path, picture) == "unchanged"
    whole = path.read_bytes()
    for old, new, expected in (
        (b"0.1\\0.1", b"0.3\\0.3", "facts"),
        (b"4000\\100", b"3000\\100", "pixels"),
    ):
        assert whole.count(old) == 1
        (tmp_path / "f").write_bytes(whole.replace(old, new))
        assert outcome(tmp_path / "f", picture) == expected


@pytest.mark.parametrize("name", LOSSLESS | LOSSY)
def test_files_of_elements_have_the_same_bytes(file, name):
    """Faults are those of the one element that they change."""
    path, _ = file(name)
    syntax = (LOSSLESS | LOSSY)[name]
    written, whole = File.of(path.read_bytes(), syntax), path.read_bytes()
    if name == "deflated":  # compressed otherwise
        assert File.of(written.to_bytes(), syntax) == written
    else:
        assert written.to_bytes() == whole


@pytest.mark.parametrize("kind", FAULTS)
@pytest.mark.parametrize("name", ["explicit", "big-endian", "implicit", "RLE", "JPEG lossless"])
def test_a_faulty_file_is_refused_or_shows_the_same_picture(file, tmp_path, name, kind):
    # A wrong sign shows in rows that cross the middle of the range often enough.
    path, _ = file(name, shape=(60, 100))
    whole = File.of(path.read_bytes(), (LOSSLESS | LOSSY)[name])
    if kind == "lookup table":
        whole = with_table(whole)
    if kind not in kinds(whole):
        pytest.skip(f"{name} files cannot have it")
    (tmp_path / "f").write_bytes(whole.to_bytes())
    picture = read_dicom(tmp_path / "f", lambda kind, name: "")
    for seed in range(12):
        fault = FAULTS[kind](whole, np.random.default_rng(seed))
        (tmp_path / "f").write_bytes(fault.to_bytes())
        assert outcome(tmp_path / "f", picture) != "pixels", seed
