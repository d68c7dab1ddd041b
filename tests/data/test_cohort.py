import hashlib
import hmac
import random
import stat
import traceback
from collections import Counter
from pathlib import Path

import pytest
from sklearn.model_selection import StratifiedKFold

from femur_jax.data.cohort import (
    SPLITS,
    LabelRow,
    Pseudonyms,
    deal_folds,
    fold_splits,
    read_labels,
    seeded_hash,
    split_hospitals,
    split_patients,
)
from femur_jax.data.radiograph import LABELS
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
        LabelRow(2, "a.png", "p1", "h1", "AFF", "AP", "L"),
        LabelRow(3, "b.png", "p1", "h1", "AFF", "unknown", "unknown"),
        LabelRow(4, "c.png", "p2", "h2", "NFF", "lateral", "R"),
    ]


def test_reads_what_spreadsheets_write(folder):
    plain = "label,path,comment,hospital,patient_id\r\nNFF, a.png ,x,Örebro,1\r\n"
    expected = [LabelRow(2, "a.png", "1", "Örebro", "NFF", "unknown", "unknown")]
    assert _read(folder, plain, "utf-8-sig") == expected


def test_lines_are_those_of_an_editor(folder):
    """A row whose cell spans several lines has the number of its last line."""
    text = 'path,patient_id,hospital,label,comment\na.png,p,h,AFF,"two\nlines"\n\nb.png,q,h,NFF,\n'
    assert [entry.line for entry in _read(folder, text)] == [3, 5]


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("path,patient_id,label\na.png,p,AFF\n", "no column 'hospital'"),
        ("path label\na.png AFF\n", "no column 'path'"),
        ("path,patient_id,hospital,label,label\na.png,p,h,AFF,NFF\n", "two columns of one name"),
        (HEADER + "a.png,p,h,AFF,AP,L,70,5\n", "line 2: there are more cells than columns"),
        (HEADER + "a.png,1.94003E+11,h,AFF,,\n", "line 2: a spreadsheet has rounded patient_id"),
        (HEADER + "a.png,p,h,,,\nb.png,q,h,,,\nc.png,r,h,AFF,,\n", "as in 2 of 3 lines; write"),
        ("", "no column 'path'"),
        (HEADER, "lists no radiograph"),
        (HEADER + "a.png,p,h,aff,,\n", "line 2: the label is neither AFF nor NFF"),
        (HEADER + "a.png,p,h,AFF,,\na.png,p,h,AFF,,\n", "one file twice, in lines 2 and 3"),
        (HEADER + "a.png,p,h,AFF,,\nz.png,p,h,AFF,,\n", "line 3: its file is not in"),
        (HEADER + "a.png,p7,h,AFF,,\nb.png,p7,h,NFF,,\n", "both labels, in lines 2 and 3"),
        (HEADER + "a.png,p,h,AFF,oblique,\n", "line 2: view is not known; write AP, lateral"),
        (HEADER + "a.png,p,h,AFF,,left\n", "line 2: laterality is not known; write L, R"),
        (HEADER + "a.png,,h,AFF,,\n", "line 2: patient_id is empty"),
        (HEADER + "a.png,p,h\n", "line 2: label is empty"),
        (HEADER + f"{'z' * 300}.png,p,h,AFF,,\n", "line 2: its file is not in"),
        (HEADER + "a\0.png,p,h,AFF,,\n", "line 2: its file is not in"),
        (HEADER + '"a.png,p,h,AFF,,\n' + "z" * 200_000, "not a CSV file"),
    ],
)
def test_bad_tables_are_named(folder, text, named):
    with pytest.raises(UserError, match=named):
        _read(folder, text)


GOOD_ROW = {"path": "a.png", "patient_id": "p", "hospital": "h", "label": "AFF"}
CANARIES = ("ANNA", "anna", "1930", "zzzz")
BAD_ROWS = [
    {"path": "ANNA1930.png"},
    {"path": "../ANNA1930"},
    {"path": "ANNA1930" + "z" * 300},
    {"path": "ANNA\0" + "1930"},
    {"patient_id": ""},
    {"hospital": " "},
    {"label": "ANNA"},
    {"view": "ANNA"},
    {"laterality": "ANNA"},
    {"path": "b.png", "label": "NFF"},  # a patient with both labels
    {},  # a file that is listed twice
]


