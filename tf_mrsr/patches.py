"""Where patches lie in a volume."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np

from tf_mrsr.errors import DataError

Index3 = tuple[int, int, int]


def grid_origins(
    shape: Sequence[int], patch: Sequence[int], step: Sequence[int], multiple_of: Sequence[int]
) -> list[Index3]:
    """First voxels of patches that cover ``shape`` in steps of ``step``; the last along an axis is moved inwards.

    Along one axis with 10 voxels, patches of 4 and steps of 3::

        voxel    0 1 2 3 4 5 6 7 8 9
        origin 0 [-----]
        origin 3       [-----]
        origin 6             [-----]

    Args:
        shape: voxels of the volume (x, y, z).
        patch, step: voxels (x, y, z).
        multiple_of: origins are rounded down to multiples of these, so that they fall on low-resolution voxels.

    Returns:
        Origins (x, y, z), the last axis running fastest.

    Raises:
        DataError: if the volume is smaller than a patch.
    """
    check_fits(shape, patch)
    axes = []
    for n, p, s, m in zip(shape, patch, step, multiple_of, strict=True):
        last = (n - p) // m * m
        axes.append([*range(0, last, s // m * m or m), last])
    return list(product(*axes))


def random_origin(
    data: np.ndarray, tissue: float, patch: Sequence[int], multiple_of: Sequence[int], rng: np.random.Generator
) -> Index3:
    """First voxel of a random patch of ``data`` (x, y, z) whose middle is brighter than ``tissue``, if one is found.

    Raises:
        DataError: if the volume is smaller than a patch.
    """
    check_fits(data.shape, patch)
    limits = [(n - p) // m for n, p, m in zip(data.shape, patch, multiple_of, strict=True)]
    for _ in range(64):
        origin = tuple(int(rng.integers(limit + 1)) * m for limit, m in zip(limits, multiple_of, strict=True))
        if data[tuple(o + p // 2 for o, p in zip(origin, patch, strict=True))] > tissue:
            break
    return origin


def check_fits(shape: Sequence[int], patch: Sequence[int]) -> None:
    if any(n < p for n, p in zip(shape, patch, strict=True)):
        raise DataError(
            f"the volume has {'x'.join(map(str, shape))} voxels, fewer than a patch of {'x'.join(map(str, patch))}; "
            "use larger scans or a smaller patches.shape"
        )


def cut(data: np.ndarray, origin: Sequence[int], patch: Sequence[int]) -> np.ndarray:
    """The patch of ``data`` (x, y, z) that begins at ``origin``."""
    return data[tuple(slice(o, o + p) for o, p in zip(origin, patch, strict=True))]
