"""Training on a real SLURM of two nodes, through everything that happens on a cluster."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from femur_jax.training.monitor import read_scalars

ROOT = Path(__file__).parents[2]
STEPS, CHECKPOINT_EVERY = 100, 10
PATIENCE = 240.0  # seconds; on a busy machine a process needs a minute to start

pytestmark = pytest.mark.cluster


class Cluster:
    """SLURM's commands, for the cluster of this test run."""

    def __init__(self, folder, dataset):
        self.dataset = dataset
        self.environment = os.environ | {
            "SLURM_CONF": str(folder / "slurm.conf"),
            "PYTHONPATH": str(ROOT),
            "FEMUR_PYTHON": f"{sys.executable} {Path(__file__).with_name('slowly.py')}",
            "XLA_FLAGS": "--xla_backend_optimization_level=0",
        }

    def run(self, *command):
        return subprocess.run(
            [str(word) for word in command],
            cwd=ROOT,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )

    def arguments(self, **changes):
        fields = {
            "dataset": self.dataset,
            "data.shapes": "((32,32),)",
            "model.stage_sizes": "(1,1)",
            "model.width": 8,
            "train.batch_size": 8,
            "train.steps": STEPS,
            "train.checkpoint_every": CHECKPOINT_EVERY,
            "train.log_every": 5,
            "train.warmup_steps": 5,
            "train.learning_rate": 3e-4,  # higher ones amplify the rounding of sums
            **changes,
        }
        return [
            "--config=configs/classifier.py:tiny",
            *(f"--config.{name}={value}" for name, value in fields.items()),
        ]

    def submit(self, workdir, *options):
        """Submits the batch script as a user does, and returns the job's number."""
        result = self.run(
            *("launch/submit", "cpu", f"--output={workdir}.log", *options, "launch/train.sbatch"),
            *(workdir, *self.arguments()),
        )
        assert result.returncode == 0, result.stderr
        return result.stdout.strip()

    def state(self, job):
        shown = self.run("scontrol", "show", "job", job).stdout
        return re.search(r"JobState=(\w+)", shown)[1]

    def processes(self, job):
        """The training processes of a job by their rank."""
        ranks = {}
        for process in psutil.process_iter():
            try:
                environment = process.environ()
                if environment.get("SLURM_JOB_ID") == job and "slowly.py" in process.cmdline()[1]:
                    ranks[int(environment["SLURM_PROCID"])] = process
            except (psutil.Error, IndexError):
                continue
        return ranks


def wait_until(condition, what):
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, f"{what} did not happen"
        time.sleep(0.2)


def losses(workdir):
    """Rows of step and loss; validations have lines of their own."""
    lines = read_scalars(workdir)
    return np.array([(line["step"], line["loss"]) for line in lines if "loss" in line])


def newest(workdir):
    """The step of the newest checkpoint."""
    steps = [int(p.name) for p in (workdir / "checkpoints").glob("*") if p.name.isdecimal()]
    return max(steps, default=0)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory, dataset):
    if not shutil.which("sbatch") or not shutil.which("munged", path="/usr/sbin:/usr/bin"):
        pytest.skip("SLURM is not installed (apt-get install slurm-wlm munge)")
    folder = tmp_path_factory.mktemp("slurm") / "cluster"
    up = subprocess.run(["launch/local_cluster", "up", str(folder)], cwd=ROOT, stderr=-1, text=True)
    assert up.returncode == 0, up.stderr
    cluster = Cluster(folder, dataset.folder)
    yield cluster
    cluster.run("scancel", "--user=root", "--signal=KILL")
    subprocess.run(["launch/local_cluster", "down", str(folder)], cwd=ROOT, check=True)


@pytest.fixture(scope="module")
def undisturbed(cluster, tmp_path_factory):
    """The run directory of a run on two nodes that nothing interrupted."""
    workdir = tmp_path_factory.mktemp("runs") / "undisturbed"
    job = cluster.submit(workdir)
    wait_until(lambda: cluster.state(job) in ("COMPLETED", "FAILED", "PENDING"), "the end")
    wait_until(lambda: cluster.state(job) in ("COMPLETED", "FAILED"), "the end")
    assert cluster.state(job) == "COMPLETED", Path(f"{workdir}.log").read_text()
    return workdir


def test_two_nodes_equal_one_process(cluster, undisturbed, tmp_path):
    alone = cluster.run(
        *("srun", "--nodes=1", "--ntasks=1", sys.executable, "-m", "femur_jax.main"),
        *(f"--workdir={tmp_path / 'alone'}", *cluster.arguments()),
    )
    assert alone.returncode == 0, alone.stderr
    expected, actual = losses(tmp_path / "alone"), losses(undisturbed)
    assert len(actual) == STEPS // 5
    np.testing.assert_allclose(actual, expected, rtol=1e-4)  # two nodes add in another order
    assert not list((undisturbed / "logs").iterdir())


