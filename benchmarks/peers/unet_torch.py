"""The U-Net of femur_jax/models/unet.py in PyTorch, as a PyTorch user would write it.

Modules and parameters have the same names, so that one set of weights fits both.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

_GROUP_SIZE = 8
_EPSILON = 1e-6  # of Flax's normalisation


class UNet(nn.Module):
    """Maps a patch with its side channels, a noise level and conditions to one channel."""

    def __init__(
        self,
        *,
        in_channels: int,
        conditions: int,
        channels: int,
        multipliers: Sequence[int],
        blocks: int,
        attention: Sequence[bool],
        head_channels: int,
    ):
        super().__init__()
        widths = [channels * multiplier for multiplier in multipliers]
        embedding = 4 * channels
        self.noise = Fourier(channels)
        self.embed = nn.ModuleList(
            [nn.Linear(2 * channels + conditions, embedding), nn.Linear(embedding, embedding)]
        )
        self.stem = nn.Conv2d(in_channels, channels, 3, padding=1)
        skips, width = [channels], channels
        down, up = [], []
        heads = [
            max(1, w // head_channels) if a else 0 for w, a in zip(widths, attention, strict=True)
        ]
        for out, out_heads in zip(widths, heads, strict=True):
            stage = []
            for _ in range(blocks):
                stage.append(Block(width, out, embedding, out_heads))
                width = out
                skips.append(out)
            down.append(nn.ModuleList(stage))
        self.middle = Block(width, width, embedding, heads[-1])
        for out, out_heads in reversed(list(zip(widths, heads, strict=True))):
            stage = []
            for _ in range(blocks):
                stage.append(Block(width + skips.pop(), out, embedding, out_heads))
                width = out
            up.append(nn.ModuleList(stage))
        self.down, self.up = nn.ModuleList(down), nn.ModuleList(up)
        self.norm = _group_norm(width)
        self.head = nn.Conv2d(width, 1, 3, padding=1)

    def forward(self, x: Tensor, c_noise: Tensor, conditions: Tensor) -> Tensor:
        """Maps x of shape (batch, in_channels, patch, patch) to one channel."""
        noise = self.noise(c_noise)
        embedding = torch.cat([noise, (noise.shape[1] / 2) ** 0.5 * conditions], dim=1)
        for layer in self.embed:
            embedding = functional.silu(layer(embedding))
        x = self.stem(x)
        skips = [x]
        for depth, stage in enumerate(self.down):
            if depth:
                x = functional.avg_pool2d(x, 2)
            for block in stage:
                x = block(x, embedding)
                skips.append(x)
        x = self.middle(x, embedding)
        for depth, stage in enumerate(self.up):
            if depth:
                x = functional.interpolate(x, scale_factor=2, mode="nearest")
            for block in stage:
                x = block(torch.cat([x, skips.pop()], dim=1), embedding)
        return self.head(functional.silu(self.norm(x)))


class Fourier(nn.Module):
    """Random Fourier features of a number."""

    def __init__(self, features: int):
        super().__init__()
        self.frequencies = nn.Parameter(torch.randn(features), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        phase = 2 * torch.pi * x[:, None] * self.frequencies
        return torch.cat([phase.cos(), phase.sin()], dim=1)


class Block(nn.Module):
    """Residual block, modulated by an embedding, optionally with self-attention."""

    def __init__(self, in_channels: int, channels: int, embedding: int, heads: int):
        super().__init__()
        self.norm1 = _group_norm(in_channels)
        self.conv1 = nn.Conv2d(in_channels, channels, 3, padding=1)
        self.modulation = nn.Linear(embedding, 2 * channels)
        self.norm2 = _group_norm(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.skip = nn.Conv2d(in_channels, channels, 1) if in_channels != channels else None
        self.attention = SelfAttention(channels, heads) if heads else None

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        scale, shift = self.modulation(embedding)[:, :, None, None].chunk(2, dim=1)
        h = self.conv1(functional.silu(self.norm1(x)))
        h = self.conv2(functional.silu(torch.addcmul(shift, self.norm2(h), 1 + scale)))
        x = (h + (x if self.skip is None else self.skip(x))) * 0.5**0.5
        return x if self.attention is None else self.attention(x)


class SelfAttention(nn.Module):
    """Self-attention over all pixels, with a residual connection."""

    def __init__(self, channels: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm = _group_norm(channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        pixels = self.norm(x).flatten(2).transpose(1, 2)  # batch pixel channel
        heads = self.qkv(pixels).unflatten(2, (self.heads, -1)).transpose(1, 2)
        y = functional.scaled_dot_product_attention(*heads.chunk(3, dim=3))
        y = self.out(y.transpose(1, 2).flatten(2))
        return (x + y.transpose(1, 2).reshape(x.shape)) * 0.5**0.5


def load_flax_weights(network: UNet, weights: Mapping[str, np.ndarray]) -> None:
    """Copies weights named by their path ("down/0/0/conv1/kernel") into the network.

    Raises:
        RuntimeError: A name or a shape does not match the network, or a weight is missing.
    """
    converted = {}
    for path, value in weights.items():
        *parents, leaf = path.split("/")
        name = ".".join([*parents, {"kernel": "weight", "scale": "weight"}.get(leaf, leaf)])
        if leaf == "kernel":  # (height, width,) in, out -> out, in(, height, width)
            value = np.moveaxis(value, (-1, -2), (0, 1))
        if name.endswith("skip.weight"):  # a linear layer there, a 1 x 1 convolution here
            value = value[:, :, None, None]
        converted[name] = torch.from_numpy(np.ascontiguousarray(value))
    network.load_state_dict(converted)


def _group_norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(channels // _GROUP_SIZE, channels, eps=_EPSILON)
