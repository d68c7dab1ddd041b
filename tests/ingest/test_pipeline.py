import contextlib
import csv
import hashlib
import hmac
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from array_record.python.array_record_data_source import ArrayRecordDataSource
from PIL import Image, PngImagePlugin
from pydicom import uid
from pydicom.dataset import Dataset

from femur_jax.data.cohort import SPLITS, Pseudonyms
from femur_jax.data.radiograph import Box
from femur_jax.data.records import tile_of
from femur_jax.data.shards import RadiographDataset
from femur_jax.errors import UserError
from femur_jax.ingest.pipeline import Limits, Summary, ingest
from femur_jax.ingest.rejection import REASONS

KEY = bytes(range(32))
SYNTAXES = (uid.ExplicitVRLittleEndian, uid.JPEGLosslessSV1, uid.JPEGLSLossless, uid.RLELossless)
FRACTIONS = (0.3, 0.3)
PATIENTS = 24


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def _pseudonym(kind, identifier):
    return hmac.digest(KEY, f"{kind}\0{identifier}".encode(), hashlib.sha256).hex()[:16]


def _pixels(seed):
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 4096, rng.integers(20, 60, 2)).astype(np.uint16)
    pixels[0, :2] = 0, 4095  # the full range, so that stored values differ from grey values
    return pixels


def _write_labels(path, rows):
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("path", "patient_id", "hospital", "label", "view", "comment"))
        writer.writerows(rows)


def _source_image(instance):
    item = Dataset()
    item.ReferencedSOPInstanceUID = instance
    return [item]


