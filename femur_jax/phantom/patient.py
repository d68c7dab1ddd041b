"""Simulates a patient and writes the DICOM files."""

from pathlib import Path
from typing import Any

import numpy as np

from femur_jax.phantom.anatomy import AWAY, Femur, axis_at, draw_femur
from femur_jax.phantom.camera import Camera, aim
from femur_jax.phantom.dicom_writer import Acquisition, draw_identity, write_radiograph
from femur_jax.phantom.faults import DOUBLING, annotate, spoil, write_again
from femur_jax.phantom.fracture import Fracture, draw_fracture, reduce
from femur_jax.phantom.hardware import IMPLANTS, draw_hardware, foreign_bodies
from femur_jax.phantom.hospital import Hospital
from femur_jax.phantom.outline import draw_outline
from femur_jax.phantom.plan import Patient
from femur_jax.phantom.processing import radiograph
from femur_jax.phantom.truth import describe_image, describe_patient

COARSEST_MM = 2.5
"""Largest pixel in mm at the bone. Small images show less of the leg instead of coarser pixels."""

EXPOSED = {"AFF": 0.78, "NFF": 0.10}
"""Share of patients with atypical and with ordinary fractures of the femoral shaft who took
bisphosphonates (Schilcher, Michaelsson and Aspenberg 2011, NEJM 364:1728)."""

Record = dict[str, Any]


def write_patient(
    folder: Path, seed: int, patient: Patient, coarsest_mm: float = COARSEST_MM
) -> list[Record]:
    """Writes a patient's radiographs, AP and lateral in turn.

    Args:
        folder: Folder of the cohort.
        seed: Seed of the cohort.
        patient: The patient's plan.
        coarsest_mm: Largest pixel in mm at the bone.

    Returns:
        The entries of labels.csv and of the ground truth for each file.
    """
    rng = np.random.default_rng([seed, 3, patient.number])
    femur = draw_femur(rng, patient.label)
    fracture = draw_fracture(rng, femur, patient.label)
    hardware = draw_hardware(rng, femur, fracture)
    if IMPLANTS[hardware.implant] in ("nail", "plate"):
        fracture = reduce(fracture, 0.15)
    laterality = str(rng.choice(["L", "R"]))
    identity = draw_identity(rng, f"{seed} {patient.number}")
    name = patient_id(patient.number)
    records = []
    for i, (hospital, fault) in enumerate(zip(patient.hospitals, patient.faults, strict=True)):
        rng = np.random.default_rng([seed, 4, patient.number, i])
        view = ("AP", "lateral")[i % 2]
        # In a lateral view the other leg is out of the beam.
        body = femur if view == "AP" else femur._replace(midline=AWAY)
        camera, shape, spacing = frame(rng, body, fracture, hospital, view, laterality, coarsest_mm)
        image = radiograph(
            rng,
            body,
            fracture,
            hospital,
            camera,
            shape,
            spacing,
            laterality,
            foreign_bodies(body, hardware),
        )
        acquisition = Acquisition(
            instance=i + 1,
            view=view,
            laterality=laterality,
            spacing=spacing,
            magnification=camera.magnification,
            outline=draw_outline(rng, hospital.outline, shape),
            burned_in=fault == "annotated",
            source=fault if fault == "unprocessed" else None,
        )
        if acquisition.burned_in:
            image = annotate(image, identity)
        (folder / hospital.name).mkdir(exist_ok=True)
        path = folder / hospital.name / f"{name}_{i + 1}.dcm"
        write_radiograph(path, image, hospital, identity, acquisition)
        record = {
            "path": str(path.relative_to(folder)),
            "patient_id": name,
            "hospital": hospital.name,
            "view": view,
            "laterality": laterality,
            "age": identity.age,
            "sex": identity.sex,
            "exposure": int(was_exposed(seed, patient)),
            "fault": "",
            "same_as": "",
            "height": shape[0],
            "width": shape[1],
            "spacing_mm": spacing,
            "magnification": camera.magnification,
            **describe_patient(femur, fracture, hardware, patient.label),
            **describe_image(femur, fracture, camera, view, shape, spacing),
        }
        records.append(record)
        added_files = {f"{name}_{i + 1}b": fault} if fault in DOUBLING else {}
        if i == 0 and patient.misfiled_as is not None:
            added_files[f"{patient_id(patient.misfiled_as)}_m"] = "misfiled"
        for stem, kind in added_files.items():
            second = path.with_stem(stem)
            write_again(kind, path, second, image, hospital, identity, acquisition)
            copy = {"path": str(second.relative_to(folder)), "fault": kind}
            copy |= {"patient_id": stem.split("_")[0], "same_as": record["path"]}
            if kind == "misfiled":  # the other patient's data are unknown here
                copy |= dict.fromkeys(("age", "sex", "exposure"), "")
            records.append(record | copy)
        if fault and fault not in DOUBLING:
            record["fault"] = fault
            spoil(rng, fault, path)
    return records


def was_exposed(seed: int, patient: Patient) -> bool:
    """Whether a patient took bisphosphonates; a separate generator leaves the pixels unchanged."""
    return np.random.default_rng([seed, 5, patient.number]).random() < EXPOSED[patient.label]


def patient_id(number: int) -> str:
    """A patient's code in labels.csv."""
    return f"P{number + 1:05d}"


def frame(
    rng: np.random.Generator,
    femur: Femur,
    fracture: Fracture,
    hospital: Hospital,
    view: str,
    laterality: str,
    coarsest_mm: float = COARSEST_MM,
) -> tuple[Camera, tuple[int, int], float]:
    """Draws the field of view: the whole femur, half of it, or the fracture's surroundings.

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
    # The whole femur is centred as far as the fracture's height allows.
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
