"""Writes the results of a study: one HTML page and two CSV files."""

import csv
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from sklearn.metrics import roc_curve

from femur_jax.data.table_file import as_text
from femur_jax.reader_study.analysis import ALL_READERS, Finding, Reading, Results
from femur_jax.reader_study.design import REAL_SOURCE, Design
from femur_jax.templates import template_environment

_SIDE = 240  # side of the ROC chart in pixels


@dataclass(frozen=True)
class Grid:
    """Findings of one topic, arranged as a table.

    Attributes:
        columns: Column names in their order.
        rows: Findings by column, for each row by its names.
    """

    columns: list[str]
    rows: dict[tuple[str, ...], dict[str, Finding]]


@dataclass(frozen=True)
class Curve:
    """A reader's ROC curve as the path of an SVG element."""

    reader: str
    path: str


def write_results(results: Results, design: Design, out: Path) -> None:
    """Writes results.html, findings.csv and answers.csv into a folder.

    answers.csv has one line for each scored reading, with the true source and class.
    """
    _write_table(out / "findings.csv", [dataclasses.asdict(f) for f in results.findings])
    _write_table(out / "answers.csv", [_row(reading) for reading in results.readings])
    template = template_environment(Path(__file__).parent).get_template("results.html.j2")
    html = template.render(
        design=design,
        progress=results.progress,
        detection=[finding for finding in results.findings if finding.topic == "detection"],
        conclusion=conclusion,
        joint=joint_conclusion(results.findings),
        diagnosis=_grid(results, "diagnosis", ("reader", "measure"), "source"),
        realism=_grid(results, "realism", ("reader",), "source"),
        agreement=_grid(results, "agreement", ("reader",), "measure"),
        time=_grid(results, "time", ("reader",), "source"),
        artefacts=_grid(results, "artefacts", ("measure", "reader"), "source"),
        curves=_curves(results.readings),
        side=_SIDE,
        remarks=[reading for reading in results.readings if reading.answers.get("remark")],
    )
    (out / "results.html").write_text(html, encoding="utf-8")


def _write_table(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    """Writes a CSV file whose texts a spreadsheet shows and does not execute."""
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, list(dict.fromkeys(key for row in rows for key in row)))
        table.writeheader()
        for row in rows:
            table.writerow({k: as_text(v) if isinstance(v, str) else v for k, v in row.items()})


def conclusion(finding: Finding) -> str:
    """What a reader's tests against guessing show, after the correction, in words."""
    shown = []
    if finding.p_equivalence is not None and finding.p_equivalence < 0.05:
        shown.append("within the margin")
    if finding.p_holm is not None and finding.p_holm < 0.05:
        shown.append(f"{'better' if finding.value > 0.5 else 'worse'} than guessing")
    return ", ".join(shown) or "undecided"


def joint_conclusion(findings: Sequence[Finding]) -> str:
    """What all readers show together, in one sentence."""
    by_reader: dict[str, list[str]] = {}
    for finding in findings:
        if finding.p_holm is not None and finding.reader != ALL_READERS:
            by_reader.setdefault(finding.reader, []).append(conclusion(finding))
    if not by_reader:
        return "Not answered: no reader has seen enough radiographs of both kinds."
    n = len(by_reader)
    people = "the reader" if n == 1 else f"{n} readers"
    better = sum(any("better" in c for c in found) for found in by_reader.values())
    worse = sum(any("worse" in c for c in found) for found in by_reader.values())
    if better:
        return f"Yes: {f'{better} of {people}' if n > 1 else people} can."
    if worse:
        return "Readers see a difference, but call synthetic radiographs real: check their scale."
    if all("within the margin" in c for found in by_reader.values() for c in found):
        return f"No: {f'each of {people}' if n > 1 else people} is shown to guess, or nearly so."
    return "Undecided: nobody is shown to distinguish them, and not everybody to guess."


def _grid(results: Results, topic: str, names: tuple[str, ...], column: str) -> Grid:
    findings = [finding for finding in results.findings if finding.topic == topic]
    rows: dict[tuple[str, ...], dict[str, Finding]] = {}
    for finding in findings:
        row = rows.setdefault(tuple(getattr(finding, name) for name in names), {})
        row[getattr(finding, column)] = finding
    return Grid(
        list(dict.fromkeys(getattr(f, column) for f in findings)), dict(sorted(rows.items()))
    )


def _row(reading: Reading) -> dict[str, object]:
    answers = {
        name: "; ".join(answer) if isinstance(answer, list) else answer
        for name, answer in reading.answers.items()
    }
    return {
        "reader": reading.reader,
        "block": reading.block,
        "repeat": int(reading.repeat),
        "image": reading.case.image,
        "pair": reading.case.pair,
        "radiograph": reading.case.radiograph,
        "true_source": reading.case.source,
        "true_label": reading.case.label,
        "seconds": reading.seconds,
        **{f"answer_{name}": answer for name, answer in answers.items()},
    }


def _curves(readings: Sequence[Reading]) -> list[Curve]:
    curves = []
    for reader in dict.fromkeys(reading.reader for reading in readings):
        single = [
            x for x in readings if x.reader == reader and x.block == "single" and not x.repeat
        ]
        synthetic = np.array([x.case.source != REAL_SOURCE for x in single], bool)
        if synthetic.any() and not synthetic.all():
            x, y, _ = roc_curve(synthetic, [reading.answers["source"] for reading in single])
            points = (f"{_SIDE * a:.1f} {_SIDE * (1 - b):.1f}" for a, b in zip(x, y, strict=True))
            curves.append(Curve(reader, "M" + "L".join(points)))
    return curves
