"""A sampler on the host in double precision, radiograph by radiograph and tile by tile."""

import math
from functools import partial
from itertools import pairwise

import numpy as np

from femur_jax.data.loader import last_origin
from femur_jax.diffusion.solvers import karras_sigmas


def spans(length, patch, overlap):
    """The origin of each tile along a side, and the weights of its pixels."""
    last = last_origin(length, patch)
    ramp = 2 * round(overlap * patch / 2)
    starts = [0]
    while starts[-1] + patch < length:
        starts.append(starts[-1] + patch - ramp)
    rise = np.sin(np.pi / 2 * (np.arange(ramp) + 0.5) / max(ramp, 1)) ** 2
    window = np.concatenate([rise, np.ones(patch - 2 * ramp), rise[::-1]])
    origins = [min(start, last) for start in starts]
    weights = np.zeros((len(starts), last + patch))
    for row, start, origin in zip(weights, starts, origins, strict=True):
        row[start : origin + patch] = window[: origin + patch - start]
    weights /= np.maximum(weights.sum(0), 1e-300)
    return [(n, row[n : n + patch]) for n, row in zip(origins, weights, strict=True)]


def interpolated(coarse, size):
    """The coarser level at twice the resolution; its border is repeated."""
    for axis, length in enumerate(size):
        centres = (np.arange(length) + 0.5) / 2 - 0.5
        known = np.arange(coarse.shape[axis])
        coarse = np.apply_along_axis(partial(np.interp, centres, known), axis, coarse)
    return coarse


def cut(picture, origin, patch):
    """A tile of a picture, zeros where there is no picture."""
    y, x = origin
    inside = picture[y : y + patch, x : x + patch]
    return np.pad(inside, [(0, patch - side) for side in inside.shape])


def blended(denoise, x, patch, overlap):
    """The blended estimates of a function of origin and tile."""
    sides = [n + patch for n in x.shape]
    estimate = np.zeros(sides)
    for y, row_weights in spans(x.shape[0], patch, overlap):
        for column, column_weights in spans(x.shape[1], patch, overlap):
            D = denoise((y, column), cut(x, (y, column), patch))
            estimate[y : y + patch, column : column + patch] += (
                row_weights[:, None] * column_weights * D
            )
    return estimate[: x.shape[0], : x.shape[1]]


def sample(denoise, noise, sizes, config, patch):
    """The finest level by DPM-Solver++(2M), in -1..1.

    Args:
        denoise: Function of level, origin, noisy tile, noise level and tile of the context.
        noise: Function of level, purpose and size.
        sizes: Height and width of each level.
        config: The sampler's config.
        patch: The side of a tile.
    """
    for level, size in enumerate(sizes):
        guess = np.zeros(size) if level == 0 else interpolated(x, size)
        context = guess + (level > 0) * config.context_sigma * noise(level, 1, size)
        x = guess + config.sigma_max[min(level, 1)] * noise(level, 0, size)
        previous = h_previous = None
        steps = config.steps[min(level, 1)]
        sigmas = karras_sigmas(config.sigma_max[min(level, 1)], config.sigma_min, steps)
        for sigma, sigma_next in pairwise(sigmas):

            def tile(origin, noisy, level=level, sigma=sigma, context=context):
                return denoise(level, origin, noisy, sigma, cut(context, origin, patch))

            D = blended(tile, x, patch, config.overlap)
            if sigma_next == 0:
                x = D
                break
            h = math.log(sigma / sigma_next)
            mixed = D if previous is None else D + (D - previous) * h / (2 * h_previous)
            x = sigma_next / sigma * x + (1 - sigma_next / sigma) * mixed
            previous, h_previous = D, h
    return x
