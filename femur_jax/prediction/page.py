"""The answers as HTML pages: each film with its heat maps, in pages that refer to nothing outside.

Films have numbers; only the table next to the pages says which file each is.
"""

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8, UInt16
from PIL import Image

from femur_jax.data.pyramid import shrink
from femur_jax.ingest.rejection import REASONS
from femur_jax.prediction.basis import Basis
from femur_jax.prediction.familiarity import REMARKS
from femur_jax.progress import Progress
from femur_jax.templates import template_environment

PER_PAGE = 50
_SIDE = 384  # longest side of a picture in pixels
_FOR, _AGAINST = (230, 120, 20), (40, 130, 230)  # colours of what speaks for AFF, and against it
_OPACITY = 0.6


@dataclass(frozen=True)
class Answer:
    """A classifier's answer on a film.

    Attributes:
        patient: Number of the patient, None where unknown.
        logit: Logit of AFF.
        probability: Calibrated probability of AFF by this film alone.
        of_patient: The probability by all films of the patient, None where unknown.
        unlike: Codes of `familiarity.REMARKS` that hold for the film.
    """

    patient: int | None
    logit: float
    probability: float
    of_patient: float | None
    unlike: Sequence[str]


@dataclass(frozen=True)
class Pictures:
    """JPEG files in base64: a film, and the film under its heat maps.

    Attributes:
        film: The film itself.
        occlusion: The film with the map of blurred windows.
        gradients: The film with the map of integrated gradients.
        greatest: Greatest change of the logit by a blurred window.
    """

    film: str
    occlusion: str
    gradients: str
    greatest: float


def page_name(page: int) -> str:
    """Name of a page's file, counted from 1."""
    return "predictions.html" if page == 1 else f"predictions_{page}.html"


def write_pages(
    folder: Path,
    basis: Basis,
    answers: Mapping[int, Answer],
    pictures: Callable[[int], Pictures],
    *,
    refused: Mapping[int, str],
    are_hospitals_known: bool,
) -> None:
    """Writes the pages, which show patients' radiographs.

    Args:
        folder: Folder of the pages.
        basis: Basis of the answers.
        answers: Answers by the numbers of the films.
        pictures: Function that draws the film of a position in `answers`.
        refused: Codes of the other files by their numbers.
        are_hospitals_known: Whether each film's hospital was compared with those of the training.
    """
    template = template_environment(Path(__file__).parent).get_template("predictions.html.j2")
    bar = Progress(desc="heat maps", total=len(answers), unit="film")
    films = list(answers.items())
    starts = range(0, len(films), PER_PAGE)
    with bar:
        for page, first in enumerate(starts, start=1):
            shown = []
            for n in range(first, min(first + PER_PAGE, len(films))):
                shown.append((*films[n], pictures(n)))
                bar.update()
            html = template.render(
                basis=basis,
                films=shown,
                total=len(films),
                unlike=sum(bool(answer.unlike) for answer in answers.values()),
                refused=[(number, code, REASONS[code].hint) for number, code in refused.items()],
                are_hospitals_known=are_hospitals_known,
                remarks=REMARKS,
                page=page,
                pages=[page_name(n) for n in range(1, len(starts) + 1)],
            )
            (folder / page_name(page)).write_text(html, encoding="utf-8")


def film_jpeg(pixels: UInt16[np.ndarray, "height width"]) -> str:
    """A film at most 384 pixels wide and high."""
    return _jpeg(_grey(pixels))


def overlay_jpeg(
    pixels: UInt16[np.ndarray, "height width"], heat: Float[np.ndarray, "rows columns"]
) -> str:
    """The film under a heat map: orange speaks for AFF, blue against it.

    The strongest pixel of each map has the full colour.
    """
    grey = _grey(pixels)
    height, width = grey.shape
    image = Image.fromarray(heat.astype(np.float32))
    fine = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))
    opacity = _OPACITY * np.abs(fine)[..., None] / (np.abs(fine).max() or 1.0)
    colour = np.where(fine[..., None] > 0, _FOR, _AGAINST)
    mixed = (1 - opacity) * grey[..., None] + opacity * colour
    return _jpeg(np.round(mixed).astype(np.uint8))


def _grey(pixels: UInt16[np.ndarray, "height width"]) -> UInt8[np.ndarray, "_ _"]:
    return (shrink(pixels, (_SIDE, _SIDE)) >> 8).astype(np.uint8)


def _jpeg(pixels: UInt8[np.ndarray, "height width ..."]) -> str:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=85)
    return base64.b64encode(file.getvalue()).decode()
