"""How fast a core simulates the radiographs of the full cohort."""

import cProfile
import multiprocessing
import os
import pstats
import resource
import tempfile
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from statistics import median
from unittest import mock

from pydicom import dcmread

from benchmarks.machine import cpu
from benchmarks.records import Goal, Result, measurement
from femur_jax.phantom import processing
from femur_jax.phantom.cohort import ONE_THREAD
from femur_jax.phantom.hospital import long_sides
from femur_jax.phantom.patient import write_patient
from femur_jax.phantom.plan import Patient, plan_cohort

_PATIENTS = 24
_WARM_UP = 3
_STAGES = {
    "search for bodies": "_find",
    "rays": "expose",
    "detector": "detect",
    "processing": "present",
    "stored values and encoding": "write_radiograph",
}
"""Functions of the stages; `expose` does not include the search."""


@measurement("MP/s", Goal(">=", 8.0))
def phantom_mp_per_s() -> Result:
    """Megapixels of simulated radiographs that one core writes in a second.

    24 patients of the full cohort (1 to 15 megapixels, hospitals with all encodings), after 3
    that do not count, from the body to the DICOM file, in one process with one thread. Seconds
    are the process's CPU time, so other work does not count; the range is that of patients.
    Stages are timed in a second run under a profiler.
    """
    with (
        mock.patch.dict(os.environ, ONE_THREAD),
        ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool,
    ):
        speeds, details = pool.submit(_measure).result()
    return Result(
        value=details["megapixels"] / details["CPU seconds"],
        spread=(min(speeds), max(speeds)),
        device=cpu(),
        details={"median of patients, MP/s": median(speeds), **details},
    )


def _measure() -> tuple[list[float], dict]:
    plan = plan_cohort(
        0,
        patients=1200,
        images=4300,
        hospitals=72,
        aff_fraction=0.2,
        long_side=long_sides((1.0, 15.0)),
        faults=0.0,
    )
    # The plan's order does not depend on the hospitals: consecutive patients are a fair sample.
    warm_up, measured = plan[:_WARM_UP], plan[_WARM_UP : _WARM_UP + _PATIENTS]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for patient in warm_up:
            write_patient(folder, 0, patient)
        speeds, megapixels, seconds, syntaxes = [], 0.0, 0.0, Counter()
        for patient in measured:
            used, area = _write(folder, patient, syntaxes)
            speeds.append(area / used)
            megapixels, seconds = megapixels + area, seconds + used
        stages, traced = _profile(folder, measured)
    return speeds, {
        "megapixels": megapixels,
        "CPU seconds": seconds,
        "images": sum(syntaxes.values()),
        "images by encoding": dict(syntaxes.most_common()),
        **{f"ns a pixel, {stage}": 1000 * used / megapixels for stage, used in stages.items()},
        "rays traced per pixel": traced / (1e6 * megapixels),
        "peak memory, GiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }


def _write(folder: Path, patient: Patient, syntaxes: Counter) -> tuple[float, float]:
    """CPU seconds and megapixels of a patient, whose files are deleted afterwards."""
    start_time = time.process_time()
    records = write_patient(folder, 0, patient)
    used = time.process_time() - start_time
    for record in records:
        path = folder / record["path"]
        syntaxes[dcmread(path, stop_before_pixels=True).file_meta.TransferSyntaxUID.name] += 1
        path.unlink()
    return used, sum(record["height"] * record["width"] for record in records) / 1e6


def _profile(folder: Path, patients: list[Patient]) -> tuple[dict[str, float], int]:
    """CPU seconds of each stage in a second run, and the number of traced rays."""
    traced = 0

    def counted(*arguments, **options):
        nonlocal traced
        exposure = expose(*arguments, **options)
        traced += exposure.image.sampled
        return exposure

    expose = processing.expose
    profile = cProfile.Profile(time.process_time)
    with mock.patch.object(processing, "expose", counted):
        for patient in patients:
            profile.runcall(write_patient, folder, 0, patient)
    functions = pstats.Stats(profile).get_stats_profile().func_profiles
    return {stage: functions[name].cumtime for stage, name in _STAGES.items()}, traced
