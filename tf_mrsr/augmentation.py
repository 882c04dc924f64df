"""Variants of a training patch that scanning could as well have given: mirrored, turned, of another contrast."""

from __future__ import annotations

import numpy as np


def augment(
    patch: np.ndarray,
    rng: np.random.Generator,
    *,
    flips: bool = False,
    turns: bool = False,
    gamma: tuple[float, float] | None = None,
) -> np.ndarray:
    """A random variant of a patch; whatever is asked for is drawn in the order of the arguments.

    Args:
        patch: (x, y, z), for ``gamma`` in network range, the scan's 0 at -1 and its maximum at 1.
        rng: says which variant.
        flips: mirrors along each axis with probability 1/2.
        turns: permutes the axes; with flips, all 48 symmetries of a cube. The patch must be a cube.
        gamma: bounds of the exponent, even on a logarithmic scale, that intensities between 0 and the maximum get;
            under 1 brightens the dark tissues.
    """
    if flips:
        patch = np.flip(patch, np.flatnonzero(rng.integers(2, size=3)))
    if turns:
        patch = np.transpose(patch, rng.permutation(3))
    if gamma is not None:
        exponent = np.exp(rng.uniform(*np.log(gamma)))
        patch = 2 * (np.maximum(patch + 1, 0) / 2) ** exponent - 1
    return patch
