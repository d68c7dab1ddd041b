"""Sending to PACSs that take all, some or nothing; the PACS is pynetdicom's own."""

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
    """Twelve files, half of each class."""
    export([synthetic.folder], tmp_path / "out")
    return tmp_path / "out"


@contextmanager
def pacs(store, classes=CLASSES):
    """A PACS that answers each file with the status that `store` gives; yields its port."""
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


class Shelf(dict):
    """Keeps what it is sent by SOP Instance UID, but for what `answer` gives another status."""

    def __init__(self, answer=lambda number: 0x0000):
        self.answer = answer
        self.asked = 0

    def __call__(self, event):
        self.asked += 1
        status = self.answer(self.asked)
        if status in (0x0000, 0xB000):
            self[event.dataset.SOPInstanceUID] = event.dataset
        return status


def test_everything_arrives_once(folder):
    shelf = Shelf()
    with pacs(shelf) as port:
        assert _send(folder, port) == (12, 0)
        assert _send(folder, port) == (0, 12)
    assert shelf.asked == 12
    for path in folder.iterdir():
        ds = dcmread(path)
        assert shelf[ds.SOPInstanceUID] == ds


def test_another_pacs_gets_everything_too(folder):
    for shelf in (Shelf(), Shelf()):
        with pacs(shelf) as port:
            _send(folder, port)
        assert len(shelf) == 12


def test_what_was_refused_is_sent_again(folder):
    full = Shelf(lambda number: 0x0000 if number <= 5 else 0xA700)
    with pacs(full) as port:
        with pytest.raises(UserError, match=r"refused 7 of 12 files.*00006\.dcm.*A700.*Resources"):
            _send(folder, port)
        full.answer = lambda number: 0x0000
        assert _send(folder, port) == (7, 5)
    assert len(full) == 12 and full.asked == 12 + 7


def test_a_warning_means_stored(folder):
    shelf = Shelf(lambda number: 0xB000)  # coercion of data elements
    with pacs(shelf) as port:
        assert _send(folder, port) == (12, 0)


def test_a_pacs_that_takes_one_class(folder):
    shelf = Shelf()
    with pacs(shelf, CLASSES[1:]) as port, pytest.raises(UserError, match="takes no Digital X-Ray"):
        _send(folder, port)
    assert len(shelf) == 6


def test_a_pacs_that_dies_on_the_way(folder):
    def store(event):
        if len(shelf) == 4:
            event.assoc.abort()
        return shelf(event)

    shelf = Shelf()
    with pacs(store) as port, pytest.raises(UserError, match=r"stopped answering at 00005\.dcm"):
        _send(folder, port)
    shelf = Shelf()
    noted = folder.with_name("out.sent.csv").read_text()
    assert noted.count("\n") == 4
    with pacs(shelf) as port:
        # The PACS that was started again has another port here.
        folder.with_name("out.sent.csv").write_text(noted.replace(noted.split(",")[2], str(port)))
        assert _send(folder, port) == (8, 4)


def test_killed_on_the_way(folder):
    """What was stored by then is noted; only the file that was on its way is sent twice."""

    def store(event):
        if shelf.asked == 4:
            sender.kill()
        return shelf(event)

    shelf = Shelf()
    with pacs(store) as port:
        where = ["--host=127.0.0.1", f"--port={port}", "--aet=PACS", "--calling=TEST"]
        sender = subprocess.Popen([sys.executable, SCRIPT, folder, *where], env=ENVIRONMENT)
        sender.wait()
        assert _send(folder, port) == (8, 4)
    assert len(shelf) == 12 and shelf.asked == 13


def test_a_pacs_that_does_not_know_us(folder):
    shelf = Shelf()
    with pacs(shelf) as port, pytest.raises(UserError, match="refused the connection"):
        _send(folder, port, called="ANOTHER")
    assert not shelf and not folder.with_name("out.sent.csv").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--host=127.0.0.1", "--port=1", "--aet=PACS"], "does not answer"),
        (["--host=nowhere.invalid", "--port=104", "--aet=PACS"], "cannot be found"),
        (["--host=127.0.0.1", "--port=70000", "--aet=PACS"], "1 to 65535"),
        (["--host=127.0.0.1", "--port=104", "--aet=A_TITLE_OF_17_CHR"], "1 to 16"),
    ],
)
def test_a_pacs_that_cannot_be_reached(arguments, said, folder):
    done = subprocess.run(
        [sys.executable, SCRIPT, folder, *arguments],
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
    )
    assert done.returncode == 2 and said in done.stderr
    assert done.stderr.startswith("send_dicom: ") and done.stderr.count("\n") == 1


def test_folders_that_cannot_be_sent(tmp_path):
    with pytest.raises(UserError, match="no folder"):
        _send(tmp_path / "nothing", 104)
    with pytest.raises(UserError, match="holds no file"):
        _send(tmp_path, 104)
    (tmp_path / "text.dcm").write_text("no DICOM file")
    with pytest.raises(UserError, match="no DICOM file"):
        _send(tmp_path, 104)
