"""Metrics between two sets of features against torch-fidelity and prdc, and neighbour search."""

import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks.machine import ROOT, cpu
from benchmarks.peer import PeerProcess
from benchmarks.records import Goal, Result, measurement, ratio_of_rounds
from femur_jax.evaluation.distances import frechet_distance, manifold
from femur_jax.evaluation.kernels import kernel_distance
from femur_jax.evaluation.neighbours import k_nearest

_SAMPLES, _DIM = 10_000, 2048
_ROUNDS = 3
_PEERS = {"torch-fidelity": "0.4.0", "prdc": "0.2"}

Metrics = dict[str, float]


@measurement("x", Goal(">=", 1.0))
def metrics_over_torch_fidelity() -> Result:
    """Speed of FID, KID, precision and recall on features, over torch-fidelity's at equal results.

    Two sets of 10,000 x 2048 simulated features resemble Inception's. Both sides compute what they
    publish as usual: KID from 10 disjoint subsets of 1000 here, from 100 random ones there, so its
    values agree within standard errors; that of one given subset, FID, precision and recall agree
    to rounding. The value is the ratio of the median times of rounds that take turns.
    """

    def metrics(real: np.ndarray, synthetic: np.ndarray) -> Metrics:
        kid = kernel_distance(real, synthetic, permutations=0)
        first = kernel_distance(real[:1000], synthetic[:1000], permutations=0)
        overlap = manifold(real, synthetic, k=3)
        return {
            "fid": frechet_distance(real, synthetic),
            "kid": kid.value,
            "kid error": kid.standard_error,
            "first thousand": first.value,
            "precision": overlap.precision,
            "recall": overlap.recall,
        }

    def differences(ours: Metrics, peer: Metrics) -> Metrics:
        return {
            "fid, relative": abs(ours["fid"] / peer["frechet_inception_distance"] - 1) / 1e-5,
            "kid of one subset, relative": abs(ours["first thousand"] / peer["first thousand"] - 1)
            / 1e-3,
            "kid, in standard errors": abs(ours["kid"] - peer["kernel_inception_distance_mean"])
            / (4 * ours["kid error"]),
            "precision": abs(ours["precision"] - peer["precision"]) / 1e-3,
            "recall": abs(ours["recall"] - peer["recall"]) / 1e-3,
        }

    return _over_peer(("fid", "kid", "prc"), metrics, differences)


@measurement("x", Goal(">=", 1.0))
def prdc_over_prdc() -> Result:
    """Speed of precision, recall, density and coverage, over the package prdc's at equal results.

    The features are those of metrics_over_torch_fidelity, with 5 neighbours.
    """

    def metrics(real: np.ndarray, synthetic: np.ndarray) -> Metrics:
        return vars(manifold(real, synthetic, k=5)).copy()

    def differences(ours: Metrics, peer: Metrics) -> Metrics:
        return {name: abs(value - peer[name]) / 1e-3 for name, value in ours.items()}

    return _over_peer(("prdc",), metrics, differences)


@measurement("GiB", Goal("<=", 2.0))
def neighbour_search_gib() -> Result:
    """Peak memory of a search for 50 nearest neighbours among 100,000 patches of 32 x 32 pixels.

    The whole process is counted, with the patches in float32 (0.38 GiB) and the libraries.
    """
    script = "from benchmarks.evaluation import search_patches; search_patches()"
    process = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, check=True, capture_output=True, text=True
    )
    numbers = json.loads(process.stdout)
    return Result(value=numbers.pop("GiB"), device=cpu(), details=numbers)


def search_patches() -> None:
    """Searches for neighbours, then prints the process's peak memory and the speed as JSON."""
    rng = np.random.default_rng(0)
    patches = rng.standard_normal((100_000, 1024), np.float32)
    queries = patches[:2000] + np.float32(0.1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start_time = time.perf_counter()
    neighbours = k_nearest(queries, patches, 50)
    seconds = time.perf_counter() - start_time
    if not np.array_equal(neighbours.index[:, 0], np.arange(2000)):
        raise RuntimeError("the search does not find the nearest patches")
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


def _over_peer(
    questions: tuple[str, ...],
    metrics: Callable[[np.ndarray, np.ndarray], Metrics],
    differences: Callable[[Metrics, Metrics], Metrics],
) -> Result:
    """Speed of metrics over the peer's, in rounds that take turns.

    Args:
        questions: The metrics' names in benchmarks/peers/metrics.py.
        metrics: The same metrics in femur_jax.
        differences: A function that divides differences by the tolerated ones.

    Raises:
        RuntimeError: A difference is not tolerated.
    """
    with tempfile.TemporaryDirectory() as name:
        real, synthetic = _features(Path(name))
        rounds = []
        with PeerProcess("metrics.py", name) as peer:
            for _ in range(_ROUNDS):
                start_time = time.perf_counter()
                ours = metrics(real, synthetic)
                our_seconds = time.perf_counter() - start_time
                answers = [peer.ask(question) for question in questions]
                rounds.append((our_seconds, sum(answer["seconds"] for answer in answers)))
    peer_values = {key: value for answer in answers for key, value in answer.items()}
    if max(differences(ours, peer_values).values()) > 1:
        raise RuntimeError(f"the values differ: {ours} against {peer_values}")
    our_seconds, peer_seconds = zip(*rounds, strict=True)
    ratio, spread = ratio_of_rounds(peer_seconds, our_seconds)
    return Result(
        value=ratio,
        spread=spread,
        device=cpu(),
        versions={"torch": peer.about["torch"], **_PEERS},
        details={
            "features": f"{_SAMPLES} x {_DIM}, twice",
            "seconds": median(our_seconds),
            "seconds of the peer": median(peer_seconds),
            "rounds": _ROUNDS,
            "values": ours,
            "PyTorch's threads": peer.about["threads"],
        },
    )


def _features(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Features like Inception's: never negative, with few strong directions and many weak ones."""
    rng = np.random.default_rng(0)
    mix = rng.standard_normal((64, _DIM)) * np.geomspace(1, 0.05, 64)[:, None] / 8
    sets = []
    for name, shift in (("real", 0.0), ("synthetic", 0.03)):
        strong = rng.standard_normal((_SAMPLES, 64)) @ mix
        weak = 0.05 * rng.standard_normal((_SAMPLES, _DIM))
        sets.append(np.maximum(0.4 + shift + strong + weak, 0).astype(np.float32))
        np.save(folder / f"{name}.npy", sets[-1])
    return sets[0], sets[1]
