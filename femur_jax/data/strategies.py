"""Strategies of a patch model for radiographs of very different sizes.

pyramid: all levels of a radiograph, in patches; the model generates radiographs of any size.
patch_diffusion: the coarsest level alone, whole and in smaller patches (Wang et al. 2023, arXiv
    2304.12526).
letterbox: the whole radiograph, reduced to fit one patch.
"""

import grain
import numpy as np
from ml_collections import ConfigDict

from femur_jax.data.letterbox import letterbox
from femur_jax.data.loader import Patch, Pool, Stream, cut_patch, random_origin, random_patches
from femur_jax.data.pyramid import fitted_size, level_sizes
from femur_jax.data.shards import RadiographDataset
from femur_jax.errors import UserError

STRATEGIES = ("pyramid", "patch_diffusion", "letterbox")


def check(config: ConfigDict) -> None:
    """Checks the strategy of `config.data`.

    Raises:
        UserError: The strategy is unknown.
    """
    if config.strategy not in STRATEGIES:
        raise UserError(
            f"config.data.strategy is {config.strategy!r}; write one of {', '.join(STRATEGIES)}."
        )


def known_sizes(strategy: str, height: int, width: int, patch: int) -> list[tuple[int, int]]:
    """Height and width of each level that a model generates of a radiograph, coarsest first.

    Args:
        strategy: One of STRATEGIES.
        height: Height of the radiograph at its native size.
        width: Width of the radiograph at its native size.
        patch: Side of a patch.
    """
    if strategy == "letterbox":
        return [fitted_size((height, width), (patch, patch))]
    sizes = level_sizes(height, width, patch)
    return sizes if strategy == "pyramid" else sizes[:1]


def patch_sides(config: ConfigDict, patch: int) -> dict[int, float]:
    """Sides of the patches, with the share of each.

    Args:
        config: `config.data`, with `strategy` and, for patch_diffusion, `patch_shares`: shares of
            patches of the whole side, half of it, a quarter of it, and so on.
        patch: Side of the dataset's tiles.
    """
    if config.strategy != "patch_diffusion":
        return {patch: 1.0}
    return {patch >> n: share for n, share in enumerate(config.patch_shares) if share > 0}


def patch_streams(pool: Pool, config: ConfigDict, *, seed: int) -> list[Stream]:
    """The endless streams of `Patch` that a model trains on, one for each side of a patch.

    Args:
        pool: Radiographs to draw from.
        config: `config.data`, with `strategy`, `mirror`, and the fields that the strategy needs.
        seed: Seed of the random draws.

    Raises:
        UserError: The strategy is unknown, or a radiograph has no level with a weight above 0.
    """
    check(config)
    if config.strategy == "pyramid":
        return random_patches(
            pool,
            level_weights=config.level_weights,
            seed=seed,
            mirror=config.mirror,
        )
    if config.strategy == "letterbox":

        def whole(position: int, rng: np.random.Generator) -> Patch:
            mirrored = config.mirror and bool(rng.integers(2))
            return letterboxed_patch(*pool.radiographs[position], mirrored=mirrored)

        return [Stream(pool.positions(seed=seed).seed(seed).random_map(whole))]
    sides = patch_sides(config, pool.radiographs[0][0].patch)
    return [
        Stream(_squares_of_the_coarsest(pool, side, config.mirror, seed + n), share)
        for n, (side, share) in enumerate(sides.items())
    ]


def _squares_of_the_coarsest(pool: Pool, side: int, mirror: bool, seed: int) -> grain.MapDataset:
    def square(position: int, rng: np.random.Generator) -> Patch:
        dataset, radiograph = pool.radiographs[position]
        origin = random_origin(rng, dataset.level_sizes(radiograph)[0], side)
        mirrored = mirror and bool(rng.integers(2))
        return cut_patch(dataset, radiograph, 0, origin, side=side, mirrored=mirrored)

    return pool.positions(seed=seed).seed(seed).random_map(square)


def letterboxed_patch(
    dataset: RadiographDataset, radiograph: int, *, mirrored: bool = False
) -> Patch:
    """A whole radiograph, reduced to fit a patch, in the form of a coarsest level.

    It lies in the patch's first rows and columns, like sampling's canvas, and not in the centre;
    the mask and the coordinates state its position.
    """
    patch = dataset.patch
    boxed = letterbox(dataset, radiograph, (patch, patch))
    top, left, height, width = boxed["box"]
    image = boxed["pixels"][top : top + height, left : left + width]
    if mirrored:
        image = image[:, ::-1]
    entry = dataset.entries[radiograph]
    return Patch(
        pixels=np.pad(image, ((0, patch - height), (0, patch - width)), mode="edge"),
        context=np.zeros((patch, patch, 1), np.uint16),
        origin=np.zeros(2, np.int32),
        level_size=np.array((height, width), np.int32),
        size=np.array((entry.height, entry.width), np.int32),
        level=np.int32(0),
        label=boxed["label"],
        spacing_mm=np.float32(entry.spacing_mm),
        mirrored=np.int32(mirrored),
    )
