"""Residual network for classification (He et al. 2015, arXiv 1512.03385)."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from femur_jax.errors import UserError
from femur_jax.models.functional import Params
from femur_jax.models.torch_file import Weights, folded_norm, tensor

NORMS = ("group", "fixed")


class ResNet(nnx.Module):
    """A residual network with one logit.

    ResNet-50 is `ResNet((3, 4, 6, 3), 64, in_channels, bottleneck=True)`. The stem (a 7 x 7
    convolution and a 3 x 3 maximum, both of stride 2) divides the image's side by 4, and each stage
    after the first divides it by 2. With four stages the features have 1/32 of the image's side.

    Args:
        stage_sizes: Number of residual blocks in each stage.
        width: Channels of the stem and the first stage; each further stage has twice as many.
        in_channels: Number of channels of the images.
        bottleneck: Whether blocks are bottlenecks (ResNet-50 and deeper) or basic blocks
            (ResNet-18 and 34).
        sharpness: Weight of the strongest pixels in a feature's average over the image (log-sum-exp
            pooling, Pinheiro and Collobert 2015, arXiv 1411.6228). 0 is the mean, as in ResNet;
            infinity is the maximum. A fracture covers a hundredth of a radiograph.
        norm: Kind of normalisation: 'group' (GroupNorm), or 'fixed' for imported weights: a batch
            normalisation with fixed statistics, which is a scale and a bias for each channel.
        columns: Number of covariates that join the image's features before the last layer. Their
            weights are zero at first.
        rngs: Random streams for the initial parameters.
    """

    def __init__(
        self,
        stage_sizes: Sequence[int],
        width: int,
        in_channels: int,
        bottleneck: bool,
        sharpness: float = 0.0,
        norm: str = "group",
        columns: int = 0,
        *,
        rngs: nnx.Rngs,
    ):
        if norm not in NORMS:
            raise UserError(f"config.model.norm is {norm!r}; write {' or '.join(NORMS)}.")
        self.sharpness = sharpness
        self.stem = ConvNorm(in_channels, width, 7, 2, rngs, norm)
        blocks, channels = [], width
        for stage, block_count in enumerate(stage_sizes):
            for block in range(block_count):
                stride = 2 if stage > 0 and block == 0 else 1
                blocks.append(
                    ResidualBlock(channels, width * 2**stage, stride, bottleneck, rngs, norm)
                )
                channels = blocks[-1].outputs
        self.blocks = nnx.List(blocks)
        self.head = nnx.Linear(channels, 1, rngs=rngs)
        # The last layer has one matrix for the image's features and one for the covariates.
        zeros = nnx.initializers.zeros
        self.beside = (
            nnx.Linear(columns, 1, use_bias=False, kernel_init=zeros, rngs=rngs)
            if columns
            else None
        )

    def __call__(
        self,
        image: Float[Array, "batch height width channels"],
        columns: Float[Array, "batch columns"] | None = None,
    ) -> tuple[Float[Array, " batch"], Float[Array, "batch dim"]]:
        """Classifies images of any size.

        Args:
            image: Grey values of about zero mean and unit variance.
            columns: Covariates of about zero mean and unit variance, if the network has them.

        Returns:
            The logit of the positive class, which is linear in the covariates and the image's
            features; and these features, the last stage's averages over the image.
        """
        x = jax.nn.relu(self.stem(image))
        x = halved_maximum(halved_maximum(x, axis=1), axis=2)
        for block in self.blocks:
            x = block(x)
        features = soft_maximum(x, self.sharpness) if self.sharpness else jnp.mean(x, axis=(1, 2))
        logit = self.head(features)
        if self.beside is not None:
            assert columns is not None
            logit = logit + self.beside(columns)
        return logit[:, 0], features


def halved_maximum(
    x: Float[Array, "batch height width channels"], axis: int
) -> Float[Array, "batch h w channels"]:
    """Maximum of each second pixel and its two neighbours along an axis.

    Along both axes it is the 3 x 3 maximum of stride 2, whose gradient XLA computes eight times as
    slowly on a CPU from a window.
    """
    count = -(-x.shape[axis] // 2)
    pad = [(0, 0)] * x.ndim
    pad[axis] = (1, 1)
    padded = jnp.pad(x, pad, constant_values=-jnp.inf)
    shifted = [
        jax.lax.slice_in_dim(padded, n, n + 2 * count - 1, stride=2, axis=axis) for n in range(3)
    ]
    return jnp.maximum(jnp.maximum(shifted[0], shifted[1]), shifted[2])


def soft_maximum(
    x: Float[Array, "batch height width channels"], sharpness: float
) -> Float[Array, "batch channels"]:
    """Soft maximum log(mean(exp(r x))) / r over the image with the sharpness r."""
    pixels = x.shape[1] * x.shape[2]
    return (jax.nn.logsumexp(sharpness * x, axis=(1, 2)) - math.log(pixels)) / sharpness


class ResidualBlock(nnx.Module):
    """The basic block (3 x 3, 3 x 3) or the bottleneck (1 x 1, 3 x 3, 1 x 1 to 4 times `width`).

    The first 3 x 3 convolution has the stride ("v1.5"), not the bottleneck's first 1 x 1. The last
    scale of the branch starts at zero, so that the block starts as its shortcut (Goyal et al. 2017,
    arXiv 1706.02677, section 5.1).
    """

    def __init__(
        self,
        inputs: int,
        width: int,
        stride: int,
        bottleneck: bool,
        rngs: nnx.Rngs,
        norm: str = "group",
    ):
        self.outputs = 4 * width if bottleneck else width
        if bottleneck:
            layers = [
                ConvNorm(inputs, width, 1, 1, rngs, norm),
                ConvNorm(width, width, 3, stride, rngs, norm),
                ConvNorm(width, self.outputs, 1, 1, rngs, norm, scale=0.0),
            ]
        else:
            layers = [
                ConvNorm(inputs, width, 3, stride, rngs, norm),
                ConvNorm(width, self.outputs, 3, 1, rngs, norm, scale=0.0),
            ]
        self.layers = nnx.List(layers)
        same = stride == 1 and inputs == self.outputs
        self.shortcut = None if same else ConvNorm(inputs, self.outputs, 1, stride, rngs, norm)

    def __call__(self, x: Float[Array, "batch h w inputs"]) -> Float[Array, "batch h2 w2 outputs"]:
        *layers, last = self.layers
        y = x
        for layer in layers:
            y = jax.nn.relu(layer(y))
        return jax.nn.relu(last(y) + (x if self.shortcut is None else self.shortcut(x)))


class ConvNorm(nnx.Module):
    """A convolution without bias, then GroupNorm (Wu & He 2018, arXiv 1803.08494) or `Scale`.

    GroupNorm has 32 groups, or for other channels the largest power of two that divides them.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        stride: int,
        rngs: nnx.Rngs,
        norm: str = "group",
        scale: float = 1.0,
    ):
        self.conv = nnx.Conv(
            inputs,
            outputs,
            (kernel, kernel),
            strides=stride,
            padding=kernel // 2,
            use_bias=False,
            kernel_init=nnx.initializers.he_normal(),
            rngs=rngs,
        )
        scale_init = nnx.initializers.constant(scale)
        self.norm = (
            nnx.GroupNorm(
                outputs, num_groups=math.gcd(32, outputs), scale_init=scale_init, rngs=rngs
            )
            if norm == "group"
            else Scale(outputs, scale)
        )

    def __call__(self, x: Float[Array, "batch h w inputs"]) -> Float[Array, "batch h2 w2 outputs"]:
        return self.norm(self.conv(x))