class Cohort:
    """Patients with a canary in each field that could leak, and with every kind of problem.

    Patient n is NFF where n is even, and has file n. Two neighbours share one of six hospitals.
    """

    def __init__(self, folder: Path, write_dicom):
        self.folder = folder / "CANARYfolder"
        self.labels = folder / "labels.csv"
        self.key = folder / "key"
        self.key.write_bytes(KEY)
        self.pixels, self.rows = {}, []
        self._write_dicom = write_dicom
        self.folder.mkdir()
        for n in range(PATIENTS):
            pixels, elements = _pixels(n), {}
            if n == 2:  # processed from raw.dcm
                elements = {
                    "PresentationIntentType": "FOR PRESENTATION",
                    "SourceImageSequence": _source_image("1.2.777.100"),
                }
            if n == 12:  # similar to patient 10's picture
                pixels = (self.pixels["CANARYfile10.dcm"] * 0.8).astype(np.uint16)
            if n == 16:
                pixels = np.pad(np.maximum(pixels, 1), ((3, 2), (4, 5)))
                elements = {"PixelPaddingValue": 0}
            suffix = "png" if n % 4 == 3 else "dcm"
            self._add(f"file{n}.{suffix}", pixels, n, uid_=n, syntax=SYNTAXES[n % 4], **elements)
        pixels = [self.pixels[row[0]] for row in self.rows]
        # A repeated picture, one with a repeated SOP Instance UID, and raw data.
        self._add("again.dcm", pixels[0], 0, uid_=101, syntax=uid.JPEG2000Lossless)
        self._add("instance.dcm", _pixels(102), 1, uid_=1)
        self._add("raw.dcm", _pixels(103), 2, uid_=100, PresentationIntentType="FOR PROCESSING")
        # The pictures of patients 4 and 20 with the names of 6 and 18; of 5 with that of 8.
        self._add("shared.dcm", pixels[4], 6, uid_=104)
        self._add("near.dcm", pixels[20], 18, uid_=107)
        self._add("conflict.dcm", pixels[5], 8, uid_=105)
        # Other pictures of patients 4 and 20.
        self._add("own4.dcm", _pixels(109), 4, uid_=109)
        self._add("own20.dcm", _pixels(110), 20, uid_=110)
        # Two patients with radiographs from a second hospital.
        self._add("elsewhere.dcm", _pixels(106), 14, uid_=106, hospital=4)
        self._add("nearby.dcm", _pixels(108), 13, uid_=108, hospital=2)
        (self.folder / "CANARYtext.dcm").write_text("CANARYtext")
        self._list("text.dcm", 1)
        whole = (self.folder / "CANARYfile3.png").read_bytes()
        (self.folder / "CANARYcut.png").write_bytes(whole[: len(whole) // 2])
        self._list("cut.png", 2)
        _write_labels(self.labels, self.rows)

    def _list(self, name, patient, hospital=None):
        hospital = (patient // 2) % 6 if hospital is None else hospital
        label = ("NFF", "AFF")[patient % 2]
        self.rows.append(
            (
                f"CANARY{name}",
                f"CANARYpatient{patient}",
                f"CANARYhospital{hospital}",
                label,
                "AP",
                "CANARYnote",
            )
        )

    def _add(self, name, pixels, patient, *, uid_, hospital=None, **settings):
        self._list(name, patient, hospital)
        name = f"CANARY{name}"
        self.pixels[name] = pixels
        if name.endswith(".png"):
            text = PngImagePlugin.PngInfo()
            text.add_text("Comment", "CANARYpng")
            Image.fromarray(pixels).save(self.folder / name, pnginfo=text)
            return

        def add_private(dataset):
            dataset.private_block(0x0099, "CANARYprivate", create=True).add_new(1, "LO", "CANARY1")

        known = {
            "SOPInstanceUID": f"1.2.777.{uid_}",
            "PatientName": "CANARY^Anna",
            "PatientID": "CANARY19300101",
            "PatientBirthDate": "19300101",
            "InstitutionName": "CANARY sjukhus",
            "StudyDescription": "CANARY femur",
            "AccessionNumber": "CANARY7",
            "StudyInstanceUID": "1.2.777.777",
            "ImagerPixelSpacing": [0.1 + 0.01 * patient] * 2,
        }
        self._write_dicom(self.folder / name, pixels, change=add_private, **(known | settings))

    def settings(self, **changes):
        settings = {"patch": 16, "key_file": self.key, "fractions": FRACTIONS, "workers": 1}
        return settings | {"max_quarantined": 0.2} | changes

    def ingest(self, out, **changes):
        return ingest(self.folder, self.labels, out, **self.settings(**changes))


@pytest.fixture(scope="module")
def cohort(tmp_path_factory, dicom_file):
    return Cohort(tmp_path_factory.mktemp("cohort"), dicom_file)


@pytest.fixture(scope="module")
def ingested(cohort):
    """The dataset that one worker creates."""
    out = cohort.folder.parent / "dataset"
    return out, cohort.ingest(out)


def _lines(out, table):
    return [json.loads(line) for line in (out / f"{table}.jsonl").read_text().splitlines()]


def _file(name):
    return _pseudonym("file", f"CANARY{name}")


def _patient(n):
    return _pseudonym("patient", f"CANARYpatient{n}")


def test_every_file_is_accounted_for(cohort, ingested):
    out, summary = ingested
    assert summary == Summary(inputs=36, accepted=27, quarantined=4, duplicates=5)
    accepted = {entry.name for entry in RadiographDataset(out).entries}
    quarantined = {line["file"] for line in _lines(out, "quarantine")}
    duplicates = {line["file"] for line in _lines(out, "duplicates")}
    assert (len(accepted), len(quarantined), len(duplicates)) == (27, 4, 5)
    there = {_pseudonym("file", path.name) for path in cohort.folder.iterdir()}
    assert accepted | quarantined | duplicates == there  # 36, so that no two meet
    assert len(there) == 36
    assert sorted(path.name for path in out.parent.iterdir()) == sorted(
        ["CANARYfolder", "dataset", "dataset.lines.csv", "key", "labels.csv"]
    )


def test_unusable_files_are_listed(cohort, ingested):
    lines = _lines(ingested[0], "quarantine")
    names = {_pseudonym("file", row[0]): (n, row[0]) for n, row in enumerate(cohort.rows)}
    codes = {}
    for line in lines:
        assert line.keys() == {"file", "hospital", "stage", "code", "hint", "request"}
        n, name = names[line["file"]]
        assert line["hospital"] == _pseudonym("hospital", cohort.rows[n][2])
        assert (line["stage"], line["hint"], line["request"]) == REASONS[line["code"]]
        codes[name.removeprefix("CANARY")] = line["code"]
    assert codes.pop("cut.png") in ("undecodable", "not_image")
    assert codes == {
        "text.dcm": "not_dicom",
        "file5.dcm": "label_conflict",
        "conflict.dcm": "label_conflict",
    }


def test_duplicates_are_listed(cohort, ingested):
    lines = _lines(ingested[0], "duplicates")
    hospitals = {_pseudonym("file", row[0]): row[2] for row in cohort.rows}
    accepted = {entry.name for entry in RadiographDataset(ingested[0]).entries}
    for line in lines:
        assert line.keys() == {"file", "hospital", "original", "reason"}
        assert line["hospital"] == _pseudonym("hospital", hospitals[line["file"]])
        assert line["original"] in accepted
    pairs = {frozenset((line["file"], line["original"])): line["reason"] for line in lines}
    assert pairs == {
        frozenset((_file("file0.dcm"), _file("again.dcm"))): "pixels",
        frozenset((_file("file4.dcm"), _file("shared.dcm"))): "pixels",
        frozenset((_file("file20.dcm"), _file("near.dcm"))): "pixels",
        frozenset((_file("file1.dcm"), _file("instance.dcm"))): "instance",
        frozenset((_file("file2.dcm"), _file("raw.dcm"))): "acquisition",
    }
    [raw] = [line for line in lines if line["reason"] == "acquisition"]
    assert raw["file"] == _file("raw.dcm")


def test_only_a_table_outside_the_dataset_names_lines(cohort, ingested):
    out = ingested[0]
    table = out.with_name("dataset.lines.csv")
    with table.open(newline="") as file:
        lines = {row["file"]: int(row["line"]) for row in csv.DictReader(file)}
    # The header is line 1.
    assert lines == {_pseudonym("file", row[0]): n for n, row in enumerate(cohort.rows, start=2)}
    assert table.stat().st_mode & 0o777 == 0o600


def test_similar_pictures_are_listed_and_kept(ingested):
    [line] = _lines(ingested[0], "similar")
    assert line.keys() == {"files", "bits"}
    assert set(line["files"]) == {_file("file10.dcm"), _file("file12.dcm")}
    assert 0 <= line["bits"] <= 3
    assert set(line["files"]) <= {entry.name for entry in RadiographDataset(ingested[0]).entries}


def test_radiographs_are_those_of_the_files(cohort, ingested):
    dataset = RadiographDataset(ingested[0])
    rows = {_pseudonym("file", row[0]): row for row in cohort.rows}
    for position, entry in enumerate(dataset.entries):
        name, patient, hospital, label, view, _ = rows[entry.name]
        assert entry.patient == _pseudonym("patient", patient)
        assert entry.hospital == _pseudonym("hospital", hospital)
        assert (entry.label, entry.view, entry.laterality) == (label, view, "unknown")
        stored = cohort.pixels[name].astype(np.float64)
        crop = Box(0, 0, *stored.shape)
        if name.endswith(".png"):
            assert (entry.spacing_mm, entry.spacing_source) == (0.0, "unknown")
            assert entry.source.syntax == "png"
            # 12 bits in a 16-bit file are shown over the full range.
            expected = stored / stored.max() * 65535
        else:
            n = int(patient.removeprefix("CANARYpatient"))
            assert entry.spacing_mm == pytest.approx(0.1 + 0.01 * n)
            assert entry.spacing_source == "detector"
            assert entry.source.bits == 12
            low, high = (1, 4095) if n == 16 else (0, stored.max())
            expected = np.maximum(stored - low, 0) / (high - low) * 65535
            if n == 16:  # without its padding
                crop = Box(3, 4, stored.shape[0] - 5, stored.shape[1] - 9)
        assert (entry.crop, entry.recorded) == (crop, stored.shape)
        assert abs(dataset.read_recorded(position) - expected).max() <= 0.51
        used = expected[crop.top :, crop.left :][: crop.height, : crop.width]
        assert abs(dataset.read(position) - used).max() <= 0.51


def test_splits_hold_whole_patients(ingested):
    entries = RadiographDataset(ingested[0]).entries
    splits = {}
    for entry in entries:
        splits.setdefault(entry.patient, set()).add(entry.split)
    assert all(len(names) == 1 for names in splits.values())
    assert len(splits) == PATIENTS - 1  # patient 5 had only the picture under both labels
    groups = {entry.patient: entry.group for entry in entries}
    for a, b in ((4, 6), (18, 20)):
        assert splits[_patient(a)] == splits[_patient(b)]
        assert groups[_patient(a)] == groups[_patient(b)] == min(_patient(a), _patient(b))
    assert sum(group != "" for group in groups.values()) == 5  # 8 shares one with 5
    # Connected patients count as one, and 5 is left out: 30% of 10 normal and 11 atypical ones.
    counts = Counter()
    for n in range(PATIENTS):
        if n not in (5, 6, 20):
            counts.update((n % 2 == 1, name) for name in splits[_patient(n)])
    assert [counts[False, name] for name in SPLITS] == [4, 3, 3]
    assert [counts[True, name] for name in SPLITS] == [5, 3, 3]


def test_splits_by_hospital_hold_whole_hospitals(cohort, ingested):
    dataset = RadiographDataset(ingested[0])
    split_of, seen_at = {}, {}
    for entry in dataset.entries:
        if entry.hospital_split:
            split_of.setdefault(entry.hospital, set()).add(entry.hospital_split)
    assert len(split_of) == 6
    assert all(len(names) == 1 for names in split_of.values())
    assert Counter(min(names) for names in split_of.values()) == {
        "train": 2,
        "validation": 2,
        "test": 2,
    }
    # Patients who, alone or with those they share a picture with, were at hospitals of two splits.
    for _, patient, hospital, *_ in cohort.rows:
        [name] = split_of[_pseudonym("hospital", hospital)]
        seen_at.setdefault(_pseudonym("patient", patient), set()).add(name)
    for a, b in ((4, 6), (18, 20)):  # 5, who shares a picture with 8, has no other
        seen_at[_patient(a)] |= seen_at[_patient(b)]
        seen_at[_patient(b)] = seen_at[_patient(a)]
    apart = {patient for patient, names in seen_at.items() if len(names) > 1}
    assert apart <= {_patient(n) for n in (4, 6, 13, 14, 18, 20)}
    assert len(apart) >= 2
    for entry in dataset.entries:
        assert (entry.hospital_split == "") == (entry.patient in apart)
    positions = [n for name in SPLITS for n in dataset.split(name, "hospital")]
    assert (
        len(set(positions))
        == len(positions)
        == sum(e.patient not in apart for e in dataset.entries)
    )


def _contents(folder):
    """All readable content of a folder, also inside records and tiles."""
    for path in folder.rglob("*"):
        yield str(path.relative_to(folder)).encode()
        if path.is_file():
            yield path.read_bytes()
        if ".array_record-" in path.name:
            source = ArrayRecordDataSource(str(path))
            for n in range(len(source)):
                yield source[n]
                yield tile_of(source[n]).tobytes()


PLANTED = [b"canary", b"19300101", b"1.2.777", b"sjukhus", KEY, KEY.hex().encode()]


def test_nothing_identifies_a_patient(cohort, ingested):
    contents = list(_contents(ingested[0]))
    assert len(contents) > 200
    assert not [secret for content in contents for secret in PLANTED if secret in content.lower()]
    # The search finds the canaries in the source files.
    source = b"".join(path.read_bytes() for path in cohort.folder.iterdir()).lower()
    assert all(secret in source for secret in PLANTED[:4])


def test_sha256sum_accepts_the_dataset(ingested):
    command = ["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"]
    assert subprocess.run(command, cwd=ingested[0]).returncode == 0
    assert b"quarantine.jsonl" in (ingested[0] / "SHA256SUMS").read_bytes()


def _bytes_of(folder):
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


# A run that stops at a given moment: it writes half of its tenth spool file and waits, or kills
# itself and its workers.
STOPS = """
import json, os, shutil, signal, sys, time
from pathlib import Path
from femur_jax.data import spool
from femur_jax.ingest import pipeline
from femur_jax.data.shards import DatasetWriter

moment, settings = sys.argv[1], json.loads(sys.argv[2])
count = 0

def replace(module, name, stop):
    original = getattr(module, name)
    def function(*args, **kwargs):
        global count
        count += 1
        stop(*args)
        return original(*args, **kwargs)
    setattr(module, name, function)

def die():
    os.killpg(0, signal.SIGKILL)

def wait_in_the_tenth(path, *args):
    if count == 10:
        path.with_name(f".{path.name}.1.partial").write_bytes(b"half")
        time.sleep(600)

if moment == "read":
    replace(spool, "write", wait_in_the_tenth)
elif moment == "add":
    replace(DatasetWriter, "add", lambda *args: count == 7 and die())
elif moment == "spool":
    replace(shutil, "rmtree", lambda path, *args: Path(path).suffix == ".spool" and die())

if __name__ == "__main__":
    paths = {key: Path(settings.pop(key)) for key in ("folder", "labels", "out", "key_file")}
    pipeline.ingest(**paths, **settings)
"""


def _start(cohort, out, moment, workers):
    script = out.with_name("stops.py")
    script.write_text(STOPS)
    settings = cohort.settings(folder=cohort.folder, labels=cohort.labels, out=out, workers=workers)
    command = [sys.executable, script, moment, json.dumps(settings, default=str)]
    path = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": path}
    return subprocess.Popen(command, env=environment, start_new_session=True)


def _spool_files(out):
    files = out.with_name(f"{out.name}.spool").iterdir()
    return {path.name: path.stat().st_mtime_ns for path in files if len(path.name) == 16}


def test_a_killed_run_resumes(cohort, ingested, tmp_path):
    """The run is killed three times with its workers; its bytes equal an undisturbed run's."""
    out, partial = tmp_path / "dataset", tmp_path / "dataset.partial"
    run = _start(cohort, out, "read", workers=1)
    try:
        deadline = time.monotonic() + 60
        while not (out.with_name("dataset.spool").exists() and len(_spool_files(out)) == 9):
            assert run.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)
        with pytest.raises(UserError, match=r"Another process is writing .*wait"):
            cohort.ingest(out)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(run.pid, signal.SIGKILL)
        run.wait()
    read = _spool_files(out)
    assert len(read) == 9 and not out.exists() and not partial.exists()
    for moment, is_partial, is_there in (
        ("add", True, False),
        ("spool", False, True),
    ):
        run = _start(cohort, out, moment, workers=2)
        assert run.wait(60) == -signal.SIGKILL
        assert (partial.exists(), out.exists()) == (is_partial, is_there)
        assert len(_spool_files(out)) == 34  # all readable files
        assert read.items() <= _spool_files(out).items()  # nothing was read again
        read = _spool_files(out)
    assert not [c for c in _contents(out.with_name("dataset.spool")) for s in PLANTED if s in c]
    assert cohort.ingest(out, workers=2) == ingested[1]
    assert _bytes_of(out) == _bytes_of(ingested[0])
    assert {path.name for path in tmp_path.iterdir()} == {"cache", "dataset", "stops.py"}


def test_only_what_changed_is_read_again(cohort, tmp_path):
    """A refused run keeps its spool, and the next run uses it."""
    folder, labels, out = tmp_path / "in", tmp_path / "labels.csv", tmp_path / "dataset"
    shutil.copytree(cohort.folder, folder)
    _write_labels(labels, cohort.rows)
    with pytest.raises(UserError, match=r"4 of 36 .*Repair or delete .*--max_quarantined") as error:
        ingest(folder, labels, out, **cohort.settings(max_quarantined=0.0))
    assert "not_dicom: 1" in str(error.value) and "label_conflict: 2" in str(error.value)
    assert "line 7:" in str(error.value)  # the line of file5.dcm
    assert "CANARY" not in str(error.value).replace(str(cohort.folder.parent), "")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "dataset.spool",
        "in",
        "labels.csv",
    ]
    read = _spool_files(out)
    assert len(read) == 34
    # Another picture, another view, and all bad lines but one are removed.
    shutil.copy(cohort.folder / "CANARYfile9.dcm", folder / "CANARYfile13.dcm")
    bad = ("CANARYfile5.dcm", "CANARYconflict.dcm", "CANARYcut.png")
    rows = [row for row in cohort.rows if row[0] not in bad]
    rows[0] = (*rows[0][:4], "lateral", "CANARYnote")
    _write_labels(labels, rows)
    with pytest.raises(UserError, match=r"1 of 33 files .*line 34: The file is not a DICOM file"):
        ingest(folder, labels, out, **cohort.settings(max_quarantined=0.0))
    again = _spool_files(out)
    assert read.items() <= again.items() and len(again) == 36
    rows = [row for row in rows if row[0] != "CANARYtext.dcm"]
    _write_labels(labels, rows)
    summary = ingest(folder, labels, out, **cohort.settings(max_quarantined=0.0))
    assert summary == Summary(inputs=32, accepted=26, quarantined=0, duplicates=6)
    views = {entry.name: entry.view for entry in RadiographDataset(out).entries}
    kept = _file("file0.dcm") if _file("file0.dcm") in views else _file("again.dcm")
    assert views[kept] == ("lateral" if kept == _file("file0.dcm") else "AP")
    assert not out.with_name("dataset.spool").exists()


def _make(folder, count):
    """Writes PNG radiographs of two hospitals; returns the rows of their label table."""
    folder.mkdir()
    for n in range(count):
        Image.fromarray(_pixels(n)).save(folder / f"{n}.png")
    return [
        (f"{n}.png", f"p{n}", f"h{2 * n // count}", ("NFF", "AFF")[n % 2], "", "")
        for n in range(count)
    ]


def _ingest(tmp_path, **changes):
    """Ingests the folder `in` with labels.csv as `dataset`, all in the same folder."""
    settings = {
        "folder": tmp_path / "in",
        "labels": tmp_path / "labels.csv",
        "out": tmp_path / "dataset",
        "patch": 16,
        "key_file": tmp_path / "key",
        "fractions": (0.0, 0.0),
        "workers": 1,
    }
    return ingest(**(settings | changes))


def test_named_columns_are_kept_as_numbers_without_their_words(tmp_path):
    words = ("nejCANARY", "jaCANARY", "")  # 1 and 0 in alphabetical order, and unknown
    rows = [(*row[:-1], words[n % 3]) for n, row in enumerate(_make(tmp_path / "in", 8))]
    _write_labels(tmp_path / "labels.csv", rows)
    for columns in ((), ("comment",)):
        out = tmp_path / f"dataset{len(columns)}"
        _ingest(tmp_path, out=out, columns=columns)
        kept = {e.name: e.columns for e in RadiographDataset(out).entries}
        name = partial(Pseudonyms(tmp_path / "key"), "file")
        for n in range(8):
            value = (1.0, 0.0, None)[n % 3]
            expected = {"comment": value} if columns else {}
            assert kept[name(f"{n}.png")] == expected
        assert not [c for c in _contents(out) if b"CANARY" in c]


def test_a_file_that_takes_too_much_memory_is_quarantined(tmp_path):
    rows = _make(tmp_path / "in", 8)
    steps = (np.arange(36_000_000, dtype=np.uint32) >> 18).astype(np.uint8)
    large = Image.fromarray(steps.reshape(6000, 6000))
    large.save(tmp_path / "in" / "7.png", compress_level=1)
    _write_labels(tmp_path / "labels.csv", rows)
    out = tmp_path / "dataset"
    summary = _ingest(tmp_path, max_quarantined=0.125, limits=Limits(memory=100 << 20))
    assert summary == Summary(8, 7, 1, 0)
    name = Pseudonyms(tmp_path / "key")("file", "7.png")
    assert [(row["file"], row["code"]) for row in _lines(out, "quarantine")] == [(name, "memory")]


@pytest.mark.parametrize("both", [False, True])
def test_a_split_by_hospital_needs_two_patients_of_a_label(tmp_path, both):
    """Two hospitals have two patients of each label; patient 0 was at one or at both."""
    rows = _make(tmp_path / "in", 8)
    Image.fromarray(_pixels(8)).save(tmp_path / "in" / "8.png")
    rows.append(("8.png", "p0", "h1" if both else "h0", "NFF", "", ""))
    _write_labels(tmp_path / "labels.csv", rows)
    out = tmp_path / "dataset"
    _ingest(tmp_path, fractions=(0.0, 0.4))
    dataset = RadiographDataset(out)
    if both:
        assert {entry.hospital_split for entry in dataset.entries} == {""}
        with pytest.raises(UserError, match="no test split by hospital"):
            dataset.split("test", by="hospital")
    else:
        assert len(dataset.split("test", "hospital") + dataset.split("train", "hospital")) == 9


def test_a_full_disk_is_reported(tmp_path):
    """A full disk is not a file's fault, so that no share of unusable files hides it."""
    _write_labels(tmp_path / "labels.csv", _make(tmp_path / "in", 4))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))  # limit for each file
    try:
        with pytest.raises(UserError, match=r"\.spool cannot be written to .*free disk space"):
            _ingest(tmp_path, max_quarantined=0.9)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not (tmp_path / "dataset").exists()


