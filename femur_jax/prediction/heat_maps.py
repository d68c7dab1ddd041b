"""Where a classifier looks: maps of what speaks for AFF and what against it.

Values are changes of the logit when detail is blurred away. Above zero a place speaks for an
atypical fracture, below zero against it. The maps explain the network's answer, right or wrong.

Blurred detail stays within what the network knows. Flat grey does not: at the beginning of a path
from flat grey, group normalisation enlarges any detail.
"""

import itertools
from collections.abc import Iterator
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from scipy.ndimage import gaussian_filter

from femur_jax.classifier.task import ClassifierTask, standardised
from femur_jax.data.letterbox import Letterbox
from femur_jax.models.functional import Params

WINDOW = 0.2
"""Side of a window, as a share of the radiograph's shorter side."""
_STEPS = 32
"""Points of the path along which gradients are averaged."""
_GREYS = 2
"""Channels of the network's input that show the radiograph; the last one is the mask."""

Map = Float[np.ndarray, "height width"]
Input = Float[np.ndarray, "1 height width channels"]


class HeatMaps:
    """Heat maps of one classifier.

    Each method takes a radiograph as the network sees it and returns a map over the radiograph's
    box in the letterbox, without the zeros around it.
    """

    def __init__(self, task: ClassifierTask, params: Params):
        """Prepares the maps of a classifier without further columns.

        Args:
            task: The trained classifier.
            params: Parameters of the classifier.
        """
        self._params = params
        self._batch_size = task.config.train.batch_size
        self._logits = jax.jit(partial(_logits, task))
        self._gradients = jax.jit(jax.grad(lambda x, p: _logits(task, p, x).sum()))

    def occlusion(self, radiograph: Letterbox) -> Map:
        """Mean fall of the logit over all blurred windows that cover a pixel.

        Windows overlap by half (Zeiler and Fergus 2014, arXiv 1311.2901, section 4.2, with grey
        squares in place of blurred ones).
        """
        plain, blurred = network_inputs(radiograph)
        windows = list(windows_of(radiograph))
        before = float(np.asarray(self._logits(self._params, plain))[0])
        falls, times = np.zeros(plain.shape[1:3]), np.zeros(plain.shape[1:3])
        for first in range(0, len(windows), self._batch_size):
            chosen = windows[first : first + self._batch_size]
            # All batches have one size, for which the network is compiled.
            is_hidden = np.zeros((self._batch_size, *plain.shape[1:3], 1), bool)
            for n, window in enumerate(chosen):
                is_hidden[n][window] = True
            images = np.where(is_hidden, blurred, plain)
            after = np.asarray(self._logits(self._params, images))[: len(chosen)]
            for window, logit in zip(chosen, after, strict=True):
                falls[window] += before - float(logit)
                times[window] += 1
        box = _box(radiograph)
        return falls[box] / times[box]

    def gradients(self, radiograph: Letterbox) -> Map:
        """Integrated gradients (Sundararajan, Taly and Yan 2017, arXiv 1703.01365, equation 1).

        The path leads from the blurred radiograph to the radiograph. The sum over the map is the
        difference of their logits, up to the error of the midpoint rule.
        """
        plain, blurred = network_inputs(radiograph)
        places = (np.arange(_STEPS, dtype=np.float32) + 0.5) / _STEPS
        size = min(self._batch_size, _STEPS)
        total = np.zeros(plain.shape[1:])
        for first in range(0, _STEPS, size):
            some = places[first : first + size]
            padded = np.pad(some, (0, size - len(some)))[:, None, None, None]
            path = blurred + padded * (plain - blurred)
            total += np.asarray(self._gradients(path, self._params))[: len(some)].sum(0)
        attributed = (total / _STEPS * (plain - blurred)[0]).sum(-1)
        return attributed[_box(radiograph)]


def smooth(heat: Map) -> Map:
    """A map of single pixels at the scale of a window, at which people can read it."""
    return gaussian_filter(heat, WINDOW * min(heat.shape) / 4)


def peak(heat: Map) -> tuple[float, float]:
    """Row and column of the middle of the pixel that changes the answer most, for or against."""
    row, column = np.unravel_index(np.abs(heat).argmax(), heat.shape)
    return float(row) + 0.5, float(column) + 0.5


def network_inputs(radiograph: Letterbox) -> tuple[Input, Input]:
    """What the network gets of a radiograph, and the same without detail smaller than a window."""
    pixels, box = jnp.asarray(radiograph["pixels"]), jnp.asarray(radiograph["box"])
    plain = np.asarray(jnp.concatenate(standardised(pixels[None], box[None]), axis=-1))
    blurred = plain.copy()
    inside = (0, *_box(radiograph))
    width = 0.5 * WINDOW * min(plain[inside].shape[:2])
    for channel in range(_GREYS):
        index = (*inside, channel)
        blurred[index] = gaussian_filter(plain[index], width, mode="nearest")
    return plain, blurred


def windows_of(radiograph: Letterbox) -> Iterator[tuple[slice, slice]]:
    """Square windows that overlap by half and cover the radiograph."""
    rows, columns = _box(radiograph)
    lengths = rows.stop - rows.start, columns.stop - columns.start
    side = min(max(2, round(WINDOW * min(lengths))), *lengths)
    for y, x in itertools.product(
        *(
            sorted({*range(part.start, part.stop - side, max(side // 2, 1)), part.stop - side})
            for part in (rows, columns)
        )
    ):
        yield slice(y, y + side), slice(x, x + side)


def _logits(
    task: ClassifierTask, params: Params, images: Float[Array, "batch height width channels"]
) -> Float[Array, " batch"]:
    return task.model.apply(params, images)[0]


def _box(radiograph: Letterbox) -> tuple[slice, slice]:
    top, left, height, width = (int(v) for v in radiograph["box"])
    return slice(top, top + height), slice(left, left + width)
