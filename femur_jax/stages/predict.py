"""Answers of a trained classifier on new films, for people to look at.

OUT/predictions.csv            a line for each file: its path, its code, its probability
OUT/predictions.html, ...      the films with heat maps, 50 on a page
CLASSIFIER/calibration.json    what the answers rest on, computed once; from then on, the
                               radiographs that the classifier was trained on are not needed
"""

import contextlib
import csv
import dataclasses
import io
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from femur_jax import run_folder
from femur_jax.classifier.task import ClassifierTask
from femur_jax.data.cohort import Pseudonyms
from femur_jax.data.radiograph import LABELS
from femur_jax.data.table_file import as_text
from femur_jax.errors import UserError
from femur_jax.files import has_content, new_folder, write_atomically
from femur_jax.ingest.polarity import POSITIVE
from femur_jax.models.functional import Params
from femur_jax.prediction.basis import Basis, logits, seen
from femur_jax.prediction.familiarity import picture
from femur_jax.prediction.films import ACCEPTED, Film, Read, find_films, read_films
from femur_jax.prediction.heat_maps import HeatMaps, smooth
from femur_jax.prediction.page import Answer, Pictures, film_jpeg, overlay_jpeg, write_pages
from femur_jax.stages.tasks import classifier_protocol
from femur_jax.training import loop

CALIBRATION = "calibration.json"
TABLE = "predictions.csv"
COLUMNS = (
    *("file", "path", "code", "patient"),
    *("probability", "probability_of_patient", "logit", "unlike"),
)


@dataclass(frozen=True)
class Classifier:
    """A trained classifier with the basis of its answers."""

    task: ClassifierTask
    params: Params
    basis: Basis


def predict(
    run: Path,
    inputs: Sequence[Path],
    out: Path,
    *,
    patients: Path | None = None,
    key: Path | None = None,
    workers: int | None = None,
) -> list[str]:
    """Writes a classifier's answers on films into a new private folder.

    Args:
        run: Run directory of a trained classifier.
        inputs: Files and folders of films.
        out: Folder of the answers, which must not exist.
        patients: Table of the films' patients, see `find_films`.
        key: Key of the pseudonyms of the classifier's dataset, with which the table's hospitals
            are recognised.
        workers: Number of reading processes, one per core by default.

    Returns:
        ACCEPTED or the code of the rejection of each file, in the order of the table.

    Raises:
        UserError: The run is not that of a usable classifier, no film can be read, the table or
            the key is unusable, or `out` exists.
    """
    films = find_films(inputs, patients)
    if key is not None and not key.is_file():
        raise UserError("There is no key at the given path; name the one of the dataset.")
    model = open_classifier(run)
    pseudonym = Pseudonyms(key) if key else None
    with new_folder(out) as partial, tempfile.TemporaryDirectory(dir=partial) as scratch:
        folder, patch = Path(scratch) / "films", model.basis.patch
        read = read_films(films, folder, patch=patch, workers=workers)
        accepted = [n for n, code in enumerate(read.codes) if code == ACCEPTED]
        hospitals = [
            pseudonym("hospital", films[n].hospital) if pseudonym and films[n].hospital else ""
            for n in accepted
        ]
        answers = _answers(model, read, [films[n].patient for n in accepted], hospitals)
        by_number = dict(zip(accepted, answers, strict=True))
        (partial / TABLE).write_bytes(_table(films, read.codes, by_number))
        maps = HeatMaps(model.task, model.params)

        def pictures(n: int) -> Pictures:
            pixels, radiograph = read.dataset.read(n), seen(model.task, read.dataset, n)
            occlusion, gradients = maps.occlusion(radiograph), smooth(maps.gradients(radiograph))
            return Pictures(
                film_jpeg(pixels),
                overlay_jpeg(pixels, occlusion),
                overlay_jpeg(pixels, gradients),
                greatest=float(np.abs(occlusion).max()),
            )

        write_pages(
            partial,
            model.basis,
            {n + 1: answer for n, answer in by_number.items()},
            pictures,
            refused={n + 1: code for n, code in enumerate(read.codes) if code != ACCEPTED},
            are_hospitals_known=all(hospitals),
        )
    return read.codes


