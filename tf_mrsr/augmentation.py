"""Variants of a training patch that scanning could as well have given: mirrored, turned, of another contrast; and of
its low-resolution side: sharper, softer, noisy.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from tf_mrsr.degradation import Degradation


def augment(
    patch: np.ndarray,
    rng: np.random.Generator,
    *,
    flips: bool = False,
    turns: bool = False,
    gamma: tuple[float, float] | None = None,
    scale: tuple[float, float] | None = None,
) -> np.ndarray:
    """A random variant of a patch; whatever is asked for is drawn in the order of the arguments.

    Args:
        patch: (x, y, z), for ``gamma`` and ``scale`` in network range, the scan's 0 at -1 and its maximum at 1.
        rng: says which variant.
        flips: mirrors along each axis with probability 1/2.
        turns: permutes the axes; with flips, all 48 symmetries of a cube. The patch must be a cube.
        gamma: bounds of the exponent, even on a logarithmic scale, that intensities between 0 and the maximum get;
            under 1 brightens the dark tissues.
        scale: bounds of a factor of the intensities, as a scan has whose maximum is one odd voxel's.
    """
    if flips:
        patch = np.flip(patch, np.flatnonzero(rng.integers(2, size=3)))
    if turns:
        patch = np.transpose(patch, rng.permutation(3))
    if gamma is not None:
        exponent = np.exp(rng.uniform(*np.log(gamma)))
        patch = 2 * (np.maximum(patch + 1, 0) / 2) ** exponent - 1
    if scale is not None:
        patch = (patch + 1) * rng.uniform(*scale) - 1
    return patch


def degrade(
    patch: np.ndarray,
    degradation: Degradation,
    rng: np.random.Generator,
    *,
    sigma: tuple[float, float] | None = None,
    noise: tuple[float, float] | None = None,
) -> np.ndarray:
    """The low-resolution side of a patch, of a random blur and with random noise; the blur is drawn first.

    Args:
        patch: (x, y, z), for ``noise`` in network range, the scan's 0 at -1 and its maximum at 1.
        degradation: what degrades, with a ``sigma`` where one is to be drawn.
        rng: says which blur and which noise.
        sigma: bounds of the blur's standard deviation in high-resolution voxels, in place of the degradation's own.
        noise: bounds of the standard deviation of the noise in either channel of a magnitude image (Rician noise), as a
            share of the scan's maximum.
    """
    if sigma is not None:
        degradation = dataclasses.replace(degradation, sigma=rng.uniform(*sigma))
    low_res = degradation(patch)
    if noise is not None:
        real, imaginary = rng.uniform(*noise) * rng.standard_normal((2, *low_res.shape))
        low_res = 2 * np.hypot(np.maximum(low_res + 1, 0) / 2 + real, imaginary) - 1
    return low_res
