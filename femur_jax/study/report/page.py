"""The study's results as one self-contained HTML page."""

import base64
import dataclasses
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from markupsafe import Markup
from PIL import Image

from femur_jax.evaluation.memorization import SEARCHED
from femur_jax.files import write_atomically
from femur_jax.study.report import figures, formats, words
from femur_jax.study.report.checklist import checklist
from femur_jax.study.report.contents import GreyImage, StudyResults
from femur_jax.templates import template_environment

_MOST_PIXELS = 3e7
"""Pixels at native size, in a page of about 30 MB; one radiograph of each kind is shown anyway."""


def write_report(results: StudyResults, path: Path) -> None:
    """Writes the report as one HTML file that refers to nothing outside itself."""
    environment = template_environment(Path(__file__).parent)
    environment.filters |= {
        "duration": formats.duration,
        "interval": formats.interval_text,
        "signed": formats.signed_text,
        "number": formats.number,
        "percent": formats.percent_text,
        "p": formats.p_text,
    }
    sides = _sides(results)
    nearest = [pair for worst in results.pairs for pair in worst.pairs]
    html = environment.get_template("report.html.j2").render(
        results=results,
        words=words,
        figures=figures,
        formats=formats,
        searched=SEARCHED,
        checklist=checklist(results),
        several=results.trainings[0] > 1,
        sides=sides,
        chosen=words.chosen(results).source,
        nearest=sorted(nearest, key=lambda pair: pair.ratio),
        labels=list(dict.fromkeys(gallery.label for gallery in results.galleries)),
        show=_Display.fitting([i for g in results.galleries for i in g.images], side=256),
        show_small=_Display.fitting([i for g in results.galleries for i in g.images], side=128),
        show_pair=_Display.fitting(
            [i for p in nearest for i in (p.synthetic, p.nearest)], side=128
        ),
        show_native=dataclasses.replace(
            _Display.fitting(
                [i for side in sides.values() for shown in side.values() for i in shown], side=256
            ),
            reduce=1,
        ),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, html)


def _sides(results: StudyResults) -> dict[str, dict[str, Sequence[GreyImage]]]:
    """The first real and synthetic radiographs by class and kind, as many as a page can hold.

    The synthetic ones are those of the generator that question 2 names.
    """
    kinds = {"real": results.galleries[0].source, "synthetic": words.chosen(results).source}
    images = {(gallery.label, gallery.source): gallery.images for gallery in results.galleries}
    sides = {
        label: {kind: images.get((label, source), ()) for kind, source in kinds.items()}
        for label in dict.fromkeys(gallery.label for gallery in results.galleries)
    }
    sides = {label: side for label, side in sides.items() if all(side.values())}
    pixels = sum(
        image.size for side in sides.values() for shown in side.values() for image in shown
    )
    share = min(1.0, _MOST_PIXELS / max(1, pixels))
    return {
        label: {kind: shown[: max(1, int(share * len(shown)))] for kind, shown in side.items()}
        for label, side in sides.items()
    }


@dataclass(frozen=True)
class _Display:
    """One integer scale for all images of a section, enlarged by `zoom` or reduced by `reduce`."""

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
        """An <img> element that embeds the upper 8 bits as PNG."""
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