@pytest.mark.parametrize("bad", BAD_ROWS)
def test_messages_name_lines_and_never_their_content(folder, bad):
    """The errors behind them, which a traceback would show, do not quote it either."""
    folder = folder.rename(folder.with_name("ANNA1930"))
    good = {key: f"ANNA1930{key}" for key in ("patient_id", "hospital", "comment")}
    rows = [GOOD_ROW | good, GOOD_ROW | good | bad]
    columns = ["path", "patient_id", "hospital", "label", "view", "laterality", "comment"]
    lines = [",".join(row.get(column, "") for column in columns) for row in rows]
    with pytest.raises(UserError, match=r"line 3|lines 2 and 3") as error:
        _read(folder, "\n".join([",".join(columns), *lines]))
    text = "".join(traceback.format_exception_only(error.value)) + repr(error.value.__cause__)
    assert not any(canary in text for canary in CANARIES)


SWEDISH = (
    "path;patient_id;hospital;label;view;laterality;vikt\r\n"
    "a.png;1;Örebro;AFF;AP;L;70,5\r\nb.png;2;Växjö;NFF;;;\r\n;;;;;;\r\n"
)


@pytest.mark.parametrize("separator", [";", "\t", "|"])
@pytest.mark.parametrize(
    ("encoding", "mark"),
    [
        *((encoding, "\ufeff") for encoding in ("utf-8", "utf-16-le", "utf-16-be")),
        *((encoding, "") for encoding in ("utf-8", "utf-16-le", "utf-16-be", "cp1252")),
    ],
)
def test_tables_of_a_swedish_spreadsheet(folder, capsys, encoding, mark, separator):
    labels = folder.parent / "labels.csv"
    labels.write_bytes((mark + SWEDISH.replace(";", separator)).encode(encoding))
    assert read_labels(labels, folder, ["vikt"]) == [
        LabelRow(2, "a.png", "1", "Örebro", "AFF", "AP", "L", {"vikt": 70.5}),
        LabelRow(3, "b.png", "2", "Växjö", "NFF", "unknown", "unknown", {"vikt": None}),
    ]
    [line] = capsys.readouterr().err.splitlines()
    name = {"cp1252": "Windows-1252"}.get(encoding, encoding.upper())
    assert f"is read as {name}, separated by" in line and line.endswith("with decimal commas.")


def test_a_plain_table_is_read_without_a_word(folder, capsys):
    _read(folder, GOOD)
    assert capsys.readouterr().err == ""


def test_the_line_that_states_the_separator_counts_as_a_line(folder):
    rows = _read(folder, "sep=;\r\n" + SWEDISH, "utf-8-sig")
    assert [row.line for row in rows] == [3, 4]


@pytest.mark.parametrize(
    ("cells", "numbers"),
    [
        (["1,5", "-2,25"], [1.5, -2.25]),
        (["1.5", "2"], [1.5, 2]),
        (["ja", "Nej"], [0, 1]),
        (["1,5", "2.5"], "decimal commas and decimal points"),
        (["1,234,5", "2"], "does not hold a number"),
        (["1 234,5", "2"], "does not hold a number"),
    ],
)
def test_decimal_commas(folder, cells, numbers):
    rows = [f"{f}.png;{f};h;AFF;{cell}" for f, cell in zip("ab", cells, strict=True)]
    text = "\n".join(["path;patient_id;hospital;label;x", *rows])
    labels = folder.parent / "labels.csv"
    labels.write_text(text)
    if isinstance(numbers, str):
        with pytest.raises(UserError, match=numbers):
            read_labels(labels, folder, ["x"])
    else:
        assert [r.columns["x"] for r in read_labels(labels, folder, ["x"])] == numbers


def test_between_commas_a_number_with_a_comma_is_refused(folder):
    """It could be a thousand."""
    labels = folder.parent / "labels.csv"
    labels.write_text('path,patient_id,hospital,label,x\na.png,p,h,AFF,"1,234"\n')
    with pytest.raises(UserError, match="does not hold a number"):
        read_labels(labels, folder, ["x"])


@pytest.mark.parametrize("encoding", ["cp850", "mac-roman", "utf-32"])
def test_encodings_whose_letters_would_be_exchanged_are_refused(folder, encoding):
    with pytest.raises(UserError, match=r"none of the encodings|no column 'path'"):
        _read(folder, HEADER + "a.png,p,Örebro,AFF,,\n", encoding)