class Scale(nnx.Module):
    """A scale and a bias for each channel."""

    def __init__(self, channels: int, scale: float):
        self.scale = nnx.Param(jnp.full(channels, scale))
        self.bias = nnx.Param(jnp.zeros(channels))

    def __call__(self, x: Float[Array, "batch h w channels"]) -> Float[Array, "batch h w channels"]:
        return x * self.scale + self.bias


def imported_trunk(params: Params, weights: Weights, *, grey: bool) -> Params:
    """Parameters with the trunk of a ResNet from torchvision's or timm's file.

    Args:
        params: Parameters of a `ResNet` with norm 'fixed', whose head is kept.
        weights: Tensors of a file that torchvision or timm publishes, from
            `torch_file.read_weights`.
        grey: Whether the first of the three channels is a grey image and the others are not
            colours. The stem's weights for the first channel are then the sum over the three
            colours, and those for the other channels are zero.

    Raises:
        UserError: The file belongs to another network.
    """
    stem = _imported_layer(weights, "conv1", "bn1", params["stem"])
    if grey:
        kernel = stem["conv"]["kernel"]
        stem["conv"]["kernel"] = np.zeros_like(kernel)
        stem["conv"]["kernel"][:, :, 0] = kernel.sum(axis=2)
    blocks, stage, number, width = {}, 0, 0, 0
    for n in range(len(params["blocks"])):
        block = params["blocks"][str(n)]
        first = block["layers"]["0"]["norm"]["scale"].size
        stage, number = (stage, number + 1) if first == width else (stage + 1, 0)
        width, prefix = first, f"layer{stage}.{number}"
        blocks[str(n)] = {
            "layers": {
                i: _imported_layer(
                    weights, f"{prefix}.conv{int(i) + 1}", f"{prefix}.bn{int(i) + 1}", layer
                )
                for i, layer in block["layers"].items()
            }
        }
        if "shortcut" in block:
            names = f"{prefix}.downsample.0", f"{prefix}.downsample.1"
            blocks[str(n)]["shortcut"] = _imported_layer(weights, *names, block["shortcut"])
    return {**params, "stem": stem, "blocks": blocks}


def _imported_layer(weights: Weights, conv: str, norm: str, layer: Params) -> Params:
    *size, inputs, outputs = layer["conv"]["kernel"].shape
    kernel = tensor(weights, f"{conv}.weight", (outputs, inputs, *size))
    scale, bias = folded_norm(weights, norm, outputs, epsilon=1e-5)
    return {
        "conv": {"kernel": np.ascontiguousarray(np.transpose(kernel, (2, 3, 1, 0)))},
        "norm": {"scale": scale, "bias": bias},
    }
