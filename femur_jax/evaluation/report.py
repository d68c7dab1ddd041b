"""The study's results as one self-contained HTML page, and its main table as plain text."""

import base64
import csv
import dataclasses
import io
import math
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from jaxtyping import Float, Int, UInt16
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from PIL import Image

from femur_jax.evaluation.manifold import Manifold
from femur_jax.evaluation.statistics import Contrast, Interval
from femur_jax.files import write_atomically
from femur_jax.templates import template_environment

GreyImage = UInt16[np.ndarray, "_height _width"]  # of any size, each


@dataclass(frozen=True)
class SplitSize:
    """How much data of one class one split holds."""

    split: str
    label: str
    patients: int
    radiographs: int


@dataclass(frozen=True)
class Gallery:
    """Example radiographs of one class from one source, such as "real" or "diffusion"."""

    source: str
    label: str
    images: Sequence[GreyImage]


@dataclass(frozen=True)
class Curve:
    """One quantity over training; curves of the same `ylabel` share a chart."""

    name: str
    steps: Int[np.ndarray, " point"]
    values: Float[np.ndarray, " point"]
    ylabel: str


@dataclass(frozen=True)
class ClassifierRow:
    """A classifier's patient-level result on real held-out patients.

    Attributes:
        against_real: AUC less that of the classifier trained on real radiographs, on the same
            patients; None for that one itself.
        calibration_error: Expected calibration error.
        chance_error: What it would be on average if the predictions were true.
    """

    trained_on: str
    n_train: int
    auc: Interval
    sensitivity: Interval
    n_test_patients: int
    against_real: Contrast | None
    calibration_error: float
    chance_error: float


@dataclass(frozen=True)
class DistanceRow:
    """How one set of radiographs lies to real ones; `floor` where it is real itself.

    Attributes:
        fid_infinity: FID extrapolated to infinite sets.
        manifold: None where the sets are too small.
    """

    source: str
    label: str
    n_real: int
    n_compared: int
    kid: float
    kid_error: float
    fid: float
    fid_infinity: float
    manifold: Manifold | None
    floor: bool = False


@dataclass(frozen=True)
class DescriptorRow:
    """Distances to real radiographs that need no network; `floor` where they are real as well.

    Attributes:
        distances: By descriptor, see `descriptors.descriptor_distance`.
    """

    source: str
    label: str
    distances: Mapping[str, float]
    floor: bool = False


@dataclass(frozen=True)
class NeighbourPair:
    """A synthetic radiograph, the training radiograph nearest to it and their distance ratio."""

    synthetic: GreyImage
    nearest: GreyImage
    ratio: float


@dataclass(frozen=True)
class Neighbours:
    """The memorisation audit of one generator and class; see `memorization.Audit`.

    Attributes:
        pairs: The pairs to show, worst first.
        n: Number of audited radiographs.
        threshold: Distance ratio up to which a synthetic radiograph is flagged.
        flagged_share: Of all `n`.
        chance_share: Share of real held-out radiographs that would be flagged, in expectation.
        copies: Radiographs that are too near for any chance.
        authentic_share: Share of all `n`, 0 to 1.
        membership_auc: How well membership is inferred from the synthetic set; 0.5 is a coin.
        verdict: In one sentence, with its thresholds.
    """

    source: str
    label: str
    n: int
    pairs: Sequence[NeighbourPair]
    threshold: float
    flagged_share: Interval
    chance_share: float
    copies: int
    authentic_share: float
    membership_auc: Interval
    verdict: str


@dataclass(frozen=True)
class ImageSizes:
    """Sizes in pixels of one source's radiographs of one class."""

    source: str
    label: str
    heights: Int[np.ndarray, " radiograph"]
    widths: Int[np.ndarray, " radiograph"]


@dataclass(frozen=True)
class StudyResults:
    """All that a report shows; an empty sequence leaves its section with a note that says so.

    Attributes:
        simulated: True for phantoms, False for radiographs of patients.
        resolution: The sizes trained on, in words.
        training_steps: Optimizer steps of each model.
        wall_seconds: Wall time of each stage.
        feature_extractor: What computed the features under FID and KID.
        published: Areas under the curve from the literature, by what they were reached with.
        provenance: Versions, config hash, seed, date and the like, shown as given.
    """

    title: str
    simulated: bool
    resolution: str
    splits: Sequence[SplitSize]
    training_steps: Mapping[str, int]
    wall_seconds: Mapping[str, float]
    galleries: Sequence[Gallery]
    curves: Sequence[Curve]
    classifiers: Sequence[ClassifierRow]
    feature_extractor: str
    distances: Sequence[DistanceRow]
    descriptors: Sequence[DescriptorRow]
    neighbours: Sequence[Neighbours]
    sizes: Sequence[ImageSizes]
    provenance: Mapping[str, str]
    published: Mapping[str, float]


