"""A cohort of simulated patients as DICOM files with a table of labels."""

import csv
import tempfile
from pathlib import Path

import numpy as np
from jaxtyping import Bool
from tqdm import tqdm

from femur_jax.errors import UserError
from femur_jax.phantom.anatomy import Femur, axis_at, draw_femur
from femur_jax.phantom.dicom_writer import draw_identity, write_radiograph
from femur_jax.phantom.fracture import Fracture, draw_fracture
from femur_jax.phantom.hospital import Hospital, draw_hospitals
from femur_jax.phantom.processing import radiograph
from femur_jax.phantom.xray import Camera, aim

COLUMNS = ("path", "patient_id", "hospital", "label", "view", "laterality")

COARSEST_MM = 2.5
"""Largest pixel in mm at the bone; small images show less of the leg rather than coarser pixels."""


def write_cohort(
    folder: Path,
    *,
    patients: int,
    hospitals: int,
    aff_fraction: float,
    long_side: tuple[int, int],
    views_per_patient: tuple[int, int],
    coarsest_mm: float = COARSEST_MM,
    seed: int,
    progress: bool = True,
) -> Path:
    """Writes DICOM files and labels.csv.

    Exactly round(patients * aff_fraction) patients have an atypical fracture, dealt out evenly
    over the hospitals. A patient's body, fracture and images depend on the seed, the patient's
    number, label and hospital only. The folder appears when all files are written.

    Args:
        folder: Must not exist or be empty.
        patients: How many.
        hospitals: How many, at most as many as patients.
        aff_fraction: Share of patients with an atypical fracture, 0 to 1.
        long_side: Least and greatest length of an image's longer side in pixels. With a factor 2
            between them and at least 4 hospitals, areas of images differ by more than 4.
        views_per_patient: Least and greatest number of radiographs of a patient.
        coarsest_mm: Most that a pixel may cover of the bone: small images show less of it.
        seed: Equal seeds give equal pixels and headers.
        progress: Shows a bar with the time left on stderr.

    Returns:
        The path of labels.csv.

    Raises:
        UserError: The folder is not empty, or a number is out of range.
    """
    _check(folder, patients, hospitals, aff_fraction, long_side, views_per_patient)
    labels, homes = _assign(patients, hospitals, aff_fraction, seed)
    habits = draw_hospitals(seed, hospitals, long_side)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as scratch:
        unfinished = Path(scratch) / folder.name
        unfinished.mkdir()
        rows = []
        for number in tqdm(range(patients), "patients", unit="patient", disable=not progress):
            label = "AFF" if labels[number] else "NFF"
            hospital = habits[homes[number]]
            rows += write_patient(
                unfinished, seed, number, label, hospital, views_per_patient, coarsest_mm
            )
        with (unfinished / "labels.csv").open("w", newline="") as file:
            csv.writer(file).writerows([COLUMNS, *rows])
        unfinished.replace(folder)
    return folder / "labels.csv"


def _check(
    folder: Path,
    patients: int,
    hospitals: int,
    aff_fraction: float,
    long_side: tuple[int, int],
    views_per_patient: tuple[int, int],
) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} exists and is not an empty folder: name a new one.")
    if not 1 <= hospitals <= patients:
        raise UserError(
            f"{hospitals} hospitals do not suit {patients} patients: "
            "choose at least 1 hospital and at least one patient for each."
        )
    if not 0.0 <= aff_fraction <= 1.0:
        raise UserError(f"The share of AFF, {aff_fraction}, must lie between 0 and 1.")
    if not 32 <= long_side[0] <= long_side[1]:
        raise UserError(
            f"The image sides {long_side[0]} to {long_side[1]} pixels must be in rising order "
            "and at least 32."
        )
    if not 1 <= views_per_patient[0] <= views_per_patient[1]:
        raise UserError(
            f"The views per patient {views_per_patient[0]} to {views_per_patient[1]} must be in "
            "rising order and at least 1."
        )


