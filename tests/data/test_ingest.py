import csv
import hashlib
import hmac
import json
import os
from collections import Counter
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin
from pydicom import uid

from femur_jax.data import codec
from femur_jax.data.ingest import Summary, _in_order, _Job, ingest
from femur_jax.data.shards import RadiographDataset
from femur_jax.errors import UserError

KEY = bytes(range(32))
SYNTAXES = (uid.ExplicitVRLittleEndian, uid.JPEGLosslessSV1, uid.JPEGLSLossless, uid.RLELossless)
FRACTIONS = (0.34, 0.34)


def _pseudonym(kind, identifier):
    return hmac.digest(KEY, f"{kind}\0{identifier}".encode(), hashlib.sha256).hex()[:16]


def _pixels(seed):
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 4096, rng.integers(20, 60, 2)).astype(np.uint16)
    pixels[0, :2] = 0, 4095  # the whole range, so that stored values can be told from grey values
    return pixels


def _write_labels(path, rows):
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("path", "patient_id", "hospital", "label", "view", "comment"))
        writer.writerows(rows)


class Cohort:
    """Six patients of each label, with a canary in each place that could leak."""

    def __init__(self, folder: Path, write_dicom):
        self.folder = folder / "CANARYfolder"
        self.labels = folder / "labels.csv"
        self.key = folder / "key"
        self.key.write_bytes(KEY)
        self.pixels, self.rows = {}, []
        self.folder.mkdir()
        for n in range(12):
            name = f"CANARYfile{n}" + (".png" if n % 4 == 3 else ".dcm")
            self._write(name, n, write_dicom)
            label = ("NFF", "AFF")[n % 2]
            row = (name, f"CANARYpatient{n}", f"CANARYhospital{n % 3}", label, "AP", "CANARYnote")
            self.rows.append(row)
        self._write("CANARYagain.dcm", 0, write_dicom)  # the same picture, other bytes
        (self.folder / "CANARYtext.dcm").write_text("CANARYtext")
        whole = (self.folder / "CANARYfile3.png").read_bytes()
        (self.folder / "CANARYcut.png").write_bytes(whole[: len(whole) // 2])
        self.rows.append(("CANARYagain.dcm", *self.rows[0][1:]))
        self.rows.append(("CANARYtext.dcm", *self.rows[1][1:]))
        self.rows.append(("CANARYcut.png", *self.rows[2][1:]))
        _write_labels(self.labels, self.rows)

    def _write(self, name, seed, write_dicom):
        pixels = self.pixels[name] = _pixels(seed)
        if name.endswith(".png"):
            text = PngImagePlugin.PngInfo()
            text.add_text("Comment", "CANARYpng")
            Image.fromarray(pixels).save(self.folder / name, pnginfo=text)
            return

        def add_private(dataset):
            dataset.private_block(0x0099, "CANARYprivate", create=True).add_new(1, "LO", "CANARY1")

        write_dicom(
            self.folder / name,
            pixels,
            syntax=SYNTAXES[seed % 4],
            change=add_private,
            PatientName="CANARY^Anna",
            PatientID="CANARY19300101",
            PatientBirthDate="19300101",
            InstitutionName="CANARY sjukhus",
            StudyDescription="CANARY femur",
            AccessionNumber="CANARY7",
            StudyInstanceUID="1.2.777.777",
            ImagerPixelSpacing=[0.1 + 0.01 * seed] * 2,
        )

    def ingest(self, out, **changes):
        settings = {"patch": 16, "key_file": self.key, "fractions": FRACTIONS, "workers": 1}
        settings |= {"max_rejected": 0.2} | changes
        return ingest(self.folder, self.labels, out, **settings)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory, dicom_file):
    return Cohort(tmp_path_factory.mktemp("cohort"), dicom_file)


@pytest.fixture(scope="module")
def ingested(cohort):
    """The dataset, made by one worker."""
    out = cohort.folder.parent / "dataset"
    return out, cohort.ingest(out)


def test_every_file_is_accounted_for(ingested):
    out, summary = ingested
    assert summary == Summary(inputs=15, accepted=12, rejected=2, duplicates=1)
    assert len(RadiographDataset(out).entries) == 12
    assert not out.with_name("dataset.partial").exists()


def test_rejections_are_listed(ingested):
    lines = [json.loads(line) for line in (ingested[0] / "rejected.jsonl").read_text().splitlines()]
    assert {(line["file"], line["code"]) for line in lines} == {
        (_pseudonym("file", "CANARYtext.dcm"), "not_dicom"),
        (_pseudonym("file", "CANARYcut.png"), "undecodable"),
    }
    assert all(line.keys() == {"file", "code", "hint"} and line["hint"] for line in lines)


def test_radiographs_are_those_of_the_files(cohort, ingested):
    dataset = RadiographDataset(ingested[0])
    by_patient = {_pseudonym("patient", row[1]): (n, row) for n, row in enumerate(cohort.rows[:12])}
    assert {entry.patient for entry in dataset.entries} == by_patient.keys()
    for position, entry in enumerate(dataset.entries):
        n, (name, _, hospital, label, view, _) = by_patient[entry.patient]
        assert entry.hospital == _pseudonym("hospital", hospital)
        assert (entry.label, entry.view, entry.laterality) == (label, view, "unknown")
        stored = cohort.pixels[name].astype(np.float64)
        if name.endswith(".png"):
            assert (entry.spacing_mm, entry.spacing_source) == (0.0, "unknown")
            expected = stored
        else:
            assert entry.spacing_mm == pytest.approx(0.1 + 0.01 * n)
            assert entry.spacing_source == "detector"
            expected = stored / 4095 * 65535
        assert abs(dataset.read(position) - expected).max() <= 0.51
    counts = Counter((entry.split, entry.label) for entry in dataset.entries)
    assert set(counts.values()) == {2} and len(counts) == 6


def test_nothing_identifies_a_patient(cohort, ingested):
    out, _ = ingested
    dataset = RadiographDataset(out)
    written = [path.read_bytes() for path in out.rglob("*") if path.is_file()]
    written += [str(path.relative_to(out)).encode() for path in out.rglob("*")]
    for level in range(dataset.levels):
        for records in dataset._records(level).values():
            for record in records:
                written.append(codec.decode(record["tile"]).tobytes())
                written.append(repr(dict(record)).encode())
    assert len(written) > 100
    planted = [b"canary", b"19300101", b"1.2.777", b"sjukhus", KEY, KEY.hex().encode()]
    for content in written:
        for secret in planted:
            assert secret not in content.lower()
    # The search is able to find what was planted.
    source = b"".join(path.read_bytes() for path in cohort.folder.iterdir()).lower()
    assert all(secret in source for secret in planted[:4])


def _bytes_of(folder):
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_the_number_of_workers_changes_nothing(cohort, ingested, tmp_path):
    summary = cohort.ingest(tmp_path / "dataset", workers=2)
    assert summary == ingested[1]
    assert _bytes_of(tmp_path / "dataset") == _bytes_of(ingested[0])


def test_a_bad_file_is_named_and_nothing_left(cohort, tmp_path):
    with pytest.raises(UserError, match=r"2 of 15 .*CANARY.*Mend or delete .*--max_rejected") as e:
        cohort.ingest(tmp_path / "dataset", max_rejected=0.0)
    assert "not_dicom: 1" in str(e.value) and "undecodable: 1" in str(e.value)
    assert list(tmp_path.iterdir()) == []


def test_one_picture_of_two_patients_is_told(cohort, tmp_path):
    labels = tmp_path / "labels.csv"
    rows = [*cohort.rows[:12], ("CANARYagain.dcm", *cohort.rows[4][1:])]
    _write_labels(labels, rows)
    out = tmp_path / "dataset"
    settings = {"patch": 16, "key_file": cohort.key, "fractions": FRACTIONS, "workers": 1}
    with pytest.raises(UserError, match="same picture") as error:
        ingest(cohort.folder, labels, out, **settings)
    assert "CANARYfile0.dcm" in str(error.value) and "CANARYagain.dcm" in str(error.value)
    assert sorted(tmp_path.iterdir()) == [labels]


def test_a_folder_without_a_usable_file_is_told(tmp_path):
    folder = tmp_path / "radiographs"
    folder.mkdir()
    rows = [(f"{n}.dcm", f"p{n}", "h", ("NFF", "AFF")[n % 2], "", "") for n in range(4)]
    for row in rows:
        (folder / row[0]).write_text("text")
    _write_labels(tmp_path / "labels.csv", rows)
    with pytest.raises(UserError, match="4 of 4 files"):
        ingest(
            folder,
            tmp_path / "labels.csv",
            tmp_path / "dataset",
            patch=16,
            key_file=tmp_path / "key",
            fractions=(0.0, 0.0),
            max_rejected=1.0,
            workers=1,
        )
    assert not (tmp_path / "dataset").exists()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"workers": 0}, "workers is 0"),
        ({"patch": 0}, "patch is 0"),
        ({"fractions": (0.1, 0.1)}, "6 patients with label NFF"),
    ],
)
def test_bad_settings_are_told(cohort, tmp_path, changes, named):
    with pytest.raises(UserError, match=named):
        cohort.ingest(tmp_path / "dataset", **changes)
    assert list(tmp_path.iterdir()) == []


