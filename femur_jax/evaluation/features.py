"""Radiographs as vectors and pictures of one size, for distances and nearest neighbours."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Float32, UInt16
from PIL import Image

from femur_jax.data.letterbox import letterbox
from femur_jax.data.shards import RadiographDataset
from femur_jax.models.functional import functional
from femur_jax.models.inception import SIDE, Inception, inception_params
from femur_jax.models.torch_file import read_weights

THUMBNAIL_SIDE = 48
"""Pixels; enough for a radiograph to be told from all others, see `correlation`."""


def pixel_features(
    dataset: RadiographDataset, radiographs: Sequence[int], side: int
) -> Float32[np.ndarray, "n pixels"]:
    """Grey values in [0, 1] of letterboxes of side x side pixels, row by row."""
    squares = [letterbox(dataset, radiograph, (side, side))["pixels"] for radiograph in radiographs]
    return np.stack(squares).reshape(len(squares), -1).astype(np.float32) / 65535


def thumbnails(
    dataset: RadiographDataset, radiographs: Sequence[int], side: int = THUMBNAIL_SIDE
) -> Float32[np.ndarray, "n side side"]:
    """Whole radiographs in squares, grey values 0..65535; the aspect ratio is not kept.

    So a copy that a generator made at another size or aspect ratio still lies upon its original.
    """
    result = np.empty((len(radiographs), side, side), np.float32)
    for place, n in enumerate(radiographs):
        sizes = dataset.level_sizes(n)
        # The coarsest level that is not enlarged, else the finest.
        level = next((i for i, size in enumerate(sizes) if min(size) >= side), len(sizes) - 1)
        image = Image.fromarray(dataset.read(n, level).astype(np.float32))
        result[place] = np.asarray(image.resize((side, side), Image.Resampling.BILINEAR))
    return result


def inception(weights: Path) -> Callable[[Float[Array, "n 299 299"]], Float[Array, "n 2048"]]:
    """The extractor of FID, from the weights file of pytorch-fid or torch-fidelity.

    It takes grey values in [0, 1] and sees them as three equal colours.

    Raises:
        UserError: The file cannot be read, or is of another network.
    """
    params = jax.tree.map(jnp.asarray, inception_params(read_weights(weights)))
    apply = functional(Inception).apply

    def extract(images: Float[Array, "n 299 299"]) -> Float[Array, "n 2048"]:
        return apply(params, jnp.repeat(2 * images[..., None] - 1, 3, axis=-1))

    return extract


def network_features(
    extract: Callable[[Array], Array],
    images: Iterable[UInt16[np.ndarray, "side side"]],
    *,
    batch_size: int = 32,
) -> Float32[np.ndarray, "n dim"]:
    """Features of a stream of images, in batches that are spread over all devices.

    Args:
        extract: Grey values in [0, 1] to features, such as `inception`.
        images: All of one size; the whole of them is never in memory.
        batch_size: Rounded up to a multiple of the number of devices.
    """
    devices = np.array(jax.devices())
    batch_size = -(-batch_size // len(devices)) * len(devices)
    sharding = NamedSharding(Mesh(devices, ("data",)), PartitionSpec("data"))
    run = jax.jit(extract)
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
    return np.concatenate(features)


def inception_features(
    extract: Callable[[Array], Array], dataset: RadiographDataset, radiographs: Sequence[int]
) -> Float32[np.ndarray, "n 2048"]:
    """Features of whole radiographs, letterboxed and never enlarged, by `inception`."""
    images = (letterbox(dataset, n, (SIDE, SIDE))["pixels"] for n in radiographs)
    return network_features(extract, images)