def write_report(results: StudyResults, path: Path) -> None:
    """Writes the report as one HTML file that refers to nothing outside itself.

    The file appears whole or not at all: it is written beside `path` and then moved there.
    """
    environment = template_environment(Path(__file__).parent)
    environment.filters |= {
        "duration": _duration,
        "interval": _interval_text,
        "signed": _signed_text,
        "number": _number,
        "percent": _percent_text,
    }
    html = environment.get_template("report.html.j2").render(
        results=results,
        labels=list(dict.fromkeys(gallery.label for gallery in results.galleries)),
        splits=list(dict.fromkeys(row.split for row in results.splits)),
        show=_Display.fitting([i for g in results.galleries for i in g.images], side=256),
        show_pair=_Display.fitting(
            [i for n in results.neighbours for p in n.pairs for i in (p.synthetic, p.nearest)],
            side=128,
        ),
        curves_svg=_curves_chart(results.curves),
        forest_svg=_forest_chart(results.classifiers, results.published),
        sizes_svg=_sizes_chart(results.sizes),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_text(html, encoding="utf-8")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def write_tables(results: StudyResults, folder: Path) -> None:
    """Writes the numbers of the report's tables as CSV files into a folder.

    Columns are named by the fields of the rows, nested ones with a dot.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tables: dict[str, Sequence[Any]] = {
        "classifiers": results.classifiers,
        "distances": results.distances,
        "descriptors": results.descriptors,
        "copies": [dataclasses.replace(found, pairs=()) for found in results.neighbours],
    }
    for name, rows in tables.items():
        flat = [_flattened(dataclasses.asdict(row)) for row in rows]
        columns = list(dict.fromkeys(column for row in flat for column in row))
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(flat)
        write_atomically(folder / f"{name}.csv", text.getvalue())


def _flattened(fields: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in fields.items():
        if isinstance(value, Mapping):
            result |= _flattened(value, f"{prefix}{key}.")
        elif not isinstance(value, tuple):
            result[prefix + key] = value
    return result


def auc_table(rows: Sequence[ClassifierRow]) -> str:
    """The classifier table for a terminal: one line per training set, columns aligned."""
    head = ("trained on", "n train", "AUC [95% interval]", "sens. at 95% spec.", "test patients")
    body = [
        (
            row.trained_on,
            str(row.n_train),
            _interval_text(row.auc),
            _interval_text(row.sensitivity),
            str(row.n_test_patients),
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


def _interval_text(interval: Interval) -> str:
    return f"{interval.value:.2f} [{interval.low:.2f}, {interval.high:.2f}]"


def _signed_text(interval: Interval) -> str:
    return f"{interval.value:+.2f} [{interval.low:+.2f}, {interval.high:+.2f}]"


def _percent_text(interval: Interval) -> str:
    return f"{interval.value:.1%} [{interval.low:.1%}, {interval.high:.1%}]"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _duration(seconds: float) -> str:
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, s = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {s} s" if minutes else f"{s} s"


@dataclass(frozen=True)
class _Display:
    """One integer scale for all images of a section: magnified by `zoom` or reduced by `reduce`."""

    zoom: int
    reduce: int

    @classmethod
    def fitting(cls, images: Sequence[GreyImage], side: int) -> "_Display":
        """The largest scale at which the longest side of all images is about `side` pixels."""
        longest = max((max(image.shape) for image in images), default=side)
        return cls(zoom=max(1, side // longest), reduce=max(1, math.ceil(longest / (2 * side))))

    @property
    def words(self) -> str:
        if self.reduce > 1:
            return f"reduced to 1/{self.reduce}"
        return f"enlarged {self.zoom} ×" if self.zoom > 1 else "pixel for pixel"

    def image(self, pixels: GreyImage, description: str) -> Markup:
        """An <img> of the upper 8 bits, with its PNG inside."""
        height, width = pixels.shape
        picture = Image.fromarray((pixels >> 8).astype(np.uint8))
        if self.reduce > 1:
            picture = picture.reduce(self.reduce)
        png = io.BytesIO()
        picture.save(png, "PNG")
        return Markup(
            '<img src="data:image/png;base64,{}" width="{}" height="{}" alt="{}">'
        ).format(
            base64.b64encode(png.getvalue()).decode(),
            picture.width * self.zoom,
            picture.height * self.zoom,
            f"{description}, {height} × {width} px",
        )


# Charts. Colours after Okabe and Ito, told apart with any colour vision, and never alone: each
# source has a marker or a line style as well. Ink takes the colour of the page's text.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00")
_MARKERS = ("o", "^", "s", "D", "v")
_DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))
_INK = "#010203"  # stands for CSS currentColor until the SVG is written
_STYLE: dict[Any, Any] = {
    "axes.edgecolor": _INK,
    "axes.labelcolor": _INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": "medium",
    "font.size": 10,
    "legend.frameon": False,
    "savefig.transparent": True,
    "svg.fonttype": "path",
    "svg.hashsalt": "femur_jax",
    "text.color": _INK,
    "text.parse_math": False,
    "xtick.color": _INK,
    "ytick.color": _INK,
}


def _panels(n: int, height: float) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(10 if n > 1 else 6.4, height), layout="constrained")
    return figure, list(figure.subplots(1, n, squeeze=False)[0])


def _svg(figure: Figure, description: str) -> Markup:
    """The figure as an inline <svg> element that takes its ink from the page."""
    file = io.StringIO()
    figure.savefig(
        file, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type"))
    )
    text = file.getvalue()
    text = text[text.index("<svg") :].replace(_INK, "currentColor")
    text = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", text, flags=re.DOTALL)
    # HTML needs no namespaces, and several charts on a page must not repeat an id
    text = re.sub(r' xmlns(:\w+)?="[^"]*"| id="\w+_\d+"', "", text)
    return Markup('<svg role="img" aria-label="{}"').format(description) + Markup(text[4:])


def _curves_chart(curves: Sequence[Curve]) -> Markup:
    if not curves:
        return Markup("")
    with matplotlib.rc_context(_STYLE):
        count = Counter(curve.ylabel for curve in curves)
        ylabels = list(count)
        figure, panels = _panels(len(ylabels), height=2.8 + 0.2 * max(count.values()))
        for axes, ylabel in zip(panels, ylabels, strict=True):
            shown = [curve for curve in curves if curve.ylabel == ylabel]
            for i, curve in enumerate(shown):
                axes.plot(
                    curve.steps,
                    curve.values,
                    label=curve.name,
                    color=_COLOURS[i % len(_COLOURS)],
                    linestyle=_DASHES[i % len(_DASHES)],
                    linewidth=1.3,
                )
            axes.set(xlabel="optimizer step", ylabel=ylabel)
            axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
            axes.legend(loc="lower left", bbox_to_anchor=(0, 1))
        return _svg(figure, "Training curves: " + ", ".join(ylabels) + " against optimizer step")


def _forest_chart(rows: Sequence[ClassifierRow], published: Mapping[str, float]) -> Markup:
    if not rows:
        return Markup("")
    with matplotlib.rc_context(_STYLE):
        figure, [axes] = _panels(1, height=0.8 + 0.36 * len(rows))
        for y, row in enumerate(rows):
            axes.hlines(y, row.auc.low, row.auc.high, color=_COLOURS[0], linewidth=2)
            axes.plot(row.auc.value, y, "s", color=_COLOURS[0], markersize=6, clip_on=False)
        axes.axvline(0.5, color=_INK, linewidth=0.8, linestyle=":")
        axes.annotate(
            "chance", (0.5, 1), xycoords=("data", "axes fraction"), ha="center", va="bottom"
        )
        for i, (name, auc) in enumerate(published.items(), 1):
            axes.axvline(
                auc,
                color=_COLOURS[i % len(_COLOURS)],
                linestyle=_DASHES[i % len(_DASHES)],
                linewidth=1,
                label=f"{name}: {auc:.3f} (other data)",
            )
        if published:
            axes.legend(loc="lower left", bbox_to_anchor=(0, 1.08))
        axes.set_yticks(range(len(rows)), [row.trained_on for row in rows])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xlim(min(0.4, *(row.auc.low for row in rows)) - 0.02, 1.0)
        axes.set_xlabel("AUC on real held-out patients, 95% interval")
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        return _svg(figure, "Forest plot of the AUC intervals in the table")


def _sizes_chart(sizes: Sequence[ImageSizes]) -> Markup:
    if not sizes:
        return Markup("")
    with matplotlib.rc_context(_STYLE):
        labels = list(dict.fromkeys(size.label for size in sizes))
        sources = list(dict.fromkeys(size.source for size in sizes))
        marks: dict[str, Line2D] = {}
        figure, panels = _panels(len(labels), height=3.8)
        sides = np.concatenate([side for size in sizes for side in (size.heights, size.widths)])
        limit = 1.05 * np.max(sides, initial=1)
        for axes, label in zip(panels, labels, strict=True):
            for size in (size for size in sizes if size.label == label):
                i = sources.index(size.source)
                [marks[size.source]] = axes.plot(
                    size.widths,
                    size.heights,
                    linestyle="none",
                    marker=_MARKERS[i % len(_MARKERS)],
                    markeredgecolor=_COLOURS[i % len(_COLOURS)],
                    markerfacecolor="none",
                    markersize=5,
                    alpha=0.7,
                    label=size.source,
                )
            axes.plot([0, limit], [0, limit], color=_INK, linewidth=0.6, linestyle=":")
            axes.set(
                title=label,
                xlabel="width (pixels)",
                ylabel="height (pixels)",
                xlim=(0, limit),
                ylim=(0, limit),
                aspect="equal",
            )
        panels[-1].legend(handles=list(marks.values()), loc="center left", bbox_to_anchor=(1, 0.5))
        return _svg(figure, "Height against width of the radiographs, one chart per class")
