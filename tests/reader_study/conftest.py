"""Datasets of small radiographs, a study built from them, and its server."""

import http.client
import shutil
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from femur_jax.data.radiograph import LABELS, Radiograph
from femur_jax.data.records import encode
from femur_jax.data.shards import DatasetWriter, RadiographDataset
from femur_jax.reader_study.answers import AnswerStore
from femur_jax.reader_study.build import build
from femur_jax.reader_study.design import Design
from femur_jax.reader_study.study import open_study

ROOT = Path(__file__).parents[2]


def write_dataset(folder, kind, *, per_label, split="train", seed=0, sides=(90, 220), low=0):
    """Writes a dataset of fractured shafts; `low` is the darkest grey value."""
    rng = np.random.default_rng(seed)
    with DatasetWriter(folder, patch=64, provenance={"kind": kind, "model": folder.name}) as writer:
        for n in range(2 * per_label):
            height, width = (int(side) for side in rng.integers(*sides, 2))
            pixels = rng.integers(low, 30000, (height, width))
            pixels[:, width // 3 : width // 2] += 20000
            pixels[height // 2 :][: 1 + n % 3] //= 2
            radiograph = Radiograph(
                pixels=pixels.astype(np.uint16),
                name=f"{folder.name}-{n}",
                label=LABELS[n % 2],
                patient=f"{folder.name}-patient-{n}",
                hospital="hospital",
            )
            writer.add(encode(radiograph, 64), split)
    return RadiographDataset(folder)


@pytest.fixture(scope="session")
def sources(tmp_path_factory):
    """A dataset of real patients, and datasets of two generators."""
    folder = tmp_path_factory.mktemp("sources")
    return SimpleNamespace(
        real=write_dataset(folder / "femur", "real", per_label=16, split="test", seed=1),
        synthetic={
            "diffusion": [
                write_dataset(folder / "diffusion", "synthetic", per_label=8, seed=2, low=9000)
            ],
            "gan": [write_dataset(folder / "gan", "synthetic", per_label=8, seed=3)],
        },
    )


DESIGN = Design(seed=3, single=24, repeats=0.25, pairs=4, practice=4, margin=0.1)


@pytest.fixture(scope="session")
def built(sources, tmp_path_factory):
    """A study that tests must not change."""
    folder = tmp_path_factory.mktemp("built") / "study"
    build(folder, DESIGN, sources.real, sources.synthetic, splits=["test"])
    return open_study(folder)


@pytest.fixture
def study(built, tmp_path):
    """A copy of the study for one test."""
    return open_study(shutil.copytree(built.folder, tmp_path / "study"))


class Server:
    """A process that runs `femur readers serve`.

    Attributes:
        port: Port of the server.
        links: Links of the readers, by reader.
    """

    def __init__(self, folder, *invited, port=0):
        command = [
            sys.executable,
            "-m",
            "femur_jax.main",
            "readers",
            "serve",
            str(folder),
            "--port",
            str(port),
        ]
        if invited:
            command += ["--invite", *invited]
        self._errors = Path(folder).with_name("errors")
        with self._errors.open("w") as errors:
            self.process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=errors, text=True, cwd=ROOT
            )
        self.links = {}
        for line in self.process.stdout:
            if line.startswith("Ctrl-C"):
                break
            self.links[line.split()[0]] = line.split()[-1]
        self.port = int(next(iter(self.links.values())).split(":")[2].split("/")[0])

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.kill()

    def kill(self):
        """Kills the server at once, as a power cut would."""
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()

    def printed_errors(self):
        return self._errors.read_text()

    def ask(self, path, *, token="", method="GET", body=None, host=None):
        """Sends a request with the exact path; returns status, body and headers."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.putrequest(method, path, skip_host=host is not None)
            if host is not None:
                connection.putheader("Host", host)
            if token:
                connection.putheader("Authorization", f"Bearer {token}")
            if body is not None:
                connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body)
            response = connection.getresponse()
            return response.status, response.read(), dict(response.getheaders())
        finally:
            connection.close()

    def token(self, reader):
        return self.links[reader].split("#")[1]


@pytest.fixture
def served(study):
    """A study and its server, with the readers anna and bo."""
    with Server(study.folder, "anna", "bo") as server:
        yield study, server


@pytest.fixture(scope="session")
def server(built, tmp_path_factory):
    """A server for tests that change nothing."""
    folder = shutil.copytree(built.folder, tmp_path_factory.mktemp("served") / "study")
    with Server(folder, "anna") as server:
        yield server


def items_of(study, reader):
    """Reads a reader's session while the server runs."""
    with closing(AnswerStore(study)) as store:
        return store.items(reader)
