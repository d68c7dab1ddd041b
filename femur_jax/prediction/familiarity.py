"""Whether a film is like those that a classifier was trained on; on others its answer is a guess.

A film may be unlike in its size, its shape, its grey values with their texture, and its hospital.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from femur_jax.data.letterbox import Letterbox
from femur_jax.data.radiograph import Box
from femur_jax.data.records import RadiographEntry
from femur_jax.evaluation.descriptors import grey_values, power_spectrum
from femur_jax.evaluation.typical import Typical

REMARKS = {
    "size": "It is smaller or larger than all training radiographs.",
    "shape": "It is narrower or wider than all training radiographs.",
    "picture": "Its grey values or their texture are unlike those of training radiographs.",
    "polarity": "Black and white may be exchanged in it.",
    "hospital": "It comes from a hospital that sent no radiograph for training.",
}
"""Warnings by their codes."""


@dataclass(frozen=True)
class Familiar:
    """What the training radiographs of a classifier are like.

    Attributes:
        megapixels: Smallest and greatest size.
        aspect: Smallest and greatest ratio of width and height.
        pictures: Region of typical values of `picture`.
        hospitals: Pseudonyms of the hospitals.
    """

    megapixels: tuple[float, float]
    aspect: tuple[float, float]
    pictures: Typical
    hospitals: list[str]

    @classmethod
    def with_training(
        cls,
        entries: Sequence[RadiographEntry],
        pictures: Float[np.ndarray, "n dim"],
        validation: Float[np.ndarray, "m dim"],
    ) -> "Familiar":
        """Facts about training radiographs.

        Args:
            entries: Entries of the training radiographs.
            pictures: `picture` of each.
            validation: `picture` of radiographs of other patients, which set the limit.
        """
        sizes = [entry.height * entry.width / 1e6 for entry in entries]
        aspects = [entry.width / entry.height for entry in entries]
        return cls(
            megapixels=(min(sizes), max(sizes)),
            aspect=(min(aspects), max(aspects)),
            pictures=Typical.fitted(pictures, validation),
            hospitals=sorted({entry.hospital for entry in entries if entry.hospital}),
        )

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> "Familiar":
        """Restores what `dataclasses.asdict` gave."""
        parts: dict[str, Any] = {"pictures": Typical(**fields["pictures"])}
        parts |= {name: tuple(fields[name]) for name in ("megapixels", "aspect")}
        return cls(**fields | parts)

    def remarks(self, entry: RadiographEntry, one: Float[np.ndarray, " dim"]) -> list[str]:
        """Codes of REMARKS that hold for a film, without those of hospital and polarity."""
        found = []
        if not self.megapixels[0] <= entry.height * entry.width / 1e6 <= self.megapixels[1]:
            found.append("size")
        if not self.aspect[0] <= entry.width / entry.height <= self.aspect[1]:
            found.append("shape")
        if not self.pictures.includes(one):
            found.append("picture")
        return found


def picture(radiograph: Letterbox) -> Float[np.ndarray, " dim"]:
    """Quantiles of the grey values and the power spectrum of what the network sees."""
    seen = radiograph["pixels"][Box(*(int(v) for v in radiograph["box"])).slices]
    return np.concatenate([grey_values(seen), power_spectrum(seen)])