def test_a_folder_without_a_usable_file_is_reported(tmp_path):
    rows = _make(tmp_path / "in", 4)
    for row in rows:
        (tmp_path / "in" / row[0]).write_text("text")
    _write_labels(tmp_path / "labels.csv", rows)
    with pytest.raises(UserError, match="4 of 4 files"):
        _ingest(tmp_path, max_quarantined=1.0)
    assert not (tmp_path / "dataset").exists()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"workers": 0}, "workers is 0"),
        ({"patch": 0}, "patch is 0"),
        ({"fractions": (0.1, 0.1)}, "12 patients with label NFF leave 1"),
        ({"max_quarantined": -0.1}, r"share of unusable files is -0\.1"),
        ({"max_quarantined": float("nan")}, "share of unusable files is nan"),
    ],
)
def test_bad_settings_are_reported(cohort, tmp_path, changes, named):
    with pytest.raises(UserError, match=named):
        cohort.ingest(tmp_path / "dataset", **changes)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("limit", [{"memory": 0}, {"seconds": -1.0}, {"seconds": float("nan")}])
def test_limits_are_above_0(limit):
    with pytest.raises(UserError, match="limits of memory and time"):
        Limits(**limit)


def test_bad_paths_are_reported(cohort, tmp_path, monkeypatch):
    out = tmp_path / "dataset"
    monkeypatch.chdir(tmp_path)
    for key in (out / "key", Path("dataset/keys/key")):
        with pytest.raises(UserError, match="keep the key elsewhere"):
            cohort.ingest(out, key_file=key)
    out.mkdir()
    with pytest.raises(UserError, match="dataset exists"):
        cohort.ingest(out, key_file=tmp_path / "key")
    assert list(tmp_path.iterdir()) == [out]


