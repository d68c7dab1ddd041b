"""The report's charts, as SVG that takes its ink from the page.

Colours are Okabe and Ito's, which can be distinguished with any colour vision; each source has a
marker or a line style as well.
"""

import functools
import io
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from femur_jax.evaluation.statistics import Interval
from femur_jax.study.report.contents import ClassifierRow, ContrastRow, Curve, ImageSizes

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


def _chart(draw: Callable[..., Figure]) -> Callable[..., Markup]:
    """Decorates a function that draws its first argument, to return an <svg>, or "" for no rows.

    The first line of its docstring describes the chart to those who do not see it.
    """
    description = (draw.__doc__ or "").splitlines()[0]

    @functools.wraps(draw)
    def chart(shown: Sequence[Any], *args: Any) -> Markup:
        if not shown:
            return Markup("")
        with matplotlib.rc_context(_STYLE):
            return _svg(draw(shown, *args), description)

    return chart


def _panels(n: int, height: float, **options: Any) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(10 if n > 1 else 6.4, height), layout="constrained")
    return figure, list(figure.subplots(1, n, squeeze=False, **options)[0])


def _picture() -> tuple[Figure, Axes]:
    """A small chart for the first screen."""
    figure = Figure(figsize=(3.3, 1.75), layout="constrained")
    return figure, figure.subplots()


def _svg(figure: Figure, description: str) -> Markup:
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


