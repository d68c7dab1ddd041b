"""The smallest whole study, of radiographs with strings planted in every corner of their files.

Its results, cards and stages are as they should be, and nothing planted comes out anywhere. As in
MIDI-B (Rutherford et al., arXiv 2507.23608): plant, run everything, scan every byte.
"""

import base64
import contextlib
import csv
import io
import json
import re
import shutil
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import zstandard
from array_record.python.array_record_data_source import ArrayRecordDataSource
from PIL import Image, PngImagePlugin
from pydicom import uid
from pydicom.dataset import Dataset

from configs.study import get_config
from femur_jax.data import codec
from femur_jax.data.records import tile_of
from femur_jax.data.shards import RadiographDataset
from femur_jax.evaluation.generators import Evaluation
from femur_jax.export.folder import export
from femur_jax.study import results, runner
from femur_jax.study.grid import Grid
from tests.environment import one_device
from tests.ingest.conftest import write_dicom

ROOT = Path(__file__).parents[2]
TEXTS = """
PatientName PatientID OtherPatientNames PatientBirthName PatientAddress PatientComments
PatientTelephoneNumbers PatientMotherBirthName EthnicGroup Occupation MedicalRecordLocator
AdditionalPatientHistory AdmittingDiagnosesDescription InstitutionName InstitutionAddress
InstitutionalDepartmentName ReferringPhysicianName PerformingPhysicianName OperatorsName
NameOfPhysiciansReadingStudy StudyDescription SeriesDescription ProtocolName AccessionNumber
StudyID StationName DeviceSerialNumber Manufacturer ManufacturerModelName ImageComments
RequestedProcedureDescription DerivationDescription FilterType AcquisitionDeviceProcessingCode
""".split()  # noqa: SIM905
"""Elements of the data set that hold text."""
DATES = {"PatientBirthDate": "19310407", "StudyDate": "20170523", "AcquisitionDate": "20170524"}
UIDS = {
    "StudyInstanceUID": "1.2.826.9911.1",
    "SeriesInstanceUID": "1.2.826.9912.1",
    "FrameOfReferenceUID": "1.2.826.9913.1",
    "IrradiationEventUID": "1.2.826.9914.1",
}
SYNTAXES = (
    uid.ExplicitVRLittleEndian,
    uid.ImplicitVRLittleEndian,
    uid.DeflatedExplicitVRLittleEndian,
    uid.JPEGLosslessSV1,
    uid.JPEGLSLossless,
    uid.JPEG2000Lossless,
    uid.RLELossless,
)


class Canaries(dict):
    """Planted strings by position; each has a unique number."""

    def __missing__(self, position):
        self[position] = f"QXCANARY{len(self):03d}Z"
        return self[position]


