"""A round trip through Orthanc in a separate network, since Orthanc listens on all addresses."""

import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from pydicom import dcmread

from femur_jax.export.folder import export

SCRIPT = Path(__file__).parents[2] / "tools" / "send_dicom.py"
READ = "import sys, urllib.request as u; sys.stdout.buffer.write(u.urlopen(sys.argv[1]).read())"
GET = (sys.executable, "-ISc", READ)  # Python starts faster without site-packages
CONNECT = (sys.executable, "-ISc", "import socket; socket.create_connection(('127.0.0.1', 4242))")
REST = "http://127.0.0.1:8042"


class Orthanc:
    """Orthanc on the loopback of a network namespace, in which its clients run too."""

    def __init__(self, program: str, unshare: str, folder: Path):
        configuration = {
            "StorageDirectory": str(folder / "storage"),
            "IndexDirectory": str(folder / "storage"),
            "DicomAet": "ORTHANC",
            "DicomPort": 4242,
            "HttpPort": 8042,
            "DicomAlwaysAllowStore": True,
            "DicomCheckCalledAet": True,
            "Plugins": [],
        }
        (folder / "orthanc.json").write_text(json.dumps(configuration))
        start = f"ip link set lo up && exec {program} {folder / 'orthanc.json'}"
        with (folder / "orthanc.log").open("w") as log:
            self.process = subprocess.Popen(
                [unshare, "--map-root-user", "--net", "sh", "-c", start], stdout=log, stderr=log
            )

    def inside(self, *command: object) -> subprocess.CompletedProcess[bytes]:
        """Runs a command in Orthanc's network namespace."""
        enter = ["nsenter", "--preserve-credentials", "--user", "--net"]
        return subprocess.run(
            [*enter, f"--target={self.process.pid}", *map(str, command)],
            capture_output=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join([str(SCRIPT.parents[1]), *sys.path])},
        )

    def get(self, path: str) -> bytes:
        result = self.inside(*GET, REST + path)
        result.check_returncode()
        return result.stdout

    def send(self, folder: Path, title: str = "ORTHANC") -> subprocess.CompletedProcess[bytes]:
        receiver = ("--host=127.0.0.1", "--port=4242", f"--aet={title}")
        return self.inside(sys.executable, SCRIPT, folder, *receiver)

    def instances(self) -> dict[str, bytes]:
        """The files that Orthanc holds, by SOP Instance UID."""
        files = [self.get(f"/instances/{name}/file") for name in json.loads(self.get("/instances"))]
        return {dcmread(io.BytesIO(file)).SOPInstanceUID: file for file in files}


@pytest.fixture(scope="module")
def orthanc(installed, tmp_path_factory):
    program, unshare = installed("Orthanc", "orthanc"), installed("unshare", "util-linux")
    installed("ip", "iproute2")
    if subprocess.run([unshare, "--map-root-user", "--net", "true"]).returncode:
        pytest.skip("users of this machine cannot create a network namespace")
    server = Orthanc(program, unshare, tmp_path_factory.mktemp("orthanc"))
    deadline = time.monotonic() + 30
    # The two ports open one after the other.
    while any(server.inside(*c).returncode for c in ((*GET, f"{REST}/system"), CONNECT)):
        assert server.process.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    yield server
    server.process.terminate()
    server.process.wait()


def _same(folder: Path, stored: dict[str, bytes]) -> None:
    for path in folder.glob("*.dcm"):
        sent = dcmread(path)
        received = dcmread(io.BytesIO(stored[sent.SOPInstanceUID]))
        assert received == sent  # all elements, including the pixels
        assert received.file_meta.TransferSyntaxUID == sent.file_meta.TransferSyntaxUID


def test_identified_images_are_stored_unchanged(orthanc, synthetic, tmp_path):
    export([synthetic.folder], tmp_path / "out", bits=16, per_class=2)
    refused = orthanc.send(tmp_path / "out", title="ANOTHER")
    assert refused.returncode == 2 and b"refused the connection" in refused.stderr
    assert orthanc.send(tmp_path / "out").stdout == b"4 files sent, 0 were there before\n"
    assert orthanc.send(tmp_path / "out").stdout == b"0 files sent, 4 were there before\n"
    _same(tmp_path / "out", orthanc.instances())


def test_blinded_images_sent_by_storescu_are_stored_unchanged(
    orthanc, synthetic, real, installed, tmp_path
):
    folders, options = [synthetic.folder, real.folder], {"blinded": True, "allow_real": True}
    export(folders, tmp_path / "out", per_class=1, **options)
    files = sorted((tmp_path / "out").iterdir())
    storescu = [installed("storescu", "dcmtk"), "-aec", "ORTHANC", "127.0.0.1", "4242"]
    for _ in range(2):  # the second time Orthanc knows the files by their UIDs
        orthanc.inside(*storescu, *files).check_returncode()
    stored = orthanc.instances()
    _same(tmp_path / "out", stored)
    studies = json.loads(orthanc.get("/studies?expand"))
    cases = [s for s in studies if s["PatientMainDicomTags"]["PatientName"].startswith("STUDY")]
    assert len(cases) == 4  # each case is a separate patient and study