@_chart
def curves_chart(curves: Sequence[Curve]) -> Figure:
    """Training curves: losses against optimizer steps, one chart for each kind of model."""
    names = list(dict.fromkeys(curve.panel for curve in curves))
    longest = max(sum(curve.panel == name for curve in curves) for name in names)
    figure, panels = _panels(len(names), 2.8 + 0.2 * longest)
    for axes, name in zip(panels, names, strict=True):
        for i, curve in enumerate(curve for curve in curves if curve.panel == name):
            axes.plot(
                curve.steps,
                curve.values,
                label=curve.name,
                color=_COLOURS[i % len(_COLOURS)],
                linestyle=_DASHES[(i + i // len(_COLOURS)) % len(_DASHES)],
                linewidth=1.3,
            )
        axes.set(xlabel="optimizer step", ylabel=f"loss, {name}")
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.legend(loc="lower left", bbox_to_anchor=(-0.15, 1), fontsize="small")
    return figure


@_chart
def forest_chart(
    rows: Sequence[ClassifierRow], published: Mapping[str, Mapping[str, float]]
) -> Figure:
    """Forest plot of the AUC and sensitivity intervals in the table, with published marks."""
    figure, [left, right] = _panels(2, 1.6 + 0.36 * len(rows) + 0.2 * len(published), sharey=True)
    panels = (
        (left, "auc", "AUC on real held-out patients", [row.auc.mean for row in rows]),
        (
            right,
            "sensitivity",
            "sensitivity at the validation patients’ threshold",
            [row.operating and row.operating.sensitivity for row in rows],
        ),
    )
    for axes, mark, label, intervals in panels:
        _intervals(axes, intervals)
        for i, (name, values) in enumerate(published.items(), 1):
            axes.axvline(
                values[mark],
                color=_COLOURS[i % len(_COLOURS)],
                linestyle=_DASHES[i % len(_DASHES)],
                linewidth=1,
                label=f"{name}: {values[mark]:.3f}",
            )
        if published:
            axes.legend(
                title="published, of other patients",
                title_fontsize="small",
                alignment="left",
                loc="lower left",
                bbox_to_anchor=(0, 1.04),
                fontsize="small",
            )
        axes.set_xlabel(f"{label},\n95% interval")
    for y, row in enumerate(rows):
        if len(row.auc.auc) > 1:
            left.plot(
                row.auc.auc, [y] * len(row.auc.auc), "|", color=_COLOURS[1], markersize=11, zorder=3
            )
    left.axvline(0.5, color=_INK, linewidth=0.8, linestyle=":")
    left.set_yticks(range(len(rows)), [row.trained_on for row in rows])
    left.set_ylim(len(rows) - 0.5, -0.5)
    left.set_xlim(min(0.4, *(row.auc.mean.low for row in rows)) - 0.02, 1.01)
    right.set_xlim(-0.02, 1.02)
    return figure


def _intervals(axes: Axes, intervals: Sequence[Interval | None]) -> None:
    for y, interval in enumerate(intervals):
        if interval is None:
            continue
        axes.hlines(y, interval.low, interval.high, color=_COLOURS[0], linewidth=2)
        axes.plot(interval.value, y, "s", color=_COLOURS[0], markersize=6, clip_on=False)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)


@_chart
def sizes_curves(rows: Sequence[ClassifierRow]) -> Figure:
    """AUC against the number of radiographs: of one kind, and synthetic ones added to real ones."""
    figure, [left, right] = _panels(2, 3.8, sharey=True)
    left.set(xlabel="training radiographs, of one kind", ylabel="AUC on real held-out patients")
    right.set(xlabel="synthetic radiographs, added to all real ones")
    real, sources = rows[0], list(dict.fromkeys(row.source for row in rows))
    for i, source in enumerate(sources):
        style: dict[str, Any] = {
            "color": _COLOURS[i % len(_COLOURS)],
            "marker": _MARKERS[i % len(_MARKERS)],
            "markersize": 5,
            "linewidth": 1.3,
            "elinewidth": 0.8,
        }
        of_source = [row for row in rows if row.source == source]
        alone = [row for row in of_source if row.is_synthetic or not source]
        _curve(left, [(row.n_train, row) for row in alone], label=source or "real", **style)
        if source:
            both = [(row.n_synthetic, row) for row in of_source if row.is_both]
            _curve(right, [(0, real), *both], **style)
    figure.legend(loc="outside lower center", ncols=3)
    return figure


def _curve(axes: Axes, points: Sequence[tuple[int, ClassifierRow]], **style: Any) -> None:
    points = sorted(points, key=lambda point: point[0])
    means = [row.auc.mean for _, row in points]
    axes.errorbar(
        [n for n, _ in points],
        [mean.value for mean in means],
        yerr=[[m.value - m.low for m in means], [m.high - m.value for m in means]],
        **style,
    )


@_chart
def contrast_chart(rows: Sequence[ContrastRow]) -> Figure:
    """Differences of AUC with their intervals; the first one is better to the right of zero."""
    figure, [axes] = _panels(1, 1.0 + 0.42 * len(rows))
    _differences(axes, rows)
    names = [(f"{r.where}:\n" if r.where else "") + f"{r.first} minus {r.second}" for r in rows]
    axes.set_yticks(range(len(rows)), names)
    axes.set_xlabel("difference of AUC on the same patients, 95% interval")
    return figure


def _differences(axes: Axes, rows: Sequence[ContrastRow]) -> None:
    _intervals(axes, [row.auc.difference for row in rows])
    axes.axvline(0, color=_INK, linewidth=0.8, linestyle=":")
    axes.set_ylim(len(rows) - 0.5, -0.5)
    ends = [abs(end) for r in rows for end in (r.auc.difference.low, r.auc.difference.high)]
    limit = float(np.nanmax([0.1, *ends])) * 1.1
    axes.set_xlim(-limit, limit)


@_chart
def auc_picture(rows: Sequence[tuple[str, ClassifierRow]]) -> Figure:
    """AUC on real held-out patients by training radiographs, with 95% intervals."""
    figure, axes = _picture()
    _intervals(axes, [row.auc.mean for _, row in rows])
    axes.axvline(0.5, color=_INK, linewidth=0.8, linestyle=":")
    axes.set_yticks(range(len(rows)), [name for name, _ in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlim(min(0.4, *(row.auc.mean.low for _, row in rows)) - 0.02, 1.01)
    axes.set_xticks([0.5, 1.0], ["0.5, a coin", "1, perfect"])
    axes.set_xlabel("AUC on real patients", fontsize="small")
    return figure


@_chart
def difference_picture(rows: Sequence[ContrastRow]) -> Figure:
    """Differences of AUC with 95% intervals; the first one is better to the right of zero."""
    figure, axes = _picture()
    _differences(axes, rows)
    axes.set_yticks(range(len(rows)), [f"{r.first}\n− {r.second}" for r in rows], fontsize="small")
    axes.set_xlabel("difference of AUC", fontsize="small")
    return figure


@_chart
def sizes_picture(sizes: Sequence[ImageSizes]) -> Figure:
    """Sizes of real and synthetic radiographs: height against width, in pixels."""
    figure, axes = _picture()
    real = sizes[0].source
    for i, name in enumerate(("real", "synthetic")):
        shown = [size for size in sizes if (size.source == real) == (name == "real")]
        widths, heights = (
            [getattr(size, side) for size in shown] for side in ("widths", "heights")
        )
        style: dict[str, Any] = {"marker": _MARKERS[i], "markersize": 3, "linestyle": "none"}
        axes.plot(*map(np.hstack, (widths, heights)), color=_COLOURS[i], label=name, **style)
    axes.set(xlabel="width (pixels)", ylabel="height", xlim=(0, None), ylim=(0, None))
    figure.legend(loc="outside right upper", fontsize="small", handletextpad=0)
    return figure


@_chart
def reliability_chart(rows: Sequence[ClassifierRow]) -> Figure:
    """Reliability diagrams: share of patients with AFF against the predicted probability."""
    columns = min(len(rows), 4)
    lines = -(-len(rows) // columns)
    figure = Figure(figsize=(2.5 * columns, 2.9 * lines), layout="constrained")
    grid = figure.subplots(lines, columns, squeeze=False, sharey=True)
    for axes, row in zip(grid.flat, rows, strict=False):
        axes.plot([0, 1], [0, 1], color=_INK, linewidth=0.6, linestyle=":")
        for b in row.reliability:
            axes.vlines(b.predicted, b.low, b.high, color=_COLOURS[0], linewidth=1.3)
            axes.plot(b.predicted, b.observed, "o", color=_COLOURS[0], markersize=4)
        title = row.trained_on.replace(" + ", " +\n", 1).replace(", then", ",\nthen")
        axes.set_title(title, fontsize="small")
        axes.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), aspect="equal")
    for axes in grid.flat[len(rows) :]:
        axes.set_axis_off()
    figure.supxlabel("predicted probability of AFF", fontsize="medium")
    figure.supylabel("share with AFF", fontsize="medium")
    return figure


@_chart
def sizes_chart(sizes: Sequence[ImageSizes]) -> Figure:
    """Height against width of the radiographs, one chart per class."""
    labels = list(dict.fromkeys(size.label for size in sizes))
    sources = list(dict.fromkeys(size.source for size in sizes))
    marks: dict[str, Line2D] = {}
    figure, panels = _panels(len(labels), 3.8)
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
                markeredgecolor=_COLOURS[(i + i // len(_MARKERS)) % len(_COLOURS)],
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
    figure.legend(handles=list(marks.values()), loc="outside lower center", ncols=3)
    return figure