def test_real_chest_radiographs(real_radiographs, tmp_path):
    with (real_radiographs / "manifest.csv").open() as file:
        first = {r["patient"]: r["file"] for r in csv.DictReader(file) if r["patient"]}
    rows = [
        (file, p, "MHH", ("AFF", "NFF")[n % 2], "", "") for n, (p, file) in enumerate(first.items())
    ]
    _write_labels(tmp_path / "labels.csv", rows[:4])
    summary = _ingest(tmp_path, folder=real_radiographs, patch=256, workers=2)
    assert summary == Summary(4, 4, 0, 0)
    dataset = RadiographDataset(tmp_path / "dataset")
    means = []
    for file, *_ in rows[:4]:
        with Image.open(real_radiographs / file) as image:
            means.append(np.asarray(image.convert("L")).mean() * 257)
    assert sorted(dataset.read_recorded(n).mean() for n in range(4)) == pytest.approx(sorted(means))
    for n in range(4):
        assert dataset.read(n, 0).mean() == pytest.approx(dataset.read(n).mean(), rel=1e-3)


def test_real_dicom_files(real_radiographs, tmp_path):
    """Unchanged real files; RG2 comes in five encodings, and some show the same picture."""
    files = sorted((real_radiographs / "dicom").glob("*.dcm"))
    rows = []
    for n, path in enumerate(files):
        rg2 = path.name.startswith("RG2")
        label = "AFF" if rg2 or n % 2 else "NFF"
        rows.append((path.name, "RG2" if rg2 else path.stem, "h", label, "", ""))
    _write_labels(tmp_path / "labels.csv", rows)
    out = tmp_path / "dataset"
    summary = _ingest(
        tmp_path, folder=real_radiographs / "dicom", patch=256, max_quarantined=0.6, workers=2
    )
    assert summary.inputs == len(files) == 16
    assert summary.inputs == summary.accepted + summary.quarantined + summary.duplicates
    assert summary.duplicates == 2  # JPLL and JLSL; JPLY and JPLY_fixed
    name = Pseudonyms(tmp_path / "key")
    stems = {name("file", path.name): path.stem for path in files}
    quarantined = {stems[row["file"]] for row in _lines(out, "quarantine")}
    assert {"MR_truncated", "meta_missing_tsyntax", "no_meta"} <= quarantined
    whole = {"MR_small_bigendian", "RG1_J2KI", "RG2_JLSN", "image_dfl", "mlut_18", "vlut_04"}
    assert not quarantined & whole
