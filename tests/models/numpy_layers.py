"""Reference layers in NumPy and float64, written from their definitions."""

import jax
import numpy as np


def drawn_parameters(init):
    """Non-zero parameters, as after training, so that every layer has an effect."""
    rng = np.random.default_rng(1)
    abstract = jax.eval_shape(init, jax.random.key(0))
    return jax.tree.map(lambda leaf: 0.3 * rng.normal(size=leaf.shape).astype(leaf.dtype), abstract)


def to_float64(params):
    """A parameter tree as float64 NumPy arrays."""
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)


def convolve(x, kernel, stride=1, groups=1):
    """Cross-correlation of (n, h, w, c) with (k, k, c / groups, o), padded by k // 2 zeros."""
    size = kernel.shape[0]
    pad = size // 2
    x = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(x, (size, size), axis=(1, 2))
    windows = windows[:, ::stride, ::stride]
    pairs = zip(np.split(windows, groups, axis=3), np.split(kernel, groups, axis=3), strict=True)
    return np.concatenate([np.einsum("nhwcij,ijco->nhwo", w, k) for w, k in pairs], axis=3)


def group_norm(x, groups, scale, bias, epsilon=1e-6):
    """Zero mean and unit variance over each image's groups of channels, then an affine map."""
    grouped = x.reshape(x.shape[0], -1, groups, x.shape[3] // groups)
    mean = grouped.mean(axis=(1, 3), keepdims=True)
    variance = grouped.var(axis=(1, 3), keepdims=True)
    return ((grouped - mean) / np.sqrt(variance + epsilon)).reshape(x.shape) * scale + bias


def resize_twofold(x, up):
    """Bilinear up- or downsampling of (n, h, w, c) by two: [1, 3, 3, 1], padded by zeros."""
    for axis in (1, 2):
        size = x.shape[axis]
        matrix = np.zeros((2 * size, size) if up else (size // 2, size))
        for i, row in enumerate(matrix):
            taps = (
                [(i // 2 - 1 + i % 2, 1 + 2 * (i % 2)), (i // 2 + i % 2, 3 - 2 * (i % 2))]
                if up
                else [(2 * i - 1, 1), (2 * i, 3), (2 * i + 1, 3), (2 * i + 2, 1)]
            )
            for j, weight in taps:
                if 0 <= j < size:
                    row[j] = weight
        matrix /= 4 if up else 8
        x = np.moveaxis(np.tensordot(matrix, x, axes=(1, axis)), 0, axis)
    return x
