"""DINOv2's vision transformer (Oquab et al. 2023, arXiv 2304.07193), without its training heads.

The authors publish weights of the sizes S, B and L with patches of 14 x 14 pixels, for example
`dinov2_vits14_pretrain.pth`. Depth and width are read from the file.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from femur_jax.errors import UserError
from femur_jax.models.functional import Params
from femur_jax.models.torch_file import Weights, tensor

SIDE = 224
"""Side in pixels of the images, which have 16 x 16 patches."""

_PATCH = 14
_HEAD = 64  # channels of an attention head, in all sizes
_EPSILON = 1e-6
_OFFSET = 0.1
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's colours


class DINOv2(nnx.Module):
    """The transformer for images of SIDE x SIDE pixels."""

    def __init__(self, width: int, depth: int, *, rngs: nnx.Rngs):
        """Draws the parameters.

        Args:
            width: Number of channels of a token, a multiple of 64.
            depth: Number of blocks.
            rngs: Random streams for the initial parameters.
        """
        patch = (_PATCH, _PATCH)
        self.patch_embed = nnx.Conv(3, width, patch, strides=patch, padding="VALID", rngs=rngs)
        self.cls_token = nnx.Param(jnp.zeros(width))
        self.pos_embed = nnx.Param(jnp.zeros((1 + (SIDE // _PATCH) ** 2, width)))
        self.blocks = nnx.List([_Block(width, rngs=rngs) for _ in range(depth)])
        self.norm = nnx.LayerNorm(width, epsilon=_EPSILON, rngs=rngs)

    def __call__(
        self, images: Float[Array, "batch height width 3"]
    ) -> Float[Array, "batch features"]:
        """The class token after the last block, normalised.

        Args:
            images: Colours in [0, 1] of SIDE x SIDE pixels.
        """
        x = self.patch_embed((images - jnp.array(_MEAN)) / jnp.array(_STD))
        x = x.reshape(len(x), -1, x.shape[-1])
        token = jnp.broadcast_to(self.cls_token[...], (len(x), 1, x.shape[-1]))
        x = jnp.concatenate([token, x], axis=1) + self.pos_embed[...]
        for block in self.blocks:
            x = block(x)
        return self.norm(x)[:, 0]


class _Block(nnx.Module):
    """Attention, then two dense layers, both with a normalisation before and a scale after."""

    def __init__(self, width: int, *, rngs: nnx.Rngs):
        self.norm1 = nnx.LayerNorm(width, epsilon=_EPSILON, rngs=rngs)
        self.qkv = nnx.Linear(width, 3 * width, rngs=rngs)
        self.proj = nnx.Linear(width, width, rngs=rngs)
        self.ls1 = nnx.Param(jnp.ones(width))
        self.norm2 = nnx.LayerNorm(width, epsilon=_EPSILON, rngs=rngs)
        self.fc1 = nnx.Linear(width, 4 * width, rngs=rngs)
        self.fc2 = nnx.Linear(4 * width, width, rngs=rngs)
        self.ls2 = nnx.Param(jnp.ones(width))

    def __call__(self, x: Float[Array, "batch token c"]) -> Float[Array, "batch token c"]:
        batch, tokens, width = x.shape
        qkv = self.qkv(self.norm1(x)).reshape(batch, tokens, 3, width // _HEAD, _HEAD)
        attended = jax.nn.dot_product_attention(*jnp.moveaxis(qkv, 2, 0))
        x = x + self.ls1[...] * self.proj(attended.reshape(x.shape))
        hidden = jax.nn.gelu(self.fc1(self.norm2(x)), approximate=False)
        return x + self.ls2[...] * self.fc2(hidden)


def dinov2_size(weights: Weights) -> tuple[int, int]:
    """Width and depth of the network in a file.

    Raises:
        UserError: The file belongs to another network, or to a variant with registers.
    """
    if {"register_tokens", "reg_token"} & weights.keys():  # as its authors or timm name them
        raise UserError(
            "The file of weights belongs to a DINOv2 with registers; use a variant without them, "
            "such as dinov2_vits14_pretrain.pth."
        )
    width = weights["cls_token"].size if "cls_token" in weights else 0
    depth = sum(name.startswith("blocks.") and name.endswith("ls1.gamma") for name in weights)
    if not depth or not width or width % _HEAD:
        raise UserError(
            f"The file of weights has {depth} blocks of width {width}, which is not a DINOv2 of "
            "size S, B or L; use a file such as dinov2_vits14_pretrain.pth."
        )
    return width, depth


def dinov2_params(weights: Weights) -> Params:
    """The parameters from a file that DINOv2's authors publish.

    Raises:
        UserError: The file belongs to another network.
    """
    width, depth = dinov2_size(weights)

    def linear(name: str, inputs: int, outputs: int) -> Params:
        kernel = tensor(weights, f"{name}.weight", (outputs, inputs)).T
        return {"kernel": kernel, "bias": tensor(weights, f"{name}.bias", (outputs,))}

    def norm(name: str) -> Params:
        return {
            "scale": tensor(weights, f"{name}.weight", (width,)),
            "bias": tensor(weights, f"{name}.bias", (width,)),
        }

    def block(name: str) -> Params:
        return {
            "norm1": norm(f"{name}.norm1"),
            "qkv": linear(f"{name}.attn.qkv", width, 3 * width),
            "proj": linear(f"{name}.attn.proj", width, width),
            "ls1": tensor(weights, f"{name}.ls1.gamma", (width,)),
            "norm2": norm(f"{name}.norm2"),
            "fc1": linear(f"{name}.mlp.fc1", width, 4 * width),
            "fc2": linear(f"{name}.mlp.fc2", 4 * width, width),
            "ls2": tensor(weights, f"{name}.ls2.gamma", (width,)),
        }

    kernel = tensor(weights, "patch_embed.proj.weight", (width, 3, _PATCH, _PATCH))
    return {
        "patch_embed": {
            "kernel": np.transpose(kernel, (2, 3, 1, 0)),
            "bias": tensor(weights, "patch_embed.proj.bias", (width,)),
        },
        "cls_token": tensor(weights, "cls_token", (1, 1, width)).reshape(width),
        "pos_embed": _positions(weights, width),
        "blocks": {str(n): block(f"blocks.{n}") for n in range(depth)},
        "norm": norm("norm"),
    }


def _positions(weights: Weights, width: int) -> Float[np.ndarray, "token c"]:
    """Position embeddings, resampled from the published images of 518 x 518 pixels to SIDE."""
    grid = 37
    published = tensor(weights, "pos_embed", (1, 1 + grid**2, width))[0]
    to_side = _bicubic(grid, SIDE // _PATCH)
    patches = np.einsum("yi,xj,ijc->yxc", to_side, to_side, published[1:].reshape(grid, grid, -1))
    return np.concatenate([published[:1], patches.reshape(-1, width)]).astype(np.float32)


def _bicubic(inputs: int, outputs: int) -> Float[np.ndarray, "outputs inputs"]:
    """PyTorch's cubic interpolation (Keys 1981, a = -0.75) along one axis, as a matrix.

    As in the published code, the scale adds a tenth of a patch, and the border is repeated.
    """
    a, scale = -0.75, (outputs + _OFFSET) / inputs
    matrix = np.zeros((outputs, inputs))
    for row, position in enumerate((np.arange(outputs) + 0.5) / scale - 0.5):
        for tap in range(int(np.floor(position)) - 1, int(np.floor(position)) + 3):
            d = abs(position - tap)
            near = (a + 2) * d**3 - (a + 3) * d**2 + 1
            far = a * (d**3 - 5 * d**2 + 8 * d - 4)
            matrix[row, np.clip(tap, 0, inputs - 1)] += near if d <= 1 else far
    return matrix