def test_bad_places_are_told(cohort, tmp_path):
    out = tmp_path / "dataset"
    with pytest.raises(UserError, match="keep the key elsewhere"):
        cohort.ingest(out, key_file=out / "key")
    out.mkdir()
    with pytest.raises(UserError, match="dataset exists"):
        cohort.ingest(out, key_file=tmp_path / "key")
    assert list(tmp_path.iterdir()) == [out]


class _Immediate(Executor):
    """Runs nothing; counts the results that nobody has fetched."""

    def __init__(self):
        self.pending = self.most = 0

    def submit(self, function, /, *args, **kwargs):
        self.pending += 1
        self.most = max(self.most, self.pending)
        future = Future()
        future.set_result(args[0])
        return future


def _jobs(number, kind=_Job):
    return [object.__new__(kind) for _ in range(number)]


def test_few_results_wait_in_memory():
    pool, jobs, done = _Immediate(), _jobs(50), []
    for job, result in _in_order(pool, jobs, ahead=5):
        assert job is result
        pool.pending -= 1
        done.append(job)
    assert all(a is b for a, b in zip(done, jobs, strict=True))
    assert pool.most <= 6


class _Fatal(_Job):
    def __reduce__(self):
        return os._exit, (1,)  # what unpickling it does


def test_a_killed_worker_is_told():
    with (
        ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool,
        pytest.raises(UserError, match="killed"),
    ):
        list(_in_order(pool, _jobs(3, _Fatal), ahead=2))


