"""The report's numbers for other programs: CSV, JSON, and a table for the terminal."""

import csv
import dataclasses
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from femur_jax.files import write_atomically
from femur_jax.study.report.contents import ClassifierRow, StudyResults
from femur_jax.study.report.words import interval_text


def write_tables(results: StudyResults, folder: Path) -> None:
    """Writes the numbers of the report's tables as CSV files into a folder.

    Columns are named by the fields of the rows, nested ones with a dot. Distances and copies have
    a row for each seed, and the real floor no seed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    cells = [("real, held out", None, results.floor)] + [
        (name, seed, found)
        for name, seeds in results.generators.items()
        for seed, found in seeds.items()
    ]
    tables: dict[str, list[dict[str, Any]]] = {
        "classifiers": [dataclasses.asdict(row) for row in results.classifiers],
        "contrasts": [dataclasses.asdict(row) for row in results.contrasts],
        "distances": [
            {"source": name, "seed": seed, **dataclasses.asdict(row)}
            for name, seed, found in cells
            for row in found.distances
        ],
        "copies": [
            {"source": name, "seed": seed, **dataclasses.asdict(row)}
            for name, seed, found in cells
            for row in found.copies
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
    """Without sequences of rows; those of numbers are joined by spaces."""
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
    """All but pictures, curves and the sizes of single radiographs."""
    parts = {
        field.name: getattr(results, field.name)
        for field in dataclasses.fields(results)
        if field.name not in ("galleries", "curves", "pairs", "sizes")
    }
    return json.dumps(parts, default=dataclasses.asdict, indent=1)


def auc_table(rows: Sequence[ClassifierRow]) -> str:
    """The classifier table for a terminal: one line per training set, columns aligned."""
    head = ("trained on", "n train", "AUC [95% interval]", "sens. at 95% spec.")
    body = [
        (
            row.trained_on,
            str(row.n_train),
            interval_text(row.auc.mean),
            interval_text(row.sensitivity),
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