def _plant(canaries, number):
    """A function that plants text into a dataset before it is written."""

    def change(dataset):
        for name in TEXTS:
            setattr(dataset, name, canaries[name])
        for name, value in (DATES | UIDS).items():
            setattr(dataset, name, value)
        dataset.SOPInstanceUID = f"1.2.826.9915.{number}"
        dataset.PatientAge, dataset.PatientSex = "086Y", "F"
        deepest = item = Dataset()
        for _ in range(3):
            item.RequestedProcedureID = canaries["nested"]
            inner = Dataset()
            item.ReferencedStudySequence = [inner]
            item = inner
        item.PatientName = canaries["nested patient"]
        dataset.RequestAttributesSequence = [deepest]
        original = Dataset()
        original.AttributeModificationDateTime = "20170525"
        original.ModifiedAttributesSequence = [Dataset()]
        original.ModifiedAttributesSequence[0].PatientName = canaries["original attributes"]
        original.SourceOfPreviousValues = canaries["source of previous values"]
        original.ModifyingSystem, original.ReasonForTheAttributeModification = (
            canaries["modifying"],
            "CORRECT",
        )
        dataset.OriginalAttributesSequence = [original]
        block = dataset.private_block(0x0099, canaries["private creator"], create=True)
        block.add_new(1, "LO", canaries["private"])
        secret = Dataset()
        secret.PatientName = canaries["private sequence"]
        block.add_new(2, "SQ", [secret])
        block.add_new(3, "UN", canaries["private unknown"].encode())
        dataset.add_new(0x60000010, "US", 8)
        dataset.add_new(0x60000022, "LO", canaries["overlay description"])
        dataset.add_new(0x60003000, "OW", canaries["overlay data"].encode() + b"\0" * 8)
        dataset.add_new(0xFFFCFFFC, "OB", canaries["trailing padding"].encode())
        dataset.file_meta.SourceApplicationEntityTitle = canaries["AE title"]
        dataset.file_meta.PrivateInformationCreatorUID = "1.2.826.9916"
        dataset.file_meta.PrivateInformation = canaries["private information"].encode()
        dataset.preamble = canaries["preamble"].encode().ljust(128, b"\0")

    return change


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """Canaries, with the folder and label table that contain them."""
    canaries = Canaries()
    folder = tmp_path_factory.mktemp("hospital") / canaries["folder"]
    inside = folder / canaries["folder inside"]
    inside.mkdir(parents=True)
    rows, rng = [], np.random.default_rng(0)
    for n in range(42):
        label = ("NFF", "AFF")[n % 2]
        pixels = rng.integers(0, 4096, (40, 24 + n)).astype(np.uint16)
        name = f"{canaries['file name']}{n}"
        if n < 38:
            path = inside / f"{name}.dcm"
            write_dicom(path, pixels, syntax=SYNTAXES[n % 7], change=_plant(canaries, n))
        else:
            path = inside / f"{name}.png"
            text = PngImagePlugin.PngInfo()
            text.add_text("Comment", canaries["PNG text"])
            Image.fromarray(pixels).save(path, pnginfo=text)
        patient, hospital = f"{canaries['patient_id']}{n}", f"{canaries['hospital']}{n % 3}"
        row = (path.relative_to(folder), patient, hospital, label, "AP", "L", canaries["column"])
        rows.append(row)
    broken = inside / f"{canaries['broken file']}.dcm"
    broken.write_bytes(path.read_bytes()[:40] + canaries["broken text"].encode())
    rows.append((broken.relative_to(folder), *rows[0][1:]))
    labels = folder.parent / f"{canaries['label table']}.csv"
    with labels.open("w", newline="") as file:
        columns = ("path", "patient_id", "hospital", "label", "view", "laterality", "comment")
        csv.writer(file).writerows([columns, *rows])
    return canaries, folder, labels


SMALLEST = {
    "grid": ("diffusion-pyramid-joint", "gan-letterbox-joint", "gan-letterbox-per_class"),
    "primary": ("gan-letterbox-joint", "gan-letterbox-per_class"),
    "classifier_seeds": (0,),
    "diffusion.sample.per_label": 6,
    "pretraining": True,
    "ingest.patch": 16,
    "ingest.fractions": (0.3, 0.3),
    "ingest.max_quarantined": 0.1,
    "diffusion.model.channels": 8,
    "diffusion.model.multipliers": (1,),
    "diffusion.model.attention": (False,),
    "diffusion.sample.steps": (2,),
    "diffusion.train.warmup_steps": 1,
    "gan.model.size": 8,
    "gan.model.channels": (8, 8),
    "gan.model.latent": 4,
    "gan.sample.per_label": 6,
    "gan.train.burn_in_images": 16,
    "classifier.data.shapes": ((32, 32),),
    "classifier.model.stage_sizes": (1,),
    "classifier.model.width": 8,
    "classifier.train.warmup_steps": 1,
} | {
    f"{family}.train.{name}": value
    for family in ("diffusion", "gan", "classifier")
    for name, value in {"steps": 2, "batch_size": 8, "checkpoint_every": 2, "log_every": 1}.items()
}


@pytest.fixture(scope="module")
def finished(planted, tmp_path_factory):
    """The config and the run directory of a study; next to it is its printed output."""
    _, folder, labels = planted
    settings = SMALLEST | {"radiographs": str(folder), "labels": str(labels)}
    config = get_config("smoke")
    config.update_from_flattened_dict(settings)
    study = tmp_path_factory.mktemp("study")
    command = [sys.executable, "-m", "femur_jax.main", f"--workdir={study / 'run'}"]
    command += [f"--config={ROOT / 'configs' / 'study.py'}:smoke"]
    command += [f"--config.{name}={value}" for name, value in settings.items()]
    with (study / "printed.txt").open("w") as printed:
        output = {"stdout": printed, "stderr": printed}
        subprocess.run(command, cwd=ROOT, env=one_device(), umask=0, check=True, **output)
    return config, study / "run"


