"""Everything that shows patients or names them is private, whatever the umask."""

import contextlib
import os
import stat

import numpy as np
import pytest
from PIL import Image

from femur_jax.data.synthetic import Request, SyntheticSpool
from femur_jax.main import main
from femur_jax.reader_study.answers import AnswerStore
from femur_jax.reader_study.study import open_study


@contextlib.contextmanager
def _umask(umask):
    before = os.umask(umask)
    try:
        yield
    finally:
        os.umask(before)


def _assert_private(folder):
    paths = list(folder.rglob("*"))
    for path in paths:
        mode = 0o700 if path.is_dir() else 0o600
        assert stat.S_IMODE(path.stat().st_mode) == mode, path.relative_to(folder)
    return {path.name for path in paths}


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    """Pictures of twelve patients at three hospitals, and their label table."""
    folder = tmp_path_factory.mktemp("films")
    rows, rng = ["path,patient_id,hospital,label"], np.random.default_rng(0)
    for n in range(12):
        pixels = rng.integers(0, 65536, (70, 60 + n), np.uint16)
        Image.fromarray(pixels).save(folder / f"{n}.png")
        rows.append(f"{n}.png,p{n},h{n % 3},{('NFF', 'AFF')[n % 2]}")
    (folder / "labels.csv").write_text("\n".join(rows))
    return folder


def _synthetic(folder):
    requests = [Request(70, 60, 0.1, label) for label in ("NFF", "AFF") * 2]
    provenance = {"kind": "synthetic", "model": "gan"}
    spool = SyntheticSpool(folder, requests, patch=32, provenance=provenance)
    rng = np.random.default_rng(1)
    for n in range(len(requests)):
        spool.add(n, rng.integers(0, 65536, (70, 60), np.uint16))
        if n == 0:
            names = _assert_private(folder.parent)
            assert f"{folder.name}.spool" in names
    spool.write()


@pytest.mark.parametrize("umask", [0, 0o022])
def test_commands_write_for_their_owner_alone(films, tmp_path, umask):
    table, out = films / "labels.csv", tmp_path / "work"
    out.mkdir(0o700)
    commands = [
        f"ingest --dicom={films} --draft_labels={out / 'draft.csv'} --workers=1",
        f"ingest --dicom={films} --labels={table} --out={out / 'keys' / 'femur'} --patch=32 "
        "--workers=1 --fractions 0 0.4",
        f"inspect --dataset={out / 'keys' / 'femur'} --out={out / 'page'}",
        f"export {out / 'keys' / 'femur'} --out={out / 'dicom'} --blinded --allow_real",
        f"readers build --real {out / 'keys' / 'femur'} --synthetic {out / 'synthetic'} "
        f"--out {out / 'study'} --single 4 --pairs 0 --practice 0",
    ]
    with _umask(umask):
        _synthetic(out / "synthetic")
        for command in commands:
            assert main(command.split()) == 0, command
        store = AnswerStore(open_study(out / "study"))
        store.invite("reader")
        names = _assert_private(out)
        store.close()
        assert os.umask(umask) == umask
    assert names >= {
        *("draft.csv", "femur.key", "femur.lines.csv", "dataset.json", "fingerprint.html"),
        *("dicom.key", "dicom.cases.csv", "00001.dcm", "study.json", "answers.sqlite"),
        "answers.sqlite-wal",
    }
