"""The report's numbers as CSV and JSON for other programs, and as a table for the terminal."""

import csv
import dataclasses
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from femur_jax.files import write_atomically
from femur_jax.study.report.contents import ClassifierRow, StudyResults
from femur_jax.study.report.formats import NOT_COMPUTED, interval_text


def write_tables(results: StudyResults, folder: Path) -> None:
    """Writes the numbers of the report's tables as CSV files into a folder.

    Columns are named after the fields of the rows, nested ones with a dot. Distances and copies
    have a row for each seed; the rows of the real floor have no seed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tables: dict[str, list[dict[str, Any]]] = {
        "classifiers": [dataclasses.asdict(row) for row in (*results.classifiers, *results.sized)],
        "contrasts": [dataclasses.asdict(row) for row in results.contrasts],
        "distances": [
            {"source": "real, held out", "seed": None, **dataclasses.asdict(row)}
            for row in results.floor
        ]
        + [
            {"source": name, "seed": seed, **dataclasses.asdict(row)}
            for name, seed, evaluation in results.evaluations
            for row in evaluation.distances
        ],
        "copies": [
            {"source": name, "seed": seed, **dataclasses.asdict(row)}
            for name, seed, evaluation in results.evaluations
            for row in evaluation.copies
        ],
        "groups": [
            {"trained_on": row.trained_on, "grouped_by": name, **dataclasses.asdict(group)}
            for row in results.classifiers
            for name, groups in row.groups.items()
            for group in groups
        ],
    }
    for name, rows in tables.items():
        flat = [_flattened(row) for row in rows]
        columns = list(dict.fromkeys(column for row in flat for column in row))
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(flat)
        write_atomically(folder / f"{name}.csv", text.getvalue())


def _flattened(fields: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested fields in one dictionary; numbers are joined by spaces, and rows are left out."""
    result: dict[str, Any] = {}
    for key, value in fields.items():
        if isinstance(value, Mapping):
            result |= _flattened(value, f"{prefix}{key}.")
        elif not isinstance(value, list | tuple):
            result[prefix + key] = value
        elif all(isinstance(item, float) for item in value):
            result[prefix + key] = " ".join(map(str, value))
    return result


def as_json(results: StudyResults) -> str:
    """The results without pictures, curves and the sizes of single radiographs."""
    fields = {
        field.name: getattr(results, field.name)
        for field in dataclasses.fields(results)
        if field.name not in ("galleries", "curves", "pairs", "sizes")
    }
    return json.dumps(fields | {"floor": results.floor}, default=dataclasses.asdict, indent=1)


def auc_table(rows: Sequence[ClassifierRow]) -> str:
    """The table of classifiers for a terminal, with one line for each training set."""
    head = ("trained on", "n train", "AUC [95% interval]", "sensitivity", "specificity")
    body = [
        (
            row.trained_on,
            str(row.n_train),
            interval_text(row.auc.mean),
            interval_text(row.operating.sensitivity) if row.operating else NOT_COMPUTED,
            interval_text(row.operating.specificity) if row.operating else NOT_COMPUTED,
        )
        for row in rows
    ]
    widths = [max(map(len, column)) for column in zip(head, *body, strict=True)]
    lines = [head, tuple("-" * width for width in widths), *body]
    return "\n".join(
        f"{line[0]:<{widths[0]}}  "
        + "  ".join(f"{cell:>{width}}" for cell, width in zip(line[1:], widths[1:], strict=True))
        for line in lines
    )