def _secrets(canaries):
    texts = [*canaries.values(), *DATES.values(), *(u.rsplit(".", 1)[0] for u in UIDS.values())]
    texts += ["1.2.826.9915", "1.2.826.9916"]
    return re.compile(b"|".join(re.escape(text.encode()) for text in texts), re.IGNORECASE)


def _unpacked(data):
    """The bytes and all content that is compressed or encoded in them."""
    yield data
    for start in re.finditer(re.escape(b"\x28\xb5\x2f\xfd"), data):
        with contextlib.suppress(zstandard.ZstdError):
            reader = zstandard.ZstdDecompressor().stream_reader(data[start.start() :])
            yield reader.read(1 << 24)
    for start in re.finditer(rb"\x78[\x01\x5e\x9c\xda]|\x1f\x8b\x08", data):
        with contextlib.suppress(zlib.error):
            yield zlib.decompressobj(47).decompress(data[start.start() :], 1 << 24)
    for match in re.finditer(rb"base64,([A-Za-z0-9+/=]+)", data):
        picture = base64.b64decode(match[1])
        yield from _unpacked(picture)
        with Image.open(io.BytesIO(picture)) as image:
            yield repr(image.info).encode() + image.tobytes()


def _contents(path):
    data = path.read_bytes()
    if ".array_record-" in path.name:
        for record in ArrayRecordDataSource([str(path)]):
            yield record
            yield tile_of(record).tobytes()
    yield from _unpacked(data)


def test_nothing_planted_comes_out(planted, finished):
    canaries, _, _ = planted
    outcome = finished[1].parent
    assert len(canaries) + len(DATES) + len(UIDS) >= 50
    secrets = _secrets(canaries)
    files = [path for path in outcome.rglob("*") if path.is_file()]
    suffixes = {path.name.partition(".")[2].partition("-")[0] for path in files}
    assert {"html", "json", "jsonl", "array_record", "txt"} <= suffixes
    assert any("events.out" in path.name for path in files)
    assert any("checkpoints" in path.parts for path in files)
    for path in files:
        assert not secrets.search(str(path.relative_to(outcome)).encode())
        if path.suffix == ".path":  # where the hospital's files are, for its own eyes
            assert path.parent.name == "run.private"
            continue
        for content in _contents(path):
            leak = secrets.search(content)
            assert leak is None, f"{leak} in {path.relative_to(outcome)}"


def test_a_study_is_private_and_its_key_lies_outside(finished):
    """The command ran under the umask 0."""
    outcome = finished[1].parent
    for name in ("run", "run.private"):
        paths = [outcome / name, *(outcome / name).rglob("*")]
        others = [p for p in paths if not p.is_symlink() and p.stat().st_mode & 0o077]
        assert others == []
    assert {path.name for path in (outcome / "run.private").iterdir()} == {
        "pseudonyms.key",
        "real.lines.csv",
        "radiographs.path",
        "labels.path",
    }
    assert not [p for p in (outcome / "run").rglob("*") if p.name.endswith((".key", "lines.csv"))]


@pytest.mark.parametrize("blinded", [False, True])
def test_nothing_planted_is_exported(planted, finished, tmp_path, blinded):
    folder = finished[1] / "real"
    files = export([folder], tmp_path / "out", blinded=blinded, allow_real=True)
    assert files == len(RadiographDataset(folder).entries)
    secrets = _secrets(planted[0])
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or secrets.search(path.read_bytes()) is None, path.name


def test_the_scan_would_find_them(planted, tmp_path):
    """The scan finds each string in the sources, also when compressed."""
    canaries, folder, labels = planted
    secrets, seen = _secrets(canaries), set()
    for path in [labels, *folder.rglob("*")]:
        seen |= {m[0] for m in secrets.finditer(str(path).encode())}
        if path.is_file():
            for content in _unpacked(path.read_bytes()):
                seen |= {m[0] for m in secrets.finditer(content)}
    assert {text.encode() for text in canaries.values()} <= seen
    hidden = canaries["PatientName"].encode()
    for data in (
        zstandard.compress(hidden),
        zlib.compress(hidden),
        b"\x00" + zstandard.compress(hidden * 50),
    ):
        (tmp_path / "file").write_bytes(data)
        assert any(secrets.search(content) for content in _contents(tmp_path / "file"))
    pixels = np.frombuffer(hidden.ljust(24, b"\0"), np.uint16).reshape(1, -1)
    assert secrets.search(codec.decode(codec.encode(pixels)).tobytes())


