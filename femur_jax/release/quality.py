"""Whether a synthetic radiograph looks as real ones do, by what a ruler measures.

Radiographs are compared at the scale of the synthetic ones: a model may know small ones alone. Each
limit is one that a further real radiograph exceeds with a probability of 1%.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt16

from femur_jax.data.pyramid import shrink
from femur_jax.data.shards import RadiographDataset
from femur_jax.evaluation.descriptors import (
    grey_values,
    power_spectrum,
    shaft_widths,
    trace_shaft,
)
from femur_jax.evaluation.radiograph_set import RadiographSet
from femur_jax.evaluation.typical import Typical, greatest
from femur_jax.progress import Progress

Image = UInt16[np.ndarray, "_height _width"]

_OUTLINE_SIDE = 256  # longer side of the image that the outline is traced in, at most
_JUMP = 1 / 32  # of the width: the jump of an edge that counts as a break
_REFERENCES = 400  # real radiographs that are measured of each split, at most

_DESCRIPTORS: Mapping[str, Callable[[Image], np.ndarray]] = {
    "grey values": grey_values,
    "texture": power_spectrum,
    "width of the shaft": shaft_widths,
}
BROKEN, NO_BONE = "broken outline", "no bone"
REASONS = (NO_BONE, BROKEN, *(f"{name} outside those of real ones" for name in _DESCRIPTORS))
"""Reasons for a rejection, in the order in which they are tried."""


@dataclass(frozen=True)
class Quality:
    """What real radiographs are like.

    Attributes:
        side: Longest side in pixels at which radiographs are compared.
        contrast: Least contrast of the outline.
        breaks: Greatest share of rows in which the outline breaks.
        typical: Region of typical values by descriptor.
    """

    side: int
    contrast: float
    breaks: float
    typical: Mapping[str, Typical]

    @classmethod
    def of_real(cls, train: RadiographSet, held_out: RadiographSet, side: int) -> "Quality":
        """What two sets of real radiographs of different patients are like."""
        sets = [part.thinned(_REFERENCES).members for part in (train, held_out)]
        bar = Progress(desc="real radiographs", total=sum(map(len, sets)))
        outlines: list[tuple[float, float]] = []
        found: list[dict[str, list[np.ndarray]]] = []
        with bar:
            for members in sets:
                found.append({name: [] for name in _DESCRIPTORS})
                for dataset, n in members:
                    image = shrink(dataset.read(n), (side, side))
                    outlines.append(outline(image))
                    for name, describe in _DESCRIPTORS.items():
                        found[-1][name].append(describe(image))
                    bar.update()
        contrasts, breaks = zip(*outlines, strict=True)
        return cls(
            side=side,
            contrast=-greatest([-contrast for contrast in contrasts]),
            breaks=greatest(list(breaks)),
            typical={
                name: Typical.fitted(*(np.stack(part[name]) for part in found))
                for name in _DESCRIPTORS
            },
        )

    def reason(self, dataset: RadiographDataset, radiograph: int) -> str:
        """The first of REASONS for which a radiograph is rejected; "" where there is none."""
        image = shrink(dataset.read(radiograph), (self.side, self.side))
        contrast, breaks = outline(image)
        if contrast < self.contrast:
            return NO_BONE
        if breaks > self.breaks:
            return BROKEN
        for (name, typical), reason in zip(self.typical.items(), REASONS[2:], strict=True):
            if not typical.includes(_DESCRIPTORS[name](image)):
                return reason
        return ""


def outline(image: Image) -> tuple[float, float]:
    """Mean contrast of the femur's two edges, and the share of rows in which they break.

    Contrast is in standard deviations of the slopes nearby, see `Shaft.contrast`. It is 0 in an
    image that is too small for two edges.
    """
    step = -(-max(image.shape) // _OUTLINE_SIDE)
    thinned = np.ascontiguousarray(image[::step, ::step])
    if min(thinned.shape) < 8:
        return 0.0, 0.0
    shaft = trace_shaft(thinned)
    return float(shaft.contrast.mean()), shaft.breaks(max(2, round(_JUMP * thinned.shape[1])))