def test_real_chest_radiographs(real_radiographs, tmp_path):
    with (real_radiographs / "manifest.csv").open() as file:
        first = {r["patient"]: r["file"] for r in csv.DictReader(file) if r["patient"]}
    rows = [
        (file, p, "MHH", ("AFF", "NFF")[n % 2], "", "") for n, (p, file) in enumerate(first.items())
    ]
    _write_labels(tmp_path / "labels.csv", rows[:4])
    summary = ingest(
        real_radiographs,
        tmp_path / "labels.csv",
        tmp_path / "dataset",
        patch=256,
        key_file=tmp_path / "key",
        fractions=(0.0, 0.0),
        workers=2,
    )
    assert summary == Summary(4, 4, 0, 0)
    dataset = RadiographDataset(tmp_path / "dataset")
    assert dataset.level_sizes(0) == [(250, 250), (500, 500), (1000, 1000), (2000, 2000)]
    means = []
    for file, *_ in rows[:4]:
        with Image.open(real_radiographs / file) as image:
            means.append(np.asarray(image.convert("L")).mean() * 257)
    assert sorted(dataset.read(n).mean() for n in range(4)) == pytest.approx(sorted(means))
    coarse = sorted(dataset.read(n, 0).mean() for n in range(4))
    assert coarse == pytest.approx(sorted(means), rel=1e-3)


def test_real_dicom_files(real_radiographs, tmp_path):
    """Files as found, RG2 in five encodings of which some are the same picture."""
    files = sorted((real_radiographs / "dicom").glob("*.dcm"))
    rows = []
    for n, path in enumerate(files):
        rg2 = path.name.startswith("RG2")
        label = "AFF" if rg2 or n % 2 else "NFF"
        rows.append((path.name, "RG2" if rg2 else path.stem, "h", label, "", ""))
    _write_labels(tmp_path / "labels.csv", rows)
    summary = ingest(
        real_radiographs / "dicom",
        tmp_path / "labels.csv",
        tmp_path / "dataset",
        patch=256,
        key_file=tmp_path / "key",
        fractions=(0.0, 0.0),
        max_rejected=0.6,
        workers=2,
    )
    assert summary.inputs == len(files) == 16
    assert summary.inputs == summary.accepted + summary.rejected + summary.duplicates
    assert summary.duplicates == 2  # JPLL and JLSL; JPLY and JPLY_fixed
    lines = (tmp_path / "dataset" / "rejected.jsonl").read_text().splitlines()
    assert Counter(json.loads(line)["code"] for line in lines) == {
        "undecodable": 1,
        "no_pixels": 1,
        "transfer_syntax": 2,
        "not_dicom": 1,
        "unreadable": 1,
    }