def test_a_study_leaves_its_results_and_cards(finished):
    _, folder = finished
    assert len(list((folder / "finished").iterdir())) == 1 + 4 + 4 + 11 + 3 + 1
    written = json.loads((folder / "results.json").read_text())
    aucs = {row["trained_on"]: row["auc"]["mean"]["value"] for row in written["classifiers"]}
    of_real = json.loads((folder / "classifiers" / "real-0" / "evaluation.json").read_text())
    assert len(aucs) == 11 and aucs["real"] == pytest.approx(of_real["auc"]["value"])
    [contrast] = [row for row in written["contrasts"] if row["axis"] == "classes"]
    one, per_class = (aucs[f"GAN, letterbox, {w}"] for w in ("one model", "model per class"))
    assert contrast["auc"]["difference"]["value"] == pytest.approx(one - per_class)
    assert contrast["is_primary"] and contrast["auc"]["trainings"] == 1
    for label in ("NFF", "AFF"):
        run = folder / "generators" / f"gan-letterbox-per_class-0-{label}"
        synthetic = RadiographDataset(run / "synthetic")
        assert {entry.label for entry in synthetic.entries} == {label}
        for card in (run / "MODEL_CARD.md", run / "synthetic" / "README.md"):
            text = card.read_text()
            assert (
                "who was in the training set is inferred with" in text
                and f"Classes: {label} (" in text
            )
            assert str(folder) not in text and "QXCANARY" not in text
    assert {g["group"] for row in written["classifiers"] for g in row["groups"]["hospital"]} == {
        *"ABC"
    }
    assert "3. One model for both classes" in (folder / "report.html").read_text()


def test_a_second_seed_with_the_same_results_changes_no_mean(finished, tmp_path):
    config, folder = finished
    one = results.gather(Grid(config, folder), {})
    twice = config.copy_and_resolve_references()
    twice.seeds = twice.classifier_seeds = (0, 1)
    shutil.copytree(folder, tmp_path / "run", symlinks=True)
    for kind in ("generators", "measurements"):
        for path in (folder / kind).glob("*-0*"):
            (tmp_path / "run" / kind / path.name.replace("-0", "-1")).symlink_to(path)
    for path in (folder / "classifiers").iterdir():
        name = path.name.removesuffix("-0")
        others = ("-1",) if name in ("real", "real_6") else ("-0-1", "-1-0", "-1-1")
        for seeds in others:
            (tmp_path / "run" / "classifiers" / (name.removesuffix("-0") + seeds)).symlink_to(path)
    two = results.gather(Grid(twice, tmp_path / "run"), {})
    for first, second in zip(one.classifiers, two.classifiers, strict=True):
        assert second.auc.auc == first.auc.auc * (4 if second.source else 2)
        assert second.auc.of_classifiers == second.auc.of_generators == 0
        assert second.auc.mean.value == pytest.approx(first.auc.mean.value)
        assert second.operating == first.operating
    assert [row.auc.difference.value for row in two.contrasts] == pytest.approx(
        [row.auc.difference.value for row in one.contrasts]
    )
    for (_, first), (_, second) in zip(one.distances(), two.distances(), strict=True):
        assert second.kid == pytest.approx(first.kid)
    assert [row.n for _, row in two.copies()] == [2 * row.n for _, row in one.copies()]


def test_a_stage_can_run_alone(finished, capsys):
    config, folder = finished
    stage = "measure gan-letterbox-per_class-0"
    file = folder / "measurements" / "gan-letterbox-per_class-0.json"
    (folder / "finished" / stage).unlink()
    before = Evaluation.from_json(json.loads(file.read_text()))
    runner.run(config, folder, only=stage)
    after = Evaluation.from_json(json.loads(file.read_text()))
    assert [row.pairs for row in after.copies] == [row.pairs for row in before.copies]
    assert after.distances[0].kid == pytest.approx(before.distances[0].kid, rel=1e-3)
    assert capsys.readouterr().out == f"{stage} ...\n"