def test_missing_files_and_folders_are_named(folder, tmp_path):
    with pytest.raises(UserError, match="no label table"):
        read_labels(tmp_path / "nolabels.csv", folder)
    with pytest.raises(UserError, match="no folder of radiographs"):
        read_labels(tmp_path / "labels.csv", tmp_path / "nowhere")
    with pytest.raises(UserError, match="no label table"):
        read_labels(tmp_path, folder)
    with pytest.raises(UserError, match="label table cannot be read") as error:
        read_labels(Path("/proc/self/mem"), folder)  # a file that refuses also root
    assert "/proc" not in str(error.value)
    empty, labels = tmp_path / "empty", tmp_path / "labels.csv"
    empty.mkdir()
    labels.write_text(GOOD)
    with pytest.raises(UserError, match="folder of radiographs is empty"):
        read_labels(labels, empty)


@pytest.fixture
def linked(folder):
    """A folder with links that stay inside and links that lead out."""
    outside = folder.parent / "elsewhere"
    outside.mkdir()
    (outside / "d.png").write_bytes(b"")
    (folder / "inside.png").symlink_to("a.png")
    (folder / "link.png").symlink_to(outside / "d.png")
    (folder / "sub").symlink_to(outside)
    return folder


def test_paths_that_lead_out_of_the_folder_are_refused_unless_asked_for(linked):
    labels = linked.parent / "labels.csv"
    elsewhere = linked.parent / "elsewhere" / "d.png"
    for path in ("../elsewhere/d.png", elsewhere, "link.png", "sub/d.png"):
        labels.write_text(f"{HEADER}b.png,p,h,AFF,,\n{path},p,h,AFF,,\n")
        with pytest.raises(UserError, match=r"line 3: its path leads out of .*--outside") as e:
            read_labels(labels, linked)
        assert "elsewhere" not in str(e.value)
        assert read_labels(labels, linked, outside=True)[1].path == str(path)


def test_paths_that_stay_in_the_folder_are_accepted(linked):
    labels, alias = linked.parent / "labels.csv", linked.parent / "alias"
    alias.symlink_to(linked)
    for path in ("inside.png", "../radiographs/a.png", linked / "a.png"):
        labels.write_text(f"{HEADER}{path},p,h,AFF,,\n")
        for folder in (linked, alias):
            assert read_labels(labels, folder)[0].path == str(path)


def _patients(aff=20, nff=60):
    return {f"AFF{n}": "AFF" for n in range(aff)} | {f"NFF{n}": "NFF" for n in range(nff)}


def _counts(split):
    return Counter((patient[:3], name) for patient, name in split.items())


def test_splits_are_stratified():
    split = split_patients(_patients(), fractions=(0.15, 0.2), seed=0)
    assert _counts(split) == {
        ("AFF", "train"): 13,
        ("AFF", "validation"): 3,
        ("AFF", "test"): 4,
        ("NFF", "train"): 39,
        ("NFF", "validation"): 9,
        ("NFF", "test"): 12,
    }


def test_splits_may_be_left_out():
    split = split_patients(_patients(), fractions=(0.0, 0.25), seed=0)
    assert sorted(set(split.values())) == ["test", "train"]
    assert set(split_patients(_patients(), fractions=(0.0, 1.0), seed=0).values()) == {"test"}


def test_splits_depend_on_patients_and_seed_alone():
    patients = _patients()
    split = split_patients(patients, fractions=(0.15, 0.2), seed=0)
    shuffled = dict(random.Random(1).sample(list(patients.items()), len(patients)))
    assert split_patients(shuffled, fractions=(0.15, 0.2), seed=0) == split
    assert split_patients(patients, fractions=(0.15, 0.2), seed=1) != split


CONNECTED = [{"NFF1", "NFF2", "NFF3"}, {"NFF10", "NFF11"}, {"AFF4", "NFF30"}, {"AFF7", "AFF8"}]


def test_connected_patients_stay_together():
    for seed in range(20):
        split = split_patients(_patients(), fractions=(0.15, 0.2), seed=seed, connected=CONNECTED)
        assert split.keys() == _patients().keys()
        assert all(len({split[patient] for patient in group}) == 1 for group in CONNECTED)


def test_connected_patients_count_as_one():
    """15% and 20% of 60 - 2 - 1 - 1 normal and of 20 - 1 atypical patients are held out."""
    for seed in range(20):
        split = split_patients(_patients(), fractions=(0.15, 0.2), seed=seed, connected=CONNECTED)
        others = set().union(*(sorted(group)[1:] for group in CONNECTED))
        counts = _counts({p: name for p, name in split.items() if p not in others})
        assert [counts["AFF", name] for name in SPLITS] == [19 - 3 - 4, 3, 4]
        assert [counts["NFF", name] for name in SPLITS] == [56 - 8 - 11, 8, 11]


