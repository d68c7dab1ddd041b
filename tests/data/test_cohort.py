import hashlib
import hmac
import random
import stat

import pytest

from femur_jax.data.cohort import SPLITS, Entry, Pseudonyms, read_labels, split_patients
from femur_jax.errors import UserError

HEADER = "path,patient_id,hospital,label,view,laterality\n"
GOOD = HEADER + "a.png,p1,h1,AFF,AP,L\nb.png,p1,h1,AFF,,\nc.png,p2,h2,NFF,lateral,R\n"


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "radiographs"
    folder.mkdir()
    for name in "abc":
        (folder / f"{name}.png").write_bytes(b"")
    return folder


def _read(folder, text, encoding="utf-8"):
    labels = folder.parent / "labels.csv"
    labels.write_bytes(text.encode(encoding))
    return read_labels(labels, folder)


def test_reads_a_table(folder):
    assert _read(folder, GOOD) == [
        Entry("a.png", "p1", "h1", "AFF", "AP", "L"),
        Entry("b.png", "p1", "h1", "AFF", "unknown", "unknown"),
        Entry("c.png", "p2", "h2", "NFF", "lateral", "R"),
    ]


def test_reads_what_spreadsheets_write(folder):
    plain = "label,path,comment,hospital,patient_id\r\nNFF, a.png ,x,Örebro,1\r\n"
    expected = [Entry("a.png", "1", "Örebro", "NFF", "unknown", "unknown")]
    assert _read(folder, plain, "utf-8-sig") == expected


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("path,patient_id,label\na.png,p,AFF\n", "no column 'hospital'"),
        ("path;patient_id;hospital;label\na.png;p;h;AFF\n", "commas"),
        ("", "no column 'path'"),
        (HEADER, "lists no radiograph"),
        (HEADER + "a.png,p,h,aff,,\n", "line 2: the label is 'aff'"),
        (HEADER + "a.png,p,h,AFF,,\na.png,p,h,AFF,,\n", "a.png twice"),
        (HEADER + "a.png,p,h,AFF,,\nz.png,p,h,AFF,,\n", "line 3: there is no file z.png"),
        (HEADER + "a.png,p7,h,AFF,,\nb.png,p7,h,NFF,,\n", "patient p7 both labels"),
        (HEADER + "a.png,p,h,AFF,oblique,\n", "view is 'oblique'"),
        (HEADER + "a.png,p,h,AFF,,left\n", "laterality is 'left'"),
        (HEADER + "a.png,,h,AFF,,\n", "line 2: patient_id is empty"),
        (HEADER + "a.png,p,h\n", "line 2: label is empty"),
    ],
)
def test_bad_tables_are_named(folder, text, named):
    with pytest.raises(UserError, match=named):
        _read(folder, text)


def test_other_encodings_are_named(folder):
    with pytest.raises(UserError, match="UTF-8"):
        _read(folder, HEADER + "a.png,p,Örebro,AFF,,\n", "latin-1")


def test_missing_places_are_named(folder, tmp_path):
    with pytest.raises(UserError, match=r"no label table .*nolabels\.csv"):
        read_labels(tmp_path / "nolabels.csv", folder)
    with pytest.raises(UserError, match=r"no folder .*nowhere"):
        read_labels(tmp_path / "labels.csv", tmp_path / "nowhere")
    empty, labels = tmp_path / "empty", tmp_path / "labels.csv"
    empty.mkdir()
    labels.write_text(GOOD)
    with pytest.raises(UserError, match="empty is empty"):
        read_labels(labels, empty)


def _cohort(aff=20, nff=60, images=3):
    return [
        Entry(f"{label}{n}_{i}.png", f"{label}{n}", "h", label, "AP", "L")
        for label, patients in (("AFF", aff), ("NFF", nff))
        for n in range(patients)
        for i in range(images)
    ]


def test_splits_are_stratified():
    split = split_patients(_cohort(), fractions=(0.15, 0.2), seed=0)
    counts = {
        (label, name): sum(s == name and p.startswith(label) for p, s in split.items())
        for label in ("AFF", "NFF")
        for name in SPLITS
    }
    assert counts == {
        ("AFF", "train"): 13,
        ("AFF", "validation"): 3,
        ("AFF", "test"): 4,
        ("NFF", "train"): 39,
        ("NFF", "validation"): 9,
        ("NFF", "test"): 12,
    }


def test_splits_may_be_left_out():
    split = split_patients(_cohort(), fractions=(0.0, 0.25), seed=0)
    assert sorted(set(split.values())) == ["test", "train"]
    assert set(split_patients(_cohort(), fractions=(0.0, 1.0), seed=0).values()) == {"test"}


def test_splits_depend_on_patients_and_seed_alone():
    entries = _cohort()
    split = split_patients(entries, fractions=(0.15, 0.2), seed=0)
    shuffled = random.Random(1).sample(entries, len(entries))
    assert split_patients(shuffled, fractions=(0.15, 0.2), seed=0) == split
    assert split_patients(entries[::3], fractions=(0.15, 0.2), seed=0) == split
    assert split_patients(entries, fractions=(0.15, 0.2), seed=1) != split


@pytest.mark.parametrize(
    ("aff", "fractions", "named"),
    [
        (5, (0.15, 0.2), "5 patients with label AFF leave 1 for the validation"),
        (20, (0.5, 0.45), "leave 1 for the train"),
        (20, (0.005, 0.2), "leave 0 for the validation"),
        (20, (0.9, 0.9), "leave 0 for the train"),
        (3, (0.5, 0.5), "leave 0 for the train"),
        (0, (0.3, 0.3), "0 patients with label AFF"),
    ],
)
def test_too_few_patients_are_named(aff, fractions, named):
    with pytest.raises(UserError, match=named):
        split_patients(_cohort(aff), fractions=fractions, seed=0)


def test_pseudonyms_are_keyed_hashes(tmp_path):
    key = bytes(range(32))
    (tmp_path / "key").write_bytes(key)
    expected = hmac.digest(key, b"patient\0Anna \xc3\x85", hashlib.sha256).hex()[:16]
    assert Pseudonyms(tmp_path / "key")("patient", "Anna Å") == expected


def test_a_key_is_made_once_for_its_owner_alone(tmp_path):
    file = tmp_path / "key"
    first = Pseudonyms(file)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert len(file.read_bytes()) == 32
    assert Pseudonyms(file)("patient", "x") == first("patient", "x")
    assert first("hospital", "x") != first("patient", "x") != first("patient", "y")
    assert Pseudonyms(tmp_path / "other")("patient", "x") != first("patient", "x")


def test_a_wrong_key_is_named(tmp_path):
    (tmp_path / "key").write_bytes(b"short")
    for place in (tmp_path / "key", tmp_path):
        with pytest.raises(UserError, match="no key of 32 bytes"):
            Pseudonyms(place)
    assert (tmp_path / "key").read_bytes() == b"short"
