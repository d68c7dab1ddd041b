"""Inception-v3 as FID uses it (Szegedy et al. 2015, arXiv 1512.00567; Heusel et al. 2017).

This is the network of TensorFlow's 2015-12-05 release. pytorch-fid and torch-fidelity publish its
weights as a file. Its pools differ from other Inception-v3 networks: averages exclude the padding,
and the last block uses a maximum. Normalisations are folded into the convolutions.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from femur_jax.models.functional import Params
from femur_jax.models.torch_file import Weights, folded_norm, tensor

SIDE = 299
"""Side in pixels of the images on which the network was trained."""

_EPSILON = 1e-3

_Layer = tuple[int, int, tuple[int, int], int]  # inputs, outputs, kernel, stride


def _layers() -> dict[str, _Layer]:
    """All convolutions of the network by their published names."""
    one, three = (1, 1), (3, 3)
    layers: dict[str, _Layer] = {
        "Conv2d_1a_3x3": (3, 32, three, 2),
        "Conv2d_2a_3x3": (32, 32, three, 1),
        "Conv2d_2b_3x3": (32, 64, three, 1),
        "Conv2d_3b_1x1": (64, 80, one, 1),
        "Conv2d_4a_3x3": (80, 192, three, 1),
    }

    def block(name: str, branches: dict[str, _Layer]) -> None:
        layers.update({f"{name}.{branch}": layer for branch, layer in branches.items()})

    for name, inputs, pooled in (("5b", 192, 32), ("5c", 256, 64), ("5d", 288, 64)):
        block(
            f"Mixed_{name}",
            {
                "branch1x1": (inputs, 64, one, 1),
                "branch5x5_1": (inputs, 48, one, 1),
                "branch5x5_2": (48, 64, (5, 5), 1),
                "branch3x3dbl_1": (inputs, 64, one, 1),
                "branch3x3dbl_2": (64, 96, three, 1),
                "branch3x3dbl_3": (96, 96, three, 1),
                "branch_pool": (inputs, pooled, one, 1),
            },
        )
    block(
        "Mixed_6a",
        {
            "branch3x3": (288, 384, three, 2),
            "branch3x3dbl_1": (288, 64, one, 1),
            "branch3x3dbl_2": (64, 96, three, 1),
            "branch3x3dbl_3": (96, 96, three, 2),
        },
    )
    wide, tall = (1, 7), (7, 1)
    for name, c in (("6b", 128), ("6c", 160), ("6d", 160), ("6e", 192)):
        block(
            f"Mixed_{name}",
            {
                "branch1x1": (768, 192, one, 1),
                "branch7x7_1": (768, c, one, 1),
                "branch7x7_2": (c, c, wide, 1),
                "branch7x7_3": (c, 192, tall, 1),
                "branch7x7dbl_1": (768, c, one, 1),
                "branch7x7dbl_2": (c, c, tall, 1),
                "branch7x7dbl_3": (c, c, wide, 1),
                "branch7x7dbl_4": (c, c, tall, 1),
                "branch7x7dbl_5": (c, 192, wide, 1),
                "branch_pool": (768, 192, one, 1),
            },
        )
    block(
        "Mixed_7a",
        {
            "branch3x3_1": (768, 192, one, 1),
            "branch3x3_2": (192, 320, three, 2),
            "branch7x7x3_1": (768, 192, one, 1),
            "branch7x7x3_2": (192, 192, wide, 1),
            "branch7x7x3_3": (192, 192, tall, 1),
            "branch7x7x3_4": (192, 192, three, 2),
        },
    )
    for name, inputs in (("7b", 1280), ("7c", 2048)):
        block(
            f"Mixed_{name}",
            {
                "branch1x1": (inputs, 320, one, 1),
                "branch3x3_1": (inputs, 384, one, 1),
                "branch3x3_2a": (384, 384, (1, 3), 1),
                "branch3x3_2b": (384, 384, (3, 1), 1),
                "branch3x3dbl_1": (inputs, 448, one, 1),
                "branch3x3dbl_2": (448, 384, three, 1),
                "branch3x3dbl_3a": (384, 384, (1, 3), 1),
                "branch3x3dbl_3b": (384, 384, (3, 1), 1),
                "branch_pool": (inputs, 192, one, 1),
            },
        )
    return layers


LAYERS = _layers()
_UNPADDED = {"Conv2d_2a_3x3", "Conv2d_4a_3x3"} | {n for n, layer in LAYERS.items() if layer[3] > 1}


class Inception(nnx.Module):
    """The network without its classifier."""

    def __init__(self, rngs: nnx.Rngs):
        self.layers = nnx.Dict(
            {
                name.replace(".", "_"): nnx.Conv(
                    inputs,
                    outputs,
                    kernel,
                    strides=stride,
                    padding="VALID" if name in _UNPADDED else "SAME",
                    rngs=rngs,
                )
                for name, (inputs, outputs, kernel, stride) in LAYERS.items()
            }
        )

    def __call__(
        self, images: Float[Array, "batch height width 3"]
    ) -> Float[Array, "batch features"]:
        """The 2048 features before the classifier, averaged over the image.

        Args:
            images: Colours in [-1, 1], usually of 299 x 299 pixels and at least of 75 x 75.
        """
        x = self._chain(images, "", "Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3")
        x = self._chain(_max_pool(x), "", "Conv2d_3b_1x1", "Conv2d_4a_3x3")
        x = _max_pool(x)
        for name in ("5b", "5c", "5d"):
            x = self._block(
                x,
                f"Mixed_{name}.branch",
                [["1x1"], ["5x5_1", "5x5_2"], ["3x3dbl_1", "3x3dbl_2", "3x3dbl_3"]],
                _average_pool(x),
            )
        x = self._block(x, "Mixed_6a.branch", [["3x3"], ["3x3dbl_1", "3x3dbl_2", "3x3dbl_3"]], None)
        for name in ("6b", "6c", "6d", "6e"):
            branches = [
                ["1x1"],
                [f"7x7_{n}" for n in range(1, 4)],
                [f"7x7dbl_{n}" for n in range(1, 6)],
            ]
            x = self._block(x, f"Mixed_{name}.branch", branches, _average_pool(x))
        branches = [["3x3_1", "3x3_2"], [f"7x7x3_{n}" for n in range(1, 5)]]
        x = self._block(x, "Mixed_7a.branch", branches, None)
        for name in ("7b", "7c"):
            branches = [
                ["1x1"],
                ["3x3_1", "3x3_2a"],
                ["3x3_1", "3x3_2b"],
                ["3x3dbl_1", "3x3dbl_2", "3x3dbl_3a"],
                ["3x3dbl_1", "3x3dbl_2", "3x3dbl_3b"],
            ]
            pooled = _average_pool(x) if name == "7b" else _max_pool(x, stride=1)
            x = self._block(x, f"Mixed_{name}.branch", branches, pooled)
        return x.mean(axis=(1, 2))

    def _block(
        self,
        x: Float[Array, "batch h w c"],
        prefix: str,
        branches: list[list[str]],
        pooled: Float[Array, "batch h w c"] | None,
    ) -> Float[Array, "batch h2 w2 c2"]:
        """The outputs of the branches and the pool, which a convolution follows if it is given."""
        outputs = [self._chain(x, prefix, *branch) for branch in branches]
        last = _max_pool(x) if pooled is None else self._chain(pooled, prefix, "_pool")
        return jnp.concatenate([*outputs, last], axis=-1)

    def _chain(
        self, x: Float[Array, "batch h w c"], prefix: str, *names: str
    ) -> Float[Array, "batch h2 w2 c2"]:
        for name in names:
            x = jax.nn.relu(self.layers[f"{prefix}{name}".replace(".", "_")](x))
        return x


def inception_params(weights: Weights) -> Params:
    """The parameters from the file that pytorch-fid and torch-fidelity publish.

    Raises:
        UserError: The file belongs to another network.
    """
    layers = {}
    for name, (inputs, outputs, kernel, _) in LAYERS.items():
        value = tensor(weights, f"{name}.conv.weight", (outputs, inputs, *kernel))
        scale, bias = folded_norm(weights, f"{name}.bn", outputs, _EPSILON)
        layers[name.replace(".", "_")] = {
            "kernel": np.transpose(value, (2, 3, 1, 0)) * scale,
            "bias": bias,
        }
    return {"layers": layers}


def _max_pool(x: Float[Array, "batch h w c"], stride: int = 2) -> Float[Array, "batch h2 w2 c"]:
    padding = "VALID" if stride > 1 else "SAME"
    return nnx.max_pool(x, (3, 3), strides=(stride, stride), padding=padding)


def _average_pool(x: Float[Array, "batch h w c"]) -> Float[Array, "batch h w c"]:
    """Means of 3 x 3 pixels, without the padding."""
    return nnx.avg_pool(x, (3, 3), strides=(1, 1), padding="SAME", count_include_pad=False)
