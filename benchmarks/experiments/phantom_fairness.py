"""Whether anything but the bone itself reveals the class of a simulated patient."""

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
from benchmarks.records import Goal, Result, measurement
from femur_jax.ingest.dicom import read_dicom
from femur_jax.phantom.cohort import write_cohort

_PATIENTS, _IMAGES, _HOSPITALS = 600, 1200, 16
_BINS = 64
_RESAMPLES = 1000

_NUMBERS = ("Rows", "Columns", "BitsStored", "PixelRepresentation", "KVP", "WindowWidth")
_TEXTS = (
    "Modality",
    "PhotometricInterpretation",
    "VOILUTFunction",
    "ManufacturerModelName",
    "PatientSex",
    "ViewPosition",
    "ShutterShape",
    "InstitutionName",
)


@measurement("AUC", Goal("<=", 0.6), timed=False)
def phantom_header_auc() -> Result:
    """How well anything but the bone itself reveals the class of a simulated patient.

    600 patients have two radiographs each on average. Logistic regression and gradient boosting
    predict atypical or normal from header facts (sizes, spacing, bits, window, device, hospital,
    view, age, sex, number of images) and the histogram of grey values, cross-validated by
    patient. The value is the better one's area under the ROC curve, for which 0.5 is chance; the
    range is its 95% interval, by a bootstrap over patients.
    """
    with tempfile.TemporaryDirectory() as scratch:
        labels = write_cohort(
            Path(scratch) / "cohort",
            patients=_PATIENTS,
            images=_IMAGES,
            hospitals=_HOSPITALS,
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
    aucs = {name: float(roc_auc_score(atypical, score)) for name, score in scores.items()}
    best = max((name for name in aucs if name.endswith("both")), key=aucs.__getitem__)
    low, high = _interval(scores[best], atypical, patients)
    return Result(
        value=aucs[best],
        device=cpu(),
        spread=(low, high),
        details={"patients": _PATIENTS, "images": _IMAGES, "AUC": aucs},
    )


def _describe(
    folder: Path, rows: list[dict[str, str]]
) -> tuple[Float[np.ndarray, "images facts"], Float[np.ndarray, "images bins"]]:
    """Facts of headers, with texts one-hot, and histograms of displayed grey values."""
    headers = [pydicom.dcmread(folder / row["path"], stop_before_pixels=True) for row in rows]
    images = Counter(row["patient_id"] for row in rows)
    numbers, histograms = [], []
    for row, header in zip(rows, headers, strict=True):
        picture = read_dicom(folder / row["path"], lambda kind, identifier: kind)
        age = int(header.PatientAge[:3])
        first = [np.ravel(header.get(name) or 0.0)[0] for name in _NUMBERS]
        numbers.append([*map(float, first), age, picture.spacing_mm, images[row["patient_id"]]])
        histograms.append(np.histogram(picture.pixels, _BINS, (0, 65536))[0] / picture.pixels.size)
    columns = [np.array(numbers, float)]
    for name in _TEXTS:
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
    """The 95% interval of the AUC, by a bootstrap over patients."""
    rng = np.random.default_rng(0)
    members = [np.flatnonzero(patients == patient) for patient in np.unique(patients)]
    drawn = []
    for _ in range(_RESAMPLES):
        chosen = np.concatenate([members[i] for i in rng.integers(len(members), size=len(members))])
        drawn.append(roc_auc_score(atypical[chosen], scores[chosen]))
    low, high = np.percentile(drawn, [2.5, 97.5])
    return float(low), float(high)