def _assign(
    patients: int, hospitals: int, aff_fraction: float, seed: int
) -> tuple[Bool[np.ndarray, "patients"], np.ndarray]:
    """Label and hospital of every patient; each class goes round the hospitals in turn.

    The classes start from opposite ends, so every hospital gets a patient, and in an order of
    hospitals that depends on the seed.
    """
    rng = np.random.default_rng([seed, 1])
    atypical = rng.permutation(patients) < round(patients * aff_fraction)
    order = rng.permutation(hospitals)
    homes = np.empty(patients, int)
    homes[atypical] = order[np.arange(atypical.sum()) % hospitals]
    homes[~atypical] = order[::-1][np.arange((~atypical).sum()) % hospitals]
    return atypical, homes


def write_patient(
    folder: Path,
    seed: int,
    number: int,
    label: str,
    hospital: Hospital,
    views_per_patient: tuple[int, int],
    coarsest_mm: float = COARSEST_MM,
) -> list[tuple[str, ...]]:
    """Writes a patient's radiographs, AP and lateral in turn.

    Returns:
        Their rows of labels.csv.
    """
    rng = np.random.default_rng([seed, 2, number])
    femur = draw_femur(rng, label)
    fracture = draw_fracture(rng, femur, label)
    laterality = str(rng.choice(["L", "R"]))
    identity = draw_identity(rng, f"{seed} {number}")
    patient = f"P{number + 1:05d}"
    (folder / hospital.name).mkdir(exist_ok=True)
    rows = []
    for view_number in range(int(rng.integers(views_per_patient[0], views_per_patient[1] + 1))):
        view = ("AP", "lateral")[view_number % 2]
        camera, shape, spacing = frame(
            rng, femur, fracture, hospital, view, laterality, coarsest_mm
        )
        image = radiograph(rng, femur, fracture, hospital, camera, shape, spacing, laterality)
        name = f"{hospital.name}/{patient}_{view_number + 1}.dcm"
        write_radiograph(
            folder / name,
            image,
            hospital,
            identity,
            instance=view_number + 1,
            view=view,
            laterality=laterality,
            spacing=spacing,
            magnification=camera.magnification,
        )
        rows.append((name, patient, hospital.name, label, view, laterality))
    return rows


def frame(
    rng: np.random.Generator,
    femur: Femur,
    fracture: Fracture,
    hospital: Hospital,
    view: str,
    laterality: str,
    coarsest_mm: float = COARSEST_MM,
) -> tuple[Camera, tuple[int, int], float]:
    """Chooses what an image shows: the whole femur, half of it, or the fracture's surroundings.

    The fracture lies within the middle 70% of the height.

    Returns:
        The camera, height and width in pixels, and the side of a detector pixel in mm.
    """
    aspect = rng.uniform(*hospital.aspect)
    shape = (hospital.long_side, round(hospital.long_side * aspect))
    covered = rng.choice(
        [femur.length + 60.0, rng.uniform(250, 330), rng.uniform(170, 250)], p=[0.2, 0.35, 0.45]
    )
    covered = min(covered, coarsest_mm * hospital.long_side)
    offset = rng.uniform(-0.35, 0.35) * covered
    middle = 0.5 * femur.length
    # The whole femur is centred as far as the fracture's place allows.
    reach = 0.35 * covered
    z = fracture.height + (
        np.clip(middle - fracture.height, -reach, reach) if covered > 340 else offset
    )
    x, y = (float(v) for v in axis_at(femur, float(z)))
    target = np.array([x, y, z]) + np.array([*rng.normal(0, 0.03, 2), 0.0]) * covered * aspect
    camera = aim(
        target,
        view=view,
        laterality=laterality,
        turn=rng.normal(0, np.deg2rad(8)),
        tilt=rng.normal(0, np.deg2rad(4)),
        detector_distance=rng.uniform(90, 160),
    )
    return camera, shape, covered * camera.magnification / shape[0]
