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

from femur_jax.data.letterbox import letterbox, paste_centred
from femur_jax.data.pyramid import shrink
from femur_jax.data.shards import RadiographDataset
from femur_jax.errors import UserError
from femur_jax.models import dinov2, inception
from femur_jax.models.functional import Params, functional
from femur_jax.models.torch_file import read_weights
from femur_jax.progress import Progress

THUMBNAIL_SIDE = 48
"""Side in pixels, enough to distinguish a radiograph from all others, see `alignment`."""

LONGEST = 128
"""Longest side in pixels of the images that crops are cut from."""

_CROPS = 3
_CROP_SIDE = 40  # three of them reach from top to bottom of 64 to 128 pixels


@dataclass(frozen=True)
class Extractor:
    """Features of square pictures.

    Attributes:
        name: Name of the features, for people.
        side: Side of the pictures in pixels.
        extract: Function of grey values in [0, 1], (n, side, side), that returns features,
            (n, dim); it is compiled.
    """

    name: str
    side: int
    extract: Callable[[Float[Array, "n side side"]], Float[Array, "n dim"]]


def pixels(side: int) -> Extractor:
    """Extractor of the grey values themselves, row by row."""
    return Extractor(
        f"pixels {side} x {side}", side, lambda images: images.reshape(len(images), -1)
    )


def network(weights: Path) -> Extractor:
    """Inception-v3 or DINOv2, depending on the file of published weights.

    Both see grey values as three equal colours. The files are those of pytorch-fid or
    torch-fidelity, and of DINOv2's authors; see `models.torch_file` for the formats.

    Raises:
        UserError: The file cannot be read, belongs to another network, or lacks a tensor.
    """
    tensors = read_weights(weights)
    if "Conv2d_1a_3x3.conv.weight" in tensors:
        return _network_extractor(
            "Inception-v3, trained on ImageNet",
            inception.SIDE,
            inception.Inception,
            inception.inception_params(tensors),
            lambda colours: 2 * colours - 1,
        )
    if "patch_embed.proj.weight" in tensors:
        width, depth = dinov2.dinov2_size(tensors)
        return _network_extractor(
            f"DINOv2 of width {width}",
            dinov2.SIDE,
            lambda rngs: dinov2.DINOv2(width, depth, rngs=rngs),
            dinov2.dinov2_params(tensors),
            lambda colours: colours,
        )
    raise UserError(
        f"{weights} holds the weights of neither Inception-v3 (of pytorch-fid) nor DINOv2; name "
        "a file such as pt_inception-2015-12-05-6726825d.pth or dinov2_vits14_pretrain.pth."
    )


def _network_extractor(
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
    """Features of whole radiographs, all at one scale in a letterbox."""
    shape = (extractor.side, extractor.side)
    shown = Progress(radiographs, extractor.name)
    boxed = (letterbox(dataset, n, shape, enlarge=True)["pixels"] for n in shown)
    return extract_features(extractor, boxed)


def patch_features(
    extractor: Extractor,
    dataset: RadiographDataset,
    radiographs: Sequence[int],
    *,
    each: int = 4,
    seed: int = 0,
) -> Float32[np.ndarray, "n dim"]:
    """Features of patches at native scale, where shrinking whole radiographs would hide details.

    The Fréchet distance between sets of them is a patch FID (Chai et al. 2022, arXiv 2204.07156),
    here of radiographs as they were recorded or generated.

    Args:
        extractor: Extractor, whose side is the patches'.
        dataset: Dataset of the radiographs.
        radiographs: Positions in the dataset.
        each: Number of patches of each radiograph, at random positions, one after the other. A
            radiograph smaller than a patch is padded with zeros.
        seed: Seed of the positions; the n-th radiograph's do not depend on the others.
    """
    side = extractor.side

    def patches() -> Iterator[UInt16[np.ndarray, "side side"]]:
        shown = Progress(radiographs, f"patches, {extractor.name}")
        for number, n in enumerate(shown):
            rng = np.random.default_rng((seed, number))
            finest = dataset.level_sizes(n)[-1]
            size = min(finest[0], side), min(finest[1], side)
            for _ in range(each):
                top, left = (
                    int(rng.integers(whole - length + 1))
                    for whole, length in zip(finest, size, strict=True)
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
        extractor: Extractor of the features.
        images: Images of one size, which are never all in memory.
        batch_size: Images of a batch, rounded up to a multiple of the number of devices.

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
        raise UserError("There are no radiographs to compute features of; use a larger split.")
    return np.concatenate(features)


def thumbnails(
    dataset: RadiographDataset, radiographs: Sequence[int], side: int = THUMBNAIL_SIDE
) -> Float32[np.ndarray, "n side side"]:
    """Thumbnails of radiographs of a dataset, see `thumbnail`; grey values 0..65535."""
    return np.stack([thumbnail(overview(dataset, n, side), side) for n in radiographs])


def overview(
    dataset: RadiographDataset, radiograph: int, side: int = THUMBNAIL_SIDE
) -> UInt16[np.ndarray, "height width"]:
    """The coarsest level that a thumbnail does not enlarge, else the finest."""
    sizes = dataset.level_sizes(radiograph)
    large = (i for i, size in enumerate(sizes) if min(size) >= side)
    return dataset.read(radiograph, next(large, len(sizes) - 1))


def thumbnail(
    image: UInt16[np.ndarray, "height width"], side: int = THUMBNAIL_SIDE
) -> Float32[np.ndarray, "side side"]:
    """The image resized to a square; the aspect ratio is not kept.

    A copy that was generated at another size or aspect ratio thus still lies upon its original.
    """
    resized = Image.fromarray(image.astype(np.float32)).resize(
        (side, side), Image.Resampling.BILINEAR
    )
    return np.asarray(resized)


def crops(
    image: UInt16[np.ndarray, "height width"], longest: int = LONGEST
) -> Float32[np.ndarray, "crop side side"]:
    """Squares in the middle of the image's upper, middle and lower third.

    Unlike a thumbnail's, their scale does not depend on where the image ends, so a cropped copy
    still lies upon its original but for a shift. Beyond the border the nearest pixel is repeated.

    Args:
        image: Grey values of a radiograph, as `overview` gives them.
        longest: Longest side in pixels to which the image is shrunk.
    """
    image = shrink(image, (longest, longest))
    result = np.empty((_CROPS, _CROP_SIDE, _CROP_SIDE), np.float32)
    for crop in range(_CROPS):
        rows, columns = (
            np.clip(_around(middle * length, length), 0, length - 1)
            for middle, length in zip(((crop + 0.5) / _CROPS, 0.5), image.shape, strict=True)
        )
        result[crop] = image[np.ix_(rows, columns)]
    return result


def _around(middle: float, length: int) -> Int[np.ndarray, " side"]:
    """Positions of a crop's pixels along an axis, within the image where it is long enough."""
    first = round(middle - _CROP_SIDE / 2)
    return np.arange(_CROP_SIDE) + min(max(first, 0), max(length - _CROP_SIDE, first))