def test_the_order_of_connected_patients_changes_nothing():
    split = split_patients(_patients(), fractions=(0.15, 0.2), seed=0, connected=CONNECTED)
    turned = [sorted(group, reverse=True) for group in CONNECTED[::-1]]
    assert split_patients(_patients(), fractions=(0.15, 0.2), seed=0, connected=turned) == split


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
        split_patients(_patients(aff), fractions=fractions, seed=0)


def _hospitals(number, patients=4):
    """Hospitals with equally many patients of each label."""
    return {f"h{n}": {f"h{n}p{m}": LABELS[m % 2] for m in range(patients)} for n in range(number)}


def _held(hospitals, split):
    held = {name: Counter() for name in SPLITS}
    for hospital, name in split.items():
        held[name].update(hospitals[hospital].values())
    return held


@pytest.mark.parametrize("number", [3, 8, 72])
def test_hospitals_are_split(number):
    hospitals = _hospitals(number)
    for seed in range(5):
        split = split_hospitals(hospitals, fractions=(0.15, 0.2), seed=seed)
        assert split.keys() == hospitals.keys()
        held = _held(hospitals, split)
        for name, fraction in zip(SPLITS[1:], (0.15, 0.2), strict=True):
            # Enough hospitals for the share, and not one more.
            least = fraction * 4 * number
            assert least <= held[name].total() < least + 4
            assert min(held[name][label] for label in LABELS) >= 2
        assert (
            held["train"].total() == 4 * number - held["validation"].total() - held["test"].total()
        )


def test_every_split_by_hospital_has_both_labels():
    """Each hospital has one label, like a referral centre for atypical fractures."""
    hospitals = {f"h{n}": {f"p{n}": "AFF" if n % 5 == 0 else "NFF"} for n in range(60)}
    for seed in range(20):
        held = _held(hospitals, split_hospitals(hospitals, fractions=(0.15, 0.2), seed=seed))
        assert all(counts[label] >= 2 for counts in held.values() for label in LABELS)


def test_splits_by_hospital_depend_on_hospitals_and_seed_alone():
    hospitals = _hospitals(20)
    split = split_hospitals(hospitals, fractions=(0.15, 0.2), seed=0)
    turned = dict(reversed(hospitals.items()))
    assert split_hospitals(turned, fractions=(0.15, 0.2), seed=0) == split
    assert split_hospitals(hospitals, fractions=(0.15, 0.2), seed=1) != split


def test_too_few_hospitals_are_not_split():
    for hospitals in ({}, _hospitals(1), _hospitals(2), _hospitals(9, patients=1)):
        assert split_hospitals(hospitals, fractions=(0.15, 0.2), seed=0) == {}


def test_a_split_by_hospital_may_be_left_out():
    split = split_hospitals(_hospitals(4), fractions=(0.0, 0.25), seed=0)
    assert Counter(split.values()) == {"train": 3, "test": 1}


def test_the_seeded_order_is_a_known_hash():
    assert seeded_hash(3, "p") == hashlib.sha256(b"3\0p").hexdigest()


def test_pseudonyms_are_keyed_hashes(tmp_path):
    key = bytes(range(32))
    (tmp_path / "key").write_bytes(key)
    expected = hmac.digest(key, b"patient\0Anna \xc3\x85", hashlib.sha256).hex()[:16]
    assert Pseudonyms(tmp_path / "key")("patient", "Anna Å") == expected


def test_a_key_is_created_once_for_its_owner_alone(tmp_path):
    file = tmp_path / "key"
    first = Pseudonyms(file)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert len(file.read_bytes()) == 32
    assert Pseudonyms(file)("patient", "x") == first("patient", "x")
    assert first("hospital", "x") != first("patient", "x") != first("patient", "y")
    assert Pseudonyms(tmp_path / "other")("patient", "x") != first("patient", "x")


@pytest.mark.parametrize(("mode", "lines"), [(0o600, 0), (0o400, 0), (0o640, 1), (0o604, 1)])
def test_a_key_that_others_can_read_is_reported(tmp_path, capsys, mode, lines):
    file = tmp_path / "key"
    file.write_bytes(bytes(32))
    file.chmod(mode)
    for _ in range(2):
        Pseudonyms(file)
    printed = capsys.readouterr().err.splitlines()
    assert len(printed) == lines
    assert all("others can read the key" in line and "chmod 600" in line for line in printed)


