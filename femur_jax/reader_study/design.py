"""What a reader study consists of, and in which order a reader sees it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from femur_jax.data.cohort import seeded_hash
from femur_jax.errors import UserError

REAL = "real"
"""The source of a case that is a patient's radiograph."""

BLOCKS = ("display", "practice", "single", "pair")
"""The parts of a session in their order: the check of the display, radiographs one at a time for
practice and for the score, and pairs of a real and a synthetic one (2AFC)."""


@dataclass(frozen=True)
class Design:
    """Settings of a study, fixed before it begins.

    Attributes:
        seed: Of the choice of radiographs and of every order.
        single: Radiographs read one at a time, half real, half synthetic, half AFF, half NFF.
        repeats: Share of these that come a second time, unannounced.
        pairs: Pairs of a real and a synthetic radiograph of one class, all different from the
            ones before.
        practice: Radiographs to practise with, one at a time, which are not scored.
        margin: Equivalence margin: readers count as unable to tell synthetic from real if
            accuracy is shown to lie within 0.5 +- margin.
    """

    seed: int = 0
    single: int = 200
    repeats: float = 0.12
    pairs: int = 50
    practice: int = 8
    margin: float = 0.1

    def __post_init__(self):
        """Raises:
        UserError: A number cannot be balanced, or is out of range.
        """
        for name, multiple, least in (("single", 4, 4), ("pairs", 2, 0), ("practice", 4, 0)):
            count = getattr(self, name)
            if count < least or count % multiple:
                raise UserError(
                    f"--{name} is {count}; give a multiple of {multiple}, {least} or more, so that "
                    "sources and classes are balanced."
                )
        # Repeats are of the first third and come in the last one.
        if not 0 <= self.repeats <= 0.3:
            raise UserError(f"--repeats is {self.repeats}; give a share from 0 to 0.3.")
        if not 0 < self.margin < 0.5:
            raise UserError(f"--margin is {self.margin}; give a number between 0 and 0.5.")

    def pairs_per_class(self) -> dict[str, int]:
        """Matched pairs of a real and a synthetic radiograph that each block takes."""
        return {"practice": self.practice // 4, "single": self.single // 4, "pair": self.pairs // 2}


@dataclass(frozen=True)
class Case:
    """One radiograph of a study and the truth about it.

    Attributes:
        image: Name of its file.
        pair: Number of its matched pair, a real and a synthetic one of equal class and size.
        block: One of BLOCKS.
        source: REAL, or what made it.
        label: One of LABELS; what a synthetic one was meant to show.
        radiograph: Its name in the dataset that it came from.
    """

    image: str
    pair: int
    block: str
    source: str
    label: str
    radiograph: str


@dataclass(frozen=True)
class Item:
    """One page of a session: the block and the radiographs shown, from left to right."""

    block: str
    images: tuple[str, ...] = ()


def schedule(design: Design, cases: Sequence[Case], reader: str) -> list[Item]:
    """A reader's session: the same for the same seed and reader, and for no other.

    Repeats are of the first third of the single radiographs and fall into the last third, so that
    at least a third of the block lies between. In half of the pairs the real one is on the left.
    """
    rng = np.random.default_rng(int(seeded_hash(design.seed, f"reader {reader}")[:16], 16))

    def shuffled(items: list[str]) -> list[str]:
        return [items[n] for n in rng.permutation(len(items)).tolist()]

    images = {block: [c.image for c in cases if c.block == block] for block in BLOCKS}
    practice, single = shuffled(images["practice"]), shuffled(images["single"])
    third = len(single) // 3
    again = shuffled(single[:third])[: round(design.repeats * len(single))]
    single = single[:-third] + shuffled(single[-third:] + again) if third else single
    sides: dict[int, list[str]] = {}
    for case in sorted(cases, key=lambda case: case.source != REAL):
        if case.block == "pair":
            sides.setdefault(case.pair, []).append(case.image)
    order = rng.permutation(sorted(sides)).tolist()
    pairs = [tuple(sides[pair][:: 1 if n % 2 else -1]) for n, pair in enumerate(order)]
    return [
        Item("display"),
        *(Item("practice", (image,)) for image in practice),
        *(Item("single", (image,)) for image in single),
        *(Item("pair", pairs[n]) for n in rng.permutation(len(pairs))),
    ]
