"""Interpolation that a network must beat, each method on the grid that is right for the degradation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from tf_mrsr.geometry import GridMap

# B-spline orders; 3 is the cubic spline of the sanchez2018 paper, 4 the "4th B-spline" of li2017's. Prefiltered, so
# they interpolate.
IDENTITY = "identity"  # for another contrast: the source itself, see ``linear_fit``
ORDERS = {"nearest": 0, "linear": 1, "cubic": 3, "bspline4": 4}
NAMES = (*ORDERS, IDENTITY)


def interpolate(data: np.ndarray, grid_map: GridMap, output_shape: Sequence[int], method: str) -> np.ndarray:
    """``data`` (x, y, z) sampled at the places of another grid.

    Args:
        data: float32, shape (x, y, z).
        grid_map: from output index to index in ``data``.
        output_shape: voxels of the result (x, y, z).
        method: a key of ``ORDERS``. Beyond the border the volume goes on with its border voxels.

    Returns:
        float32, shape ``output_shape``.
    """
    # A diagonal matrix and an offset take SciPy's separable path.
    return ndimage.affine_transform(
        data,
        np.asarray(grid_map.scale),
        offset=np.asarray(grid_map.offset),
        output_shape=tuple(output_shape),
        order=ORDERS[method],
        mode="nearest",
        output=np.float32,
    )


def linear_fit(source: np.ndarray, target: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The sum a source + b with the a and b that bring it closest to the target, by squares over the mask.

    What any synthesis must beat: it knows the target's intensity scale, but nothing that the source does not show.

    Args:
        source, target: float32 (x, y, z).
        mask: bool (x, y, z), where the fit is made; elsewhere it is applied.
    """
    known, wanted = source[mask].astype(np.float64), target[mask].astype(np.float64)
    variance = known.var()
    slope = 0.0 if variance == 0 else ((known - known.mean()) * (wanted - wanted.mean())).mean() / variance
    return (slope * (source - known.mean()) + wanted.mean()).astype(np.float32)
