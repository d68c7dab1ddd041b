"""Tests of sending to a pynetdicom PACS that accepts all, some or none of the files."""

import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.uid import DigitalXRayImageStorageForPresentation, SecondaryCaptureImageStorage
from pynetdicom import AE, evt

from femur_jax.errors import UserError
from femur_jax.export.folder import export
from femur_jax.export.pacs import send

SCRIPT = Path(__file__).parents[2] / "tools" / "send_dicom.py"
ENVIRONMENT = os.environ | {"PYTHONPATH": os.pathsep.join([str(SCRIPT.parents[1]), *sys.path])}
CLASSES = (DigitalXRayImageStorageForPresentation, SecondaryCaptureImageStorage)


@pytest.fixture
def folder(synthetic, tmp_path):
    """A folder of twelve files, half of each class."""
    export([synthetic.folder], tmp_path / "out")
    return tmp_path / "out"


@contextmanager
def pacs(store, classes=CLASSES):
    """A PACS that answers each file with the status that `store` returns; yields its port."""
    entity = AE("PACS")
    entity.require_called_aet = True
    for sop_class in classes:
        entity.add_supported_context(sop_class)
    server = entity.start_server(
        ("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, store)]
    )
    assert server is not None
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()


def _send(folder, port, called="PACS"):
    return send(folder, "127.0.0.1", port, called=called, calling="TEST")


class Archive(dict):
    """Stores files by SOP Instance UID if their status from `answer` is success or a warning."""

    def __init__(self, answer=lambda number: 0x0000):
        self.answer = answer
        self.requests = 0

    def __call__(self, event):
        self.requests += 1
        status = self.answer(self.requests)
        if status in (0x0000, 0xB000):
            self[event.dataset.SOPInstanceUID] = event.dataset
        return status


def test_every_file_arrives_once(folder):
    archive = Archive()
    with pacs(archive) as port:
        assert _send(folder, port) == (12, 0)
        assert _send(folder, port) == (0, 12)
    assert archive.requests == 12
    for path in folder.iterdir():
        ds = dcmread(path)
        assert archive[ds.SOPInstanceUID] == ds


def test_each_pacs_gets_all_files(folder):
    for archive in (Archive(), Archive()):
        with pacs(archive) as port:
            _send(folder, port)
        assert len(archive) == 12


def test_refused_files_are_sent_again(folder):
    full = Archive(lambda number: 0x0000 if number <= 5 else 0xA700)
    with pacs(full) as port:
        with pytest.raises(UserError, match=r"refused 7 of 12 files.*00006\.dcm.*A700.*Resources"):
            _send(folder, port)
        full.answer = lambda number: 0x0000
        assert _send(folder, port) == (7, 5)
    assert len(full) == 12 and full.requests == 12 + 7


def test_a_warning_means_stored(folder):
    archive = Archive(lambda number: 0xB000)  # coercion of data elements
    with pacs(archive) as port:
        assert _send(folder, port) == (12, 0)


def test_a_pacs_that_accepts_only_one_class(folder):
    archive = Archive()
    with (
        pacs(archive, CLASSES[1:]) as port,
        pytest.raises(UserError, match="does not accept Digital X-Ray"),
    ):
        _send(folder, port)
    assert len(archive) == 6


def test_a_pacs_that_dies_while_receiving(folder):
    def store(event):
        if len(archive) == 4:
            event.assoc.abort()
        return archive(event)

    archive = Archive()
    with pacs(store) as port, pytest.raises(UserError, match=r"stopped answering at 00005\.dcm"):
        _send(folder, port)
    archive = Archive()
    log = folder.with_name("out.sent.csv").read_text()
    assert log.count("\n") == 4
    with pacs(archive) as port:
        # In this test the restarted PACS has another port.
        folder.with_name("out.sent.csv").write_text(log.replace(log.split(",")[2], str(port)))
        assert _send(folder, port) == (8, 4)


def test_a_killed_sender(folder):
    """The stored files are recorded, so only the file in transfer is sent twice."""

    def store(event):
        if archive.requests == 4:
            sender.kill()
        return archive(event)

    archive = Archive()
    with pacs(store) as port:
        receiver = ["--host=127.0.0.1", f"--port={port}", "--aet=PACS", "--calling=TEST"]
        sender = subprocess.Popen([sys.executable, SCRIPT, folder, *receiver], env=ENVIRONMENT)
        sender.wait()
        assert _send(folder, port) == (8, 4)
    assert len(archive) == 12 and archive.requests == 13


def test_a_pacs_that_refuses_the_called_title(folder):
    archive = Archive()
    with pacs(archive) as port, pytest.raises(UserError, match="refused the connection"):
        _send(folder, port, called="ANOTHER")
    assert not archive and not folder.with_name("out.sent.csv").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--host=127.0.0.1", "--port=1", "--aet=PACS"], "does not answer"),
        (["--host=nowhere.invalid", "--port=104", "--aet=PACS"], "cannot be found"),
        (["--host=127.0.0.1", "--port=70000", "--aet=PACS"], "1 to 65535"),
        (["--host=127.0.0.1", "--port=104", "--aet=A_TITLE_OF_17_CHR"], "1 to 16"),
    ],
)
def test_an_unreachable_pacs(arguments, message, folder):
    result = subprocess.run(
        [sys.executable, SCRIPT, folder, *arguments],
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
    )
    assert result.returncode == 2 and message in result.stderr
    assert result.stderr.startswith("femur_jax: ") and result.stderr.count("\n") == 1


def test_unusable_folders_are_refused(tmp_path):
    with pytest.raises(UserError, match="no folder"):
        _send(tmp_path / "nothing", 104)
    with pytest.raises(UserError, match="holds no file"):
        _send(tmp_path, 104)
    (tmp_path / "text.dcm").write_text("not a DICOM file")
    with pytest.raises(UserError, match=r"text\.dcm is not a DICOM file"):
        _send(tmp_path, 104)
