"""Metrics between two sets of features against torch-fidelity and prdc."""

import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.environment import peer_python
from benchmarks.machine import cpu
from benchmarks.measurements import Found
from benchmarks.records import ratio_of_rounds
from femur_jax.evaluation.distances import frechet_distance, kernel_distance, unbiased_mmd2
from femur_jax.evaluation.manifold import manifold
from femur_jax.evaluation.neighbours import k_nearest

_SAMPLES, _DIM = 10_000, 2048
_ROUNDS = 3
_PEERS = {"torch-fidelity": "0.4.0", "prdc": "0.2"}


def metrics_over_torch_fidelity() -> Found:
    """Speed of FID, KID and precision with recall together, over torch-fidelity's.

    Raises:
        RuntimeError: The values differ.
    """

    def own(real: np.ndarray, synthetic: np.ndarray) -> dict[str, float]:
        kid = kernel_distance(real, synthetic)
        found = manifold(real, synthetic, k=3)
        return {
            "fid": frechet_distance(real, synthetic),
            "kid": kid.value,
            "kid error": kid.standard_error,
            "first thousand": unbiased_mmd2(real[:1000], synthetic[:1000]),
            "precision": found.precision,
            "recall": found.recall,
        }

    def check(mine: dict[str, float], peer: dict[str, float]) -> dict[str, float]:
        return {
            "fid, relative": abs(mine["fid"] / peer["frechet_inception_distance"] - 1) / 1e-5,
            "kid of one subset, relative": abs(mine["first thousand"] / peer["first thousand"] - 1)
            / 1e-3,
            "kid, in standard errors": abs(mine["kid"] - peer["kernel_inception_distance_mean"])
            / (4 * mine["kid error"]),
            "precision": abs(mine["precision"] - peer["precision"]) / 1e-3,
            "recall": abs(mine["recall"] - peer["recall"]) / 1e-3,
        }

    return _over(("fid", "kid", "prc"), own, check)


def prdc_over_prdc() -> Found:
    """Speed of precision, recall, density and coverage, over prdc's.

    Raises:
        RuntimeError: The values differ.
    """

    def own(real: np.ndarray, synthetic: np.ndarray) -> dict[str, float]:
        return vars(manifold(real, synthetic, k=5)).copy()

    def check(mine: dict[str, float], peer: dict[str, float]) -> dict[str, float]:
        return {name: abs(value - peer[name]) / 1e-3 for name, value in mine.items()}

    return _over(("prdc",), own, check)


def neighbour_search_gib() -> Found:
    """Peak memory of a process that searches among 100,000 patches of 32 x 32 pixels."""
    script = "from benchmarks.evaluation import search_patches; search_patches()"
    answer = subprocess.run(
        [sys.executable, "-c", script],
        cwd=Path(__file__).parents[1],
        check=True,
        capture_output=True,
        text=True,
    )
    found = json.loads(answer.stdout)
    return Found(value=found.pop("GiB"), device=cpu(), details=found)


def search_patches() -> None:
    """What the process does; prints its memory and time as JSON."""
    rng = np.random.default_rng(0)
    patches = rng.standard_normal((100_000, 1024), np.float32)
    queries = patches[:2000] + np.float32(0.1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begin = time.perf_counter()
    found = k_nearest(queries, patches, 50)
    seconds = time.perf_counter() - begin
    if not np.array_equal(found.index[:, 0], np.arange(2000)):
        raise RuntimeError("the search does not find what was planted")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(
        json.dumps(
            {
                "GiB": peak / 2**20,
                "GiB before the search": before / 2**20,
                "patches searched for": 2000,
                "searches/s": 2000 / seconds,
            }
        )
    )


def _over(
    measurements: tuple[str, ...],
    own: Callable[[np.ndarray, np.ndarray], dict[str, float]],
    check: Callable[[dict[str, float], dict[str, float]], dict[str, float]],
) -> Found:
    """Rounds in turn with the peer; `check` gives differences over what they may be."""
    with tempfile.TemporaryDirectory() as name:
        real, synthetic = _features(Path(name))
        rounds = []
        with _peer(Path(name)) as (about, ask):
            for _ in range(_ROUNDS):
                begin = time.perf_counter()
                mine = own(real, synthetic)
                own_seconds = time.perf_counter() - begin
                answers = [ask(measurement) for measurement in measurements]
                rounds.append((own_seconds, sum(answer["seconds"] for answer in answers)))
    peer = {key: value for answer in answers for key, value in answer.items()}
    differences = check(mine, peer)
    if max(differences.values()) > 1:
        raise RuntimeError(f"the values differ: {mine} against {peer}")
    own_seconds, peer_seconds = zip(*rounds, strict=True)
    ratio, spread = ratio_of_rounds(peer_seconds, own_seconds)
    return Found(
        value=ratio,
        spread=spread,
        device=cpu(),
        versions={"torch": about["torch"], **_PEERS},
        details={
            "features": f"{_SAMPLES} x {_DIM}, twice",
            "seconds": median(own_seconds),
            "seconds of the peer": median(peer_seconds),
            "rounds": _ROUNDS,
            "values": mine,
            "PyTorch's threads": about["threads"],
        },
    )


def _features(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Like Inception's: never negative, with few strong directions and many weak ones."""
    rng = np.random.default_rng(0)
    mix = rng.standard_normal((64, _DIM)) * np.geomspace(1, 0.05, 64)[:, None] / 8
    sets = []
    for name, shift in (("real", 0.0), ("synthetic", 0.03)):
        strong = rng.standard_normal((_SAMPLES, 64)) @ mix
        weak = 0.05 * rng.standard_normal((_SAMPLES, _DIM))
        sets.append(np.maximum(0.4 + shift + strong + weak, 0).astype(np.float32))
        np.save(folder / f"{name}.npy", sets[-1])
    return sets[0], sets[1]


@contextmanager
def _peer(folder: Path) -> Iterator[tuple[dict[str, Any], Callable[[str], dict[str, Any]]]]:
    """The process of benchmarks/peers/metrics.py; idle between rounds."""
    script = Path(__file__).parent / "peers" / "metrics.py"
    process = subprocess.Popen(
        [str(peer_python()), str(script), str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None and process.stdout is not None
    stdin, stdout = process.stdin, process.stdout

    def ask(measurement: str) -> dict[str, Any]:
        print(measurement, file=stdin, flush=True)
        return json.loads(stdout.readline())

    try:
        yield json.loads(stdout.readline()), ask
    finally:
        stdin.close()
        process.wait()
