"""The mean over mirrored inputs (self-ensemble), for any model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import product

import numpy as np

from tf_mrsr.errors import RecipeError
from tf_mrsr.volume import Volume

FLIPS = tuple(product((False, True), repeat=3))
_TOLERANCE = 1e-3  # of a voxel


def mean_over_flips(super_resolve: Callable[[Volume], Volume], volume: Volume) -> Volume:
    """What a model makes of the volume and its seven mirror images, mirrored back and averaged.

    Results are laid over each other where their affines say. A model whose grid begins at the first voxel, as after
    decimation, gives less than a low-resolution voxel more on one side than on the other; there fewer results are
    averaged.

    Args:
        super_resolve: the model.
        volume: the scan.

    Returns:
        As ``super_resolve(volume)``, on the same grid.

    Raises:
        RecipeError: if mirrored results lie between the voxels of the plain one.
    """
    total = super_resolve(volume)
    total = replace(total, data=total.data.astype(np.float32, copy=True))
    count = np.ones(total.shape, np.uint8)
    for flips in FLIPS[1:]:
        mirrored = _flipped(volume, flips)
        result = _flipped(super_resolve(replace(mirrored, data=np.ascontiguousarray(mirrored.data))), flips)
        here, there = _overlap(total, result)
        total.data[here] += result.data[there]
        count[here] += 1
    np.divide(total.data, count, out=total.data)
    return total


def _flipped(volume: Volume, flips: tuple[bool, ...]) -> Volume:
    """The same scan in space, stored in the other direction along some array axes."""
    mirror = np.eye(4)
    for axis, flip in enumerate(flips):
        if flip:
            mirror[axis, axis], mirror[axis, 3] = -1, volume.shape[axis] - 1
    return replace(volume, data=np.flip(volume.data, np.flatnonzero(flips)), affine=volume.affine @ mirror)


def _overlap(first: Volume, second: Volume) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Which voxels of two volumes on one lattice are the same in space."""
    shift = (np.linalg.inv(first.affine) @ second.affine)[:3, 3]
    whole = np.rint(shift).astype(int)
    if np.abs(shift - whole).max() > _TOLERANCE:
        raise RecipeError(
            "the model's grid is not the same for mirrored scans, so their results cannot be averaged; leave out --tta"
        )
    starts = np.maximum(whole, 0)
    stops = np.minimum(first.shape, whole + second.shape)
    here = tuple(slice(a, b) for a, b in zip(starts, stops, strict=True))
    there = tuple(slice(a - w, b - w) for a, b, w in zip(starts, stops, whole, strict=True))
    return here, there
