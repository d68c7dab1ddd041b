"""Radiographs as vectors and pictures of one size, for distances and nearest neighbours."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Float32, Int, UInt16
from PIL import Image
from tqdm import tqdm

from femur_jax.data.letterbox import letterbox, paste_centred
from femur_jax.data.pyramid import shrink
from femur_jax.data.shards import RadiographDataset
from femur_jax.errors import UserError
from femur_jax.models import dinov2, inception
from femur_jax.models.functional import Params, functional
from femur_jax.models.torch_file import read_weights

THUMBNAIL_SIDE = 48
"""Pixels; enough for a radiograph to be told from all others, see `correlation`."""

_PARTS = 3
_PART_SIDE = 40  # three of them reach from top to bottom of 64 to 128 pixels
_LONGEST = 128  # pixels of the level that parts are cut from


@dataclass(frozen=True)
class Extractor:
    """Makes features of square pictures.

    Attributes:
        name: For people.
        side: Of the pictures, in pixels.
        extract: Grey values in [0, 1], (n, side, side), to features, (n, dim); to be compiled.
    """

    name: str
    side: int
    extract: Callable[[Float[Array, "n side side"]], Float[Array, "n dim"]]


def pixels(side: int) -> Extractor:
    """The grey values themselves, row by row."""
    return Extractor(
        f"pixels {side} x {side}", side, lambda images: images.reshape(len(images), -1)
    )


def network(weights: Path) -> Extractor:
    """Inception-v3 or DINOv2, whichever a file of published weights is of.

    Both see grey values as three equal colours. The files are those that pytorch-fid or
    torch-fidelity, and DINOv2's authors, publish; see `models.torch_file` for the formats.

    Raises:
        UserError: The file cannot be read, is of another network, or lacks a tensor.
    """
    found = read_weights(weights)
    if "Conv2d_1a_3x3.conv.weight" in found:
        return _of_network(
            "Inception-v3, trained on ImageNet",
            inception.SIDE,
            inception.Inception,
            inception.inception_params(found),
            lambda colours: 2 * colours - 1,
        )
    if "patch_embed.proj.weight" in found:
        width, depth = dinov2.dinov2_size(found)
        return _of_network(
            f"DINOv2 of width {width}",
            dinov2.SIDE,
            lambda rngs: dinov2.DINOv2(width, depth, rngs=rngs),
            dinov2.dinov2_params(found),
            lambda colours: colours,
        )
    raise UserError(
        f"{weights} holds the weights of neither Inception-v3 (of pytorch-fid) nor DINOv2; give "
        "a file such as pt_inception-2015-12-05-6726825d.pth or dinov2_vits14_pretrain.pth."
    )


def _of_network(
    name: str,
    side: int,
    build: Callable[[nnx.Rngs], nnx.Module],
    params: Params,
    scaled: Callable[[Array], Array],
) -> Extractor:
    params = jax.tree.map(jnp.asarray, params)
    apply = functional(build).apply

    def extract(images: Float[Array, "n side side"]) -> Float[Array, "n dim"]:
        return apply(params, scaled(jnp.repeat(images[..., None], 3, axis=-1)))

    return Extractor(name, side, extract)


def radiograph_features(
    extractor: Extractor, dataset: RadiographDataset, radiographs: Sequence[int]
) -> Float32[np.ndarray, "n dim"]:
    """Features of whole radiographs, letterboxed and never enlarged."""
    shape = (extractor.side, extractor.side)
    shown = tqdm(radiographs, extractor.name, disable=None, leave=False)
    return extract_features(extractor, (letterbox(dataset, n, shape)["pixels"] for n in shown))


def patch_features(
    extractor: Extractor,
    dataset: RadiographDataset,
    radiographs: Sequence[int],
    *,
    each: int = 4,
    seed: int = 0,
) -> Float32[np.ndarray, "n dim"]:
    """Features of patches at native scale, for what shrinking whole radiographs would hide.

    A distance between sets of them is a patch FID (Chai et al. 2022, arXiv 2204.07156), here of
    radiographs as they were recorded, or made.

    Args:
        extractor: Its side is the patches'.
        dataset: To be read.
        radiographs: Positions in it.
        each: Patches of each radiograph, at random places, one after the other. Where the
            radiograph is smaller than a patch, it lies in zeros.
        seed: Of the places; the n-th radiograph's do not depend on the others.
    """
    side = extractor.side

    def patches() -> Iterator[UInt16[np.ndarray, "side side"]]:
        shown = tqdm(radiographs, f"patches, {extractor.name}", disable=None, leave=False)
        for number, n in enumerate(shown):
            rng = np.random.default_rng((seed, number))
            finest = dataset.level_sizes(n)[-1]
            size = min(finest[0], side), min(finest[1], side)
            for _ in range(each):
                top, left = (
                    int(rng.integers(whole - part + 1))
                    for whole, part in zip(finest, size, strict=True)
                )
                level = len(dataset.level_sizes(n)) - 1
                yield paste_centred(dataset.window(n, level, (top, left), size), (side, side))[0]

    return extract_features(extractor, patches())


def extract_features(
    extractor: Extractor,
    images: Iterable[UInt16[np.ndarray, "side side"]],
    *,
    batch_size: int = 32,
) -> Float32[np.ndarray, "n dim"]:
    """Features of a stream of images, in batches that are spread over all devices.

    Args:
        extractor: Of the features.
        images: All of one size; the whole of them is never in memory.
        batch_size: Rounded up to a multiple of the number of devices.

    Raises:
        UserError: There is no image.
    """
    devices = np.array(jax.local_devices())
    batch_size = -(-batch_size // len(devices)) * len(devices)
    sharding = NamedSharding(Mesh(devices, ("data",)), PartitionSpec("data"))
    run = jax.jit(extractor.extract)
    features, batch = [], []

    def finish() -> None:
        padded = np.zeros((batch_size, *batch[0].shape), np.float32)
        padded[: len(batch)] = np.stack(batch) / np.float32(65535)
        features.append(np.asarray(run(jax.device_put(padded, sharding)))[: len(batch)])
        batch.clear()

    for image in images:
        batch.append(image)
        if len(batch) == batch_size:
            finish()
    if batch:
        finish()
    if not features:
        raise UserError("There are no radiographs to take features of; use a larger split.")
    return np.concatenate(features)


def thumbnails(
    dataset: RadiographDataset, radiographs: Sequence[int], side: int = THUMBNAIL_SIDE
) -> Float32[np.ndarray, "n side side"]:
    """Whole radiographs in squares, grey values 0..65535; the aspect ratio is not kept.

    So a copy that a generator made at another size or aspect ratio still lies upon its original.
    """
    result = np.empty((len(radiographs), side, side), np.float32)
    for number, n in enumerate(radiographs):
        sizes = dataset.level_sizes(n)
        # The coarsest level that is not enlarged, else the finest.
        level = next((i for i, size in enumerate(sizes) if min(size) >= side), len(sizes) - 1)
        image = Image.fromarray(dataset.read(n, level).astype(np.float32))
        result[number] = np.asarray(image.resize((side, side), Image.Resampling.BILINEAR))
    return result


def part_scale(dataset: RadiographDataset, radiographs: Sequence[int]) -> int:
    """The `longest` of `parts` in which the largest of some radiographs are not shrunk."""
    return max(max(_for_parts(dataset, n)[1]) for n in radiographs)


def parts(
    dataset: RadiographDataset, radiographs: Sequence[int], longest: int = _LONGEST
) -> Float32[np.ndarray, "n part side side"]:
    """Squares in the middle of the radiograph's upper, middle and lower third, values 0..65535.

    They are cut from the finest level of at most 128 pixels. The scale does not depend on where
    the radiograph ends, as a thumbnail's does, so what was cropped still lies upon its original but
    for a shift. Beyond the border the nearest pixel is repeated.

    Args:
        dataset: To be read.
        radiographs: Positions in it.
        longest: Levels are shrunk to so many pixels; for a training set the `part_scale` of the
            synthetic one, whose generator may know it letterboxed alone.
    """
    result = np.empty((len(radiographs), _PARTS, _PART_SIDE, _PART_SIDE), np.float32)
    for number, n in enumerate(radiographs):
        level, _ = _for_parts(dataset, n)
        image = shrink(dataset.read(n, level), (longest, longest))
        for part in range(_PARTS):
            middles = (part + 0.5) / _PARTS, 0.5
            rows, columns = (
                np.clip(_around(middle * length, length), 0, length - 1)
                for middle, length in zip(middles, image.shape, strict=True)
            )
            result[number, part] = image[np.ix_(rows, columns)]
    return result


def _for_parts(dataset: RadiographDataset, radiograph: int) -> tuple[int, tuple[int, int]]:
    """The level that parts are cut from, and its size."""
    sizes = dataset.level_sizes(radiograph)
    level = max((i for i, size in enumerate(sizes) if max(size) <= _LONGEST), default=0)
    return level, sizes[level]


def _around(middle: float, length: int) -> Int[np.ndarray, " side"]:
    """Positions of a part's pixels along an axis, within the image where it is long enough."""
    first = round(middle - _PART_SIDE / 2)
    return np.arange(_PART_SIDE) + min(max(first, 0), max(length - _PART_SIDE, first))
