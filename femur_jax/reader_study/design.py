"""Settings and radiographs of a reader study, and the order in which a reader sees them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from femur_jax.data.cohort import seeded_hash
from femur_jax.errors import UserError

REAL_SOURCE = "real"
"""The source of a case that shows a patient's radiograph."""

BLOCKS = ("display", "practice", "single", "pair", "selection")
"""Blocks of a session in their order: the display check, single radiographs for practice, single
radiographs that are scored, pairs of a real and a synthetic one (2AFC), and synthetic radiographs
to accept or reject for a release, which no study holds in addition to others."""


@dataclass(frozen=True)
class Design:
    """Settings of a study, fixed before it starts.

    Attributes:
        seed: Seed of the choice of radiographs and of every random order.
        single: Number of radiographs read one at a time. Half are real and half synthetic; half
            show AFF and half NFF.
        repeats: Share of the single radiographs that appear a second time, unannounced.
        pairs: Number of pairs of a real and a synthetic radiograph of the same class. They do not
            appear in other blocks.
        practice: Number of practice radiographs, shown one at a time and not scored.
        margin: Equivalence margin. Readers count as unable to distinguish synthetic from real
            radiographs if their AUC, or their share of correct pairs, is shown to lie within
            0.5 +- margin.
    """

    seed: int = 0
    single: int = 200
    repeats: float = 0.12
    pairs: int = 100
    practice: int = 8
    margin: float = 0.1

    def __post_init__(self):
        """Raises:
        UserError: A count cannot be balanced or a value is out of range.
        """
        for name, multiple, least in (("single", 4, 4), ("pairs", 2, 0), ("practice", 4, 0)):
            count = getattr(self, name)
            if count < least or count % multiple:
                raise UserError(
                    f"--{name} is {count}; give a multiple of {multiple} that is at least {least}, "
                    "so that sources and classes are balanced."
                )
        # Repeats come from the first third of the block, so their share is below a third.
        if not 0 <= self.repeats <= 0.3:
            raise UserError(f"--repeats is {self.repeats}; give a share between 0 and 0.3.")
        if not 0 < self.margin < 0.5:
            raise UserError(f"--margin is {self.margin}; give a number between 0 and 0.5.")

    def pairs_per_class(self) -> dict[str, int]:
        """Returns the number of matched pairs of each class that each block needs."""
        return {"practice": self.practice // 4, "single": self.single // 4, "pair": self.pairs // 2}


@dataclass(frozen=True)
class Case:
    """One radiograph of a study and the truth about it.

    Attributes:
        image: Name of the image file, without its suffix.
        pair: Number of the matched pair: a real and a synthetic radiograph of equal class and size.
        block: Block of the session, one of BLOCKS.
        source: REAL_SOURCE, or the name of the generator.
        label: Class, one of LABELS; the requested class for a synthetic radiograph.
        radiograph: Name of the radiograph in its dataset.
    """

    image: str
    pair: int
    block: str
    source: str
    label: str
    radiograph: str


@dataclass(frozen=True)
class Item:
    """One page of a session: its block and its radiographs from left to right."""

    block: str
    images: tuple[str, ...] = ()


def schedule(design: Design, cases: Sequence[Case], reader: str) -> list[Item]:
    """Returns a reader's session, which depends on the seed and the reader alone.

    Repeats come from the first third of the single radiographs and appear in the last third, so at
    least a third of the block lies between both readings. In half of the pairs the real radiograph
    is on the left.
    """
    rng = np.random.default_rng(int(seeded_hash(design.seed, f"reader {reader}")[:16], 16))

    def shuffled(items: list[str]) -> list[str]:
        return [items[n] for n in rng.permutation(len(items)).tolist()]

    images = {block: [c.image for c in cases if c.block == block] for block in BLOCKS}
    practice, single = shuffled(images["practice"]), shuffled(images["single"])
    third = len(single) // 3
    repeated = shuffled(single[:third])[: round(design.repeats * len(single))]
    single = single[:-third] + shuffled(single[-third:] + repeated) if third else single
    sides: dict[int, list[str]] = {}
    for case in sorted(cases, key=lambda case: case.source != REAL_SOURCE):
        if case.block == "pair":
            sides.setdefault(case.pair, []).append(case.image)
    order = rng.permutation(sorted(sides)).tolist()
    pairs = [tuple(sides[pair][:: 1 if n % 2 else -1]) for n, pair in enumerate(order)]
    return [
        Item("display"),
        *(Item("practice", (image,)) for image in practice),
        *(Item("single", (image,)) for image in single),
        *(Item("pair", pairs[n]) for n in rng.permutation(len(pairs))),
        *(Item("selection", (image,)) for image in images["selection"]),
    ]