def open_classifier(run: Path) -> Classifier:
    """Restores a trained classifier, with what its answers rest on.

    Raises:
        UserError: The folder is not the run of a classifier of radiographs alone, or the run has
            no checkpoint or no validation patients of both classes.
    """
    config = run_folder.load_config(run)
    if config.get("task", "") != "classifier":
        kind = f"{config.task} model" if "task" in config else "study"
        raise UserError(
            f"{run} holds the run of a {kind}, not of a classifier; name the run directory of a "
            "classifier."
        )
    if config.data.columns:
        raise UserError(
            f"The classifier in {run} also needs {', '.join(config.data.columns)} of each patient, "
            "which femur predict does not take; name a classifier of radiographs alone."
        )
    run_folder.keep_compiled(run)
    # Opening takes neither the training data, nor the first parameters, nor as many devices.
    bare = config.copy_and_resolve_references().unlock()
    bare.weights, bare.data.dataset_shares = "", ()
    bare.mesh.update(data=-1, fsdp=1, model=1)
    task = ClassifierTask(bare, [])
    state = loop.restore(task, bare, run)
    step = int(state.step)
    basis = _known_basis(run / CALIBRATION, step)
    if basis is None:
        protocol = classifier_protocol(config)
        if not protocol.validation.radiographs:
            raise UserError(
                f"The classifier in {run} has no validation patients of both classes, so its "
                "probabilities cannot be calibrated; train one with a larger validation split."
            )
        basis = Basis.of(task, state.ema, step, protocol)
        with contextlib.suppress(PermissionError):  # it is computed again the next time
            write_atomically(run / CALIBRATION, json.dumps(dataclasses.asdict(basis)))
    if basis.labels != LABELS:
        raise UserError(
            f"The classifier in {run} was trained for {' and '.join(basis.labels)}, and not for "
            f"{' and '.join(LABELS)}; name another run."
        )
    return Classifier(task, state.ema, basis)


def _known_basis(file: Path, step: int) -> Basis | None:
    """The basis that was computed for the checkpoint of a step, if any."""
    if not has_content(file):
        return None
    try:
        known = Basis.from_json(json.loads(file.read_text()))
    except (ValueError, KeyError, TypeError):  # another version wrote it
        return None
    return known if known.step == step else None


def _answers(
    model: Classifier,
    read: Read,
    patients: Sequence[int | None],
    hospitals: Sequence[str],
) -> list[Answer]:
    """The answer on each accepted film; a patient's is that of the mean logit."""
    dataset, basis = read.dataset, model.basis
    of_films = logits(model.task, model.params, dataset, range(len(patients)))
    of_patients = {
        p: float(of_films[np.array(patients) == p].mean()) for p in patients if p is not None
    }
    answers = []
    for n, (patient, hospital) in enumerate(zip(patients, hospitals, strict=True)):
        unlike = basis.familiar.remarks(dataset.entries[n], picture(seen(model.task, dataset, n)))
        if read.polarity[n] != POSITIVE:
            unlike.append("polarity")
        if hospital and hospital not in basis.familiar.hospitals:
            unlike.append("hospital")
        answers.append(
            Answer(
                patient=patient,
                logit=float(of_films[n]),
                probability=basis.curve(of_films[n]),
                of_patient=None if patient is None else basis.curve(of_patients[patient]),
                unlike=unlike,
            )
        )
    return answers


def _table(films: Sequence[Film], codes: Sequence[str], answers: Mapping[int, Answer]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, COLUMNS)
    writer.writeheader()
    for n, (film, code) in enumerate(zip(films, codes, strict=True)):
        row: dict[str, Any] = {"file": n + 1, "path": as_text(film.name), "code": code}
        row["patient"] = film.patient
        if answer := answers.get(n):
            row |= {"probability": f"{answer.probability:.4f}", "logit": f"{answer.logit:.4f}"}
            row["unlike"] = " ".join(answer.unlike)
            if answer.of_patient is not None:
                row["probability_of_patient"] = f"{answer.of_patient:.4f}"
        writer.writerow(row)
    return text.getvalue().encode("utf-8-sig", "surrogateescape")