def test_nothing_that_happens_changes_the_result(cluster, undisturbed, tmp_path):
    """A job that is killed, requeued and preempted ends as an undisturbed one does."""
    workdir, log = tmp_path / "run", tmp_path / "run.log"
    job = cluster.submit(workdir)

    # kill -9 of the second process: the first one ends too, and the job is requeued.
    wait_until(lambda: newest(workdir) >= 20, "the checkpoint of step 20")
    cluster.processes(job)[1].send_signal(signal.SIGKILL)
    wait_until(lambda: "a process died with code" in log.read_text(), "the message")
    assert newest(workdir) >= 20

    # scontrol requeue in the middle.
    wait_until(lambda: newest(workdir) >= 40, "the checkpoint of step 40")
    assert cluster.run("scontrol", "requeue", job).returncode == 0
    kept = newest(workdir)
    wait_until(lambda: cluster.state(job) == "PENDING", "the queue")

    # Preemption: SIGTERM, and the job waits for its nodes. No step is lost.
    wait_until(lambda: newest(workdir) >= kept + 10, "a checkpoint after the requeue")
    urgent = cluster.run(
        *("sbatch", "--parsable", "--partition=urgent", "--nodes=2", "--exclusive"),
        *("--output=/dev/null", "--wrap=sleep 1"),
    ).stdout.strip()
    wait_until(lambda: cluster.state(urgent) == "COMPLETED", "the urgent job")
    assert "has saved its last step" in log.read_text()
    stopped = newest(workdir)
    assert read_scalars(workdir)[-1]["step"] == stopped - stopped % 5

    wait_until(lambda: cluster.state(job) == "COMPLETED", "the end")
    assert read_scalars(workdir) == read_scalars(undisturbed)
    assert "\r" not in log.read_text()  # no progress bar in a log


def test_a_run_resumes_on_another_number_of_nodes(cluster, undisturbed, tmp_path):
    workdir = tmp_path / "run"
    job = cluster.submit(workdir)
    wait_until(lambda: newest(workdir) >= 10, "a checkpoint")
    cluster.run("scancel", "--signal=TERM", job)
    wait_until(lambda: "has saved its last step" in Path(f"{workdir}.log").read_text(), "the end")
    cluster.run("scancel", job)
    job = cluster.submit(workdir, "--nodes=1")
    wait_until(lambda: cluster.state(job) == "COMPLETED", "the end")
    expected, actual = losses(undisturbed), losses(workdir)
    np.testing.assert_allclose(actual, expected, rtol=2e-3)  # rows of step and loss


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"mesh.data": 3}, "data 3 x fsdp 1 x model 1 does not fit 2 devices"),
        ({"train.batch_size": 7}, "batch of 7 cannot be divided over 2 devices"),
        ({"dataset": "/no/where"}, "/no/where"),
        ({"workdir": "/proc/run"}, "/proc/run"),
    ],
)
def test_a_mistake_costs_one_sentence_and_ends_all(cluster, tmp_path, changes, words):
    workdir = changes.pop("workdir", tmp_path / "run")
    result = cluster.run(
        *("srun", "--nodes=2", "--ntasks=2", sys.executable, "-m", "femur_jax.main"),
        *(f"--workdir={workdir}", *cluster.arguments(**changes)),
    )
    [line] = [li for li in result.stderr.splitlines() if li.startswith("femur_jax: ")]
    assert words in line
    assert "Traceback" not in result.stderr
    assert result.returncode == 2
    assert re.findall(r"task (\d): Exited with exit code 2", result.stderr)


@pytest.mark.parametrize("profile", [p.name for p in (ROOT / "launch" / "profiles").iterdir()])
def test_slurm_takes_the_script_with_every_profile(cluster, monkeypatch, profile):
    monkeypatch.setitem(cluster.environment, "FEMUR_TEST_ONLY", "1")
    result = cluster.run("launch/submit", profile, "launch/train.sbatch", "runs/x", "sample")
    assert result.returncode == 0, result.stderr
    assert "to start at" in result.stderr


def test_a_study_becomes_jobs_that_wait_for_what_they_need(cluster, monkeypatch, tmp_path):
    """SLURM takes the whole plan and reports its dependencies; nothing is trained."""
    monkeypatch.setitem(cluster.environment, "SBATCH_OUTPUT", str(tmp_path / "%j.log"))
    result = cluster.run(
        *("launch/study", "cpu", tmp_path / "run", "--config=configs/study.py:smoke"),
        "--config.grid=('gan-letterbox-per_class',)",
        "--config.classifier_seeds=(0,)",
        f"--config.labels={tmp_path}/labels.csv",
    )
    assert result.returncode == 0, result.stderr
    jobs = {name: job for job, name in (li.split(" ", 1) for li in result.stdout.splitlines())}
    shown = {name: cluster.run("scontrol", "show", "job", job).stdout for name, job in jobs.items()}
    cluster.run("scancel", *jobs.values())

    assert len(jobs) == 12 and list(jobs)[-1] == "report"
    assert "--config" not in "".join(shown.values())
    cell = "gan-letterbox-per_class-0"
    for name, needs in {
        "ingest": ["phantoms"],
        f"sample {cell}-AFF": [f"train {cell}-AFF"],
        f"measure {cell}": ["classifier real-0", f"sample {cell}-AFF", f"sample {cell}-NFF"],
    }.items():
        [dependency] = re.findall(r"Dependency=(\S+)", shown[name])
        waits = re.findall(r"afterok:(\d+)", dependency)
        assert sorted(waits) == sorted(jobs[need] for need in needs)
        assert f"JobName={name}" in shown[name]
    assert "NumNodes=2" in shown[f"train {cell}-AFF"]
    assert "NumNodes=1" in shown[f"sample {cell}-AFF"]