def test_a_wrong_key_is_named(tmp_path):
    (tmp_path / "key").write_bytes(b"short")
    for path in (tmp_path / "key", tmp_path):
        with pytest.raises(UserError, match="not a key of 32 bytes"):
            Pseudonyms(path)
    assert (tmp_path / "key").read_bytes() == b"short"


@pytest.mark.parametrize("fractions", [(float("nan"), 0.1), (-0.1, 0.1), (0.1, 1.5)])
def test_shares_out_of_range_are_reported(fractions):
    labels = {f"p{n}": ("NFF", "AFF")[n % 2] for n in range(40)}
    with pytest.raises(UserError, match="shares of validation and test"):
        split_patients(labels, fractions=fractions, seed=0)


def test_further_columns_become_numbers(folder):
    text = (
        "path,patient_id,hospital,label,age,sex,exposure\n"
        "a.png,p1,h1,AFF, 81.5 ,F,1\nb.png,p1,h1,AFF,,m,\nc.png,p2,h2,NFF,70,f,0\n"
    )
    (folder.parent / "labels.csv").write_text(text)
    entries = read_labels(folder.parent / "labels.csv", folder, ("age", "sex", "exposure"))
    assert [entry.columns for entry in entries] == [
        {"age": 81.5, "sex": 0.0, "exposure": 1.0},
        {"age": None, "sex": 1.0, "exposure": None},
        {"age": 70.0, "sex": 0.0, "exposure": 0.0},
    ]
    assert [entry.columns for entry in read_labels(folder.parent / "labels.csv", folder)] == [
        {}
    ] * 3


@pytest.mark.parametrize(
    ("cells", "named"),
    [
        (("81", "ANNA", "70"), "line 3: .*does not hold a number"),
        (("ANNA", "zzzz", "anna1930"), "line 2: .*nor .*just two words"),
        (("ANNA", "", "anna"), "line 2: .*nor .*just two words"),
        (("1", "ANNA", ""), "line 3: .*does not hold a number"),
        (("nan", "1", "2"), "line 2: .*does not hold a number"),
        (("19301231", "1", "2"), "line 2: .*'extra' has more than three digits"),
    ],
)
def test_columns_without_numbers_are_refused_and_not_quoted(folder, cells, named):
    lines = [f"{name}.png,{name},h,AFF,{cell}" for name, cell in zip("abc", cells, strict=True)]
    text = "\n".join(["path,patient_id,hospital,label,extra", *lines])
    (folder.parent / "labels.csv").write_text(text)
    with pytest.raises(UserError, match=named) as error:
        read_labels(folder.parent / "labels.csv", folder, ("extra",))
    assert not any(canary in repr(error.value) for canary in CANARIES)
    with pytest.raises(UserError, match="no column 'sex'"):
        read_labels(folder.parent / "labels.csv", folder, ("extra", "sex"))
    with pytest.raises(UserError, match="'label' is always read"):
        read_labels(folder.parent / "labels.csv", folder, ("label",))


@pytest.mark.parametrize("folds", [3, 5, 7])
def test_folds_are_stratified_as_scikit_learns(folds):
    labels = _patients(aff=23, nff=61)
    fold = deal_folds(labels, folds)
    assert fold.keys() == labels.keys()
    assert fold != deal_folds(dict(reversed(labels.items())), folds)  # the order decides
    names, classes = list(labels), [labels[p] for p in labels]
    peer = [held_out for _, held_out in StratifiedKFold(folds).split(names, classes)]
    for label in LABELS:
        counts = Counter(fold[p] for p in labels if labels[p] == label)
        expected = [sum(classes[n] == label for n in held_out) for held_out in peer]
        assert sorted(counts.values()) == sorted(expected)
    sizes = Counter(fold.values()).values()
    assert max(sizes) - min(sizes) <= 1


def test_impossible_folds_are_refused():
    with pytest.raises(UserError, match="9 patients with label AFF are too few for 5 folds"):
        deal_folds(_patients(aff=9), 5)
    for by in ("", "0/5", "6/5", "1/2", "1/5/2", "-1/5"):
        with pytest.raises(UserError, match="such as 1/5"):
            fold_splits(by)


def test_each_fold_is_tested_once_and_validates_once():
    splits = [fold_splits(f"{k}/4") for k in range(1, 5)]
    assert splits[0] == ["test", "validation", "train", "train"]
    assert splits[3] == ["validation", "train", "train", "test"]
    for fold in range(4):
        assert Counter(s[fold] for s in splits) == {"train": 2, "test": 1, "validation": 1}
