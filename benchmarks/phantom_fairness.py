"""Whether anything but the look of the bone tells the class of a simulated patient."""

import csv
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import pydicom
from jaxtyping import Bool, Float
from sklearn.base import BaseEstimator
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from benchmarks.machine import cpu
from benchmarks.measurements import Found
from femur_jax.ingest.dicom import read_dicom
from femur_jax.phantom.cohort import write_cohort

PATIENTS, IMAGES, HOSPITALS = 600, 1200, 16
BINS = 64
RESAMPLES = 1000

NUMBERS = ("Rows", "Columns", "BitsStored", "PixelRepresentation", "KVP", "WindowWidth")
TEXTS = (
    "Modality",
    "PhotometricInterpretation",
    "VOILUTFunction",
    "ManufacturerModelName",
    "PatientSex",
    "ViewPosition",
    "ShutterShape",
    "InstitutionName",
)


def header_auc() -> Found:
    """Simulates a cohort and lets classifiers guess from headers and histograms."""
    with tempfile.TemporaryDirectory() as scratch:
        labels = write_cohort(
            Path(scratch) / "cohort",
            patients=PATIENTS,
            images=IMAGES,
            hospitals=HOSPITALS,
            aff_fraction=0.5,
            long_side=(64, 128),
            seed=11,
        )
        with labels.open(newline="") as table:
            rows = list(csv.DictReader(table))
        facts, histograms = _describe(labels.parent, rows)
    atypical = np.array([row["label"] == "AFF" for row in rows])
    patients = np.array([row["patient_id"] for row in rows])
    models: dict[str, BaseEstimator] = {
        "logistic regression": make_pipeline(StandardScaler(), LogisticRegression(C=0.05)),
        "gradient boosting": HistGradientBoostingClassifier(max_iter=100, random_state=0),
    }
    inputs = {
        "header": facts,
        "histogram": histograms,
        "both": np.concatenate([facts, histograms], 1),
    }
    scores = {
        f"{name}, {kind}": _cross_validated(model, x, atypical, patients)
        for kind, x in inputs.items()
        for name, model in models.items()
    }
    found = {name: float(roc_auc_score(atypical, score)) for name, score in scores.items()}
    best = max((name for name in found if name.endswith("both")), key=found.__getitem__)
    low, high = _interval(scores[best], atypical, patients)
    return Found(
        value=found[best],
        device=cpu(),
        spread=(low, high),
        details={"patients": PATIENTS, "images": IMAGES, "AUC": found},
    )


def _describe(
    folder: Path, rows: list[dict[str, str]]
) -> tuple[Float[np.ndarray, "images facts"], Float[np.ndarray, "images bins"]]:
    """Facts of headers, texts one-hot, and histograms of displayed grey values."""
    headers = [pydicom.dcmread(folder / row["path"], stop_before_pixels=True) for row in rows]
    images = Counter(row["patient_id"] for row in rows)
    numbers, histograms = [], []
    for row, header in zip(rows, headers, strict=True):
        picture = read_dicom(folder / row["path"], lambda kind, identifier: kind)
        age = int(header.PatientAge[:3])
        first = [np.ravel(header.get(name) or 0.0)[0] for name in NUMBERS]
        numbers.append([*map(float, first), age, picture.spacing_mm, images[row["patient_id"]]])
        histograms.append(np.histogram(picture.pixels, BINS, (0, 65536))[0] / picture.pixels.size)
    columns = [np.array(numbers, float)]
    for name in TEXTS:
        values = np.array([str(header.get(name, "")) for header in headers])
        columns.append((values[:, None] == np.unique(values)).astype(float))
    return np.concatenate(columns, 1), np.array(histograms)


def _cross_validated(
    model: BaseEstimator,
    inputs: Float[np.ndarray, "images features"],
    atypical: Bool[np.ndarray, "images"],
    patients: np.ndarray,
) -> Float[np.ndarray, "images"]:
    """Scores of images by models that saw no image of the same patient."""
    folds = StratifiedGroupKFold(5, shuffle=True, random_state=0)
    probabilities = cross_val_predict(
        model, inputs, atypical, groups=patients, cv=folds, method="predict_proba"
    )
    return np.asarray(probabilities)[:, 1]


def _interval(
    scores: Float[np.ndarray, "images"], atypical: Bool[np.ndarray, "images"], patients: np.ndarray
) -> tuple[float, float]:
    """95% interval of the AUC by a bootstrap over patients."""
    rng = np.random.default_rng(0)
    members = [np.flatnonzero(patients == patient) for patient in np.unique(patients)]
    drawn = []
    for _ in range(RESAMPLES):
        chosen = np.concatenate([members[i] for i in rng.integers(len(members), size=len(members))])
        drawn.append(roc_auc_score(atypical[chosen], scores[chosen]))
    low, high = np.percentile(drawn, [2.5, 97.5])
    return float(low), float(high)
