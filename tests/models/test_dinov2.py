"""Tests of DINOv2 against NumPy in float64, token by token as its authors define it."""

import jax
import numpy as np
import pytest
from scipy.special import erf

from femur_jax.errors import UserError
from femur_jax.models.dinov2 import DINOv2, dinov2_params, dinov2_size
from femur_jax.models.functional import functional

WIDTH, DEPTH = 128, 2


@pytest.fixture(scope="module")
def weights():
    """Random weights under the published names."""
    rng = np.random.default_rng(0)
    shapes = {
        "cls_token": (1, 1, WIDTH),
        "pos_embed": (1, 1370, WIDTH),
        "mask_token": (1, WIDTH),
        "patch_embed.proj.weight": (WIDTH, 3, 14, 14),
        "patch_embed.proj.bias": (WIDTH,),
        "norm.weight": (WIDTH,),
        "norm.bias": (WIDTH,),
    }
    for n in range(DEPTH):
        for name, inputs, outputs in (
            ("attn.qkv", WIDTH, 3 * WIDTH),
            ("attn.proj", WIDTH, WIDTH),
            ("mlp.fc1", WIDTH, 4 * WIDTH),
            ("mlp.fc2", 4 * WIDTH, WIDTH),
        ):
            shapes[f"blocks.{n}.{name}.weight"] = (outputs, inputs)
            shapes[f"blocks.{n}.{name}.bias"] = (outputs,)
        for name in ("norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias"):
            shapes[f"blocks.{n}.{name}"] = (WIDTH,)
        shapes[f"blocks.{n}.ls1.gamma"] = shapes[f"blocks.{n}.ls2.gamma"] = (WIDTH,)
    return {
        name: (rng.normal(size=shape) * (0.1 if len(shape) > 1 else 1.0)).astype(np.float32)
        for name, shape in shapes.items()
    }


class Reference:
    """The network for one image, computed one head at a time."""

    def __init__(self, weights):
        self.w = {name: value.astype(np.float64) for name, value in weights.items()}

    def linear(self, x, name):
        return x @ self.w[f"{name}.weight"].T + self.w[f"{name}.bias"]

    def norm(self, x, name):
        centred = x - x.mean(-1, keepdims=True)
        unit = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6)
        return unit * self.w[f"{name}.weight"] + self.w[f"{name}.bias"]

    def attention(self, x, name):
        q, k, v = np.split(self.linear(x, f"{name}.qkv"), 3, axis=-1)
        heads = []
        for h in range(0, WIDTH, 64):
            score = q[:, h : h + 64] @ k[:, h : h + 64].T / np.sqrt(64)
            share = np.exp(score - score.max(-1, keepdims=True))
            heads.append(share / share.sum(-1, keepdims=True) @ v[:, h : h + 64])
        return self.linear(np.concatenate(heads, axis=-1), f"{name}.proj")

    def mlp(self, x, name):
        hidden = self.linear(x, f"{name}.fc1")
        return self.linear(hidden * 0.5 * (1 + erf(hidden / np.sqrt(2))), f"{name}.fc2")

    def positions(self, y, x):
        """The embedding of a patch of a 16 x 16 grid, from the 37 x 37 published embeddings."""
        grid = self.w["pos_embed"][0, 1:].reshape(37, 37, WIDTH)
        total = 0.0
        row, column = ((n + 0.5) * 37 / 16.1 - 0.5 for n in (y, x))
        for i in range(int(np.floor(row)) - 1, int(np.floor(row)) + 3):
            for j in range(int(np.floor(column)) - 1, int(np.floor(column)) + 3):
                weight = keys(row - i) * keys(column - j)
                total = total + weight * grid[min(max(i, 0), 36), min(max(j, 0), 36)]
        return total

    def __call__(self, image):
        x = (image - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
        tokens = [self.w["cls_token"][0, 0] + self.w["pos_embed"][0, 0]]
        for i in range(16):
            for j in range(16):
                patch = x[14 * i : 14 * i + 14, 14 * j : 14 * j + 14]
                embedded = np.einsum("yxc,ocyx->o", patch, self.w["patch_embed.proj.weight"])
                tokens.append(embedded + self.w["patch_embed.proj.bias"] + self.positions(i, j))
        x = np.stack(tokens)
        for n in range(DEPTH):
            b = f"blocks.{n}"
            x = x + self.w[f"{b}.ls1.gamma"] * self.attention(
                self.norm(x, f"{b}.norm1"), f"{b}.attn"
            )
            x = x + self.w[f"{b}.ls2.gamma"] * self.mlp(self.norm(x, f"{b}.norm2"), f"{b}.mlp")
        return self.norm(x, "norm")[0]


def keys(d):
    """The cubic convolution kernel of Keys 1981 with a = -3/4."""
    d, a = abs(d), -0.75
    if d <= 1:
        return (a + 2) * d**3 - (a + 3) * d**2 + 1
    return a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a if d < 2 else 0.0


def test_features_equal_the_reference(weights):
    params = dinov2_params(weights)
    images = np.random.default_rng(1).random((2, 224, 224, 3)).astype(np.float32)
    apply = functional(lambda rngs: DINOv2(WIDTH, DEPTH, rngs=rngs)).apply
    features = np.asarray(jax.jit(apply)(params, images))
    expected = np.stack([Reference(weights)(image) for image in images])
    np.testing.assert_allclose(features, expected, atol=1e-4)
    assert abs(expected[0] - expected[1]).max() > 0.01  # features depend on the image


def test_size_is_read_from_the_file(weights):
    assert dinov2_size(weights) == (WIDTH, DEPTH)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"blocks.1.mlp.fc1.weight": None}, r"no tensor blocks\.1\.mlp\.fc1\.weight"),
        ({"blocks.0.attn.qkv.bias": np.zeros(7)}, r"blocks\.0\.attn\.qkv\.bias .* shape \(7,\)"),
        ({"pos_embed": np.zeros((1, 257, WIDTH))}, r"pos_embed .* \(1, 257, 128\)"),
        ({"register_tokens": np.zeros((1, 4, WIDTH))}, "with registers"),
        ({"cls_token": np.zeros((1, 1, 100))}, "width 100"),
    ],
)
def test_other_weights_are_refused(weights, change, message):
    other = {name: value for name, value in (weights | change).items() if value is not None}
    with pytest.raises(UserError, match=message):
        dinov2_params(other)
