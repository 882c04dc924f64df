"""Where voxels are: affines in millimetres, and the map between two samplings of one space.

An *affine* is a 4 x 4 float64 matrix from voxel index (i, j, k, 1) to world position in mm (RAS+).
A *grid map* goes from the index of an output voxel to the index of the input voxel at the same place.
There is one law: ``output affine = input affine @ grid map``, for images, labels and models alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tf_mrsr.errors import GeometryError

Triple = tuple[float, float, float]
_REPAIR = "repair what the header says of places and spacing (NIfTI: sform or qform)"


@dataclass(frozen=True)
class GridMap:
    """The axis-aligned map ``input_index = scale * output_index + offset``.

    Examples along one axis for a factor of 2, high-resolution voxels h, low-resolution voxels l::

        block average   h0 h1 h2 h3      l0 lies midway between h0 and h1:  scale 2, offset 1/2
                        [l0 ] [l1 ]
        decimation      h0 h1 h2 h3      l0 lies on h0, l1 on h2:           scale 2, offset 0
                        l0    l1

    Attributes:
        scale: input voxels per output voxel along (x, y, z).
        offset: input index of output voxel 0 along (x, y, z).
    """

    scale: Triple
    offset: Triple

    def __post_init__(self) -> None:
        for name in ("scale", "offset"):
            values = tuple(float(v) for v in getattr(self, name))
            if len(values) != 3 or not np.all(np.isfinite(values)):
                raise GeometryError(f"grid map {name} must be three finite numbers, got {getattr(self, name)}")
            object.__setattr__(self, name, values)
        if min(self.scale) <= 0:
            raise GeometryError(f"grid map scale must be positive, got {self.scale}")

    @classmethod
    def identity(cls) -> GridMap:
        return cls((1.0, 1.0, 1.0), (0.0, 0.0, 0.0))

    @classmethod
    def decimation(cls, factors: Sequence[float]) -> GridMap:
        """Every r-th voxel from index 0: scale r, no shift."""
        return cls(tuple(factors), (0.0, 0.0, 0.0))

    @classmethod
    def block_average(cls, factors: Sequence[float]) -> GridMap:
        """Blocks of r voxels, each output voxel at the centre of its block: scale r, offset (r - 1) / 2."""
        return cls(tuple(factors), tuple((r - 1) / 2 for r in factors))

    @classmethod
    def corner_aligned(cls, input_shape: Sequence[int], output_shape: Sequence[int]) -> GridMap:
        """First voxel centre on first, last on last (scipy's ``zoom``): scale (n - 1) / (m - 1), no shift."""
        pairs = list(zip(input_shape, output_shape, strict=True))
        if any(m < 2 for _, m in pairs):
            raise GeometryError(f"corner alignment needs two output voxels or more along each axis, got {output_shape}")
        return cls(tuple((n - 1) / (m - 1) for n, m in pairs), (0.0, 0.0, 0.0))

    def inverse(self) -> GridMap:
        return GridMap(
            tuple(1 / s for s in self.scale), tuple(-o / s for s, o in zip(self.scale, self.offset, strict=True))
        )

    def matrix(self) -> np.ndarray:
        """The map as a 4 x 4 matrix on homogeneous voxel indices."""
        matrix = np.diag([*self.scale, 1.0])
        matrix[:3, 3] = self.offset
        return matrix

    def apply_to_affine(self, affine: np.ndarray) -> np.ndarray:
        """The affine of the output grid, given the affine of the input grid (both 4 x 4, mm)."""
        return np.asarray(affine, np.float64) @ self.matrix()


def check_affine(affine: np.ndarray) -> np.ndarray:
    """Returns a 4 x 4 float64 copy of ``affine``.

    Raises:
        GeometryError: if it is not 4 x 4, not finite, singular, or its last row is not (0, 0, 0, 1).
    """
    affine = np.array(affine, dtype=np.float64)
    if affine.shape != (4, 4):
        raise GeometryError(f"an affine must be 4 x 4, got shape {affine.shape}")
    if not np.all(np.isfinite(affine)):
        raise GeometryError(f"the affine holds NaN or infinite numbers; {_REPAIR}")
    if not np.allclose(affine[3], (0, 0, 0, 1)):
        raise GeometryError(f"the last row of an affine must be 0 0 0 1, got {affine[3]}")
    spacing = voxel_spacing_mm(affine)
    if min(spacing) <= 0 or abs(np.linalg.det(affine[:3, :3])) < 1e-6 * np.prod(spacing):
        raise GeometryError(f"the affine is singular, so voxels have no volume; {_REPAIR}")
    return affine


def voxel_spacing_mm(affine: np.ndarray) -> Triple:
    """Distance in mm between neighbouring voxel centres along array axes x, y, z."""
    return tuple(float(s) for s in np.linalg.norm(np.asarray(affine)[:3, :3], axis=0))


def millimetres(spacing: Sequence[float]) -> str:
    """A spacing in words."""
    return " x ".join(f"{s:.2f}" for s in spacing) + " mm"


# Spacings that differ by less are taken for equal, so that a scan of cubes has no thick axis.
THICK_RATIO = 1.05


def slices_last(affine: np.ndarray, *, keep_in_plane: bool = False) -> tuple[int, int, int]:
    """The order of array axes that puts the slices last: (closest to right-left, the other in-plane axis, slice axis).

    The slice axis is the one with the largest spacing; where the two largest are equal (to 5 %) it is the axis closest
    to superior-inferior. For axial slices the first and last axis then span coronal planes.

    Args:
        affine: 4 x 4, voxel index to mm (RAS+).
        keep_in_plane: leave the in-plane axes in their order, which for a DICOM series is that of columns and rows.
    """
    spacing = np.array(voxel_spacing_mm(affine))
    directions = np.abs(np.asarray(affine)[:3, :3] / spacing)
    _, second, largest = np.sort(spacing)
    slice_axis = int(np.argmax(spacing if largest > THICK_RATIO * second else directions[2]))
    in_plane = [axis for axis in range(3) if axis != slice_axis]
    if not keep_in_plane and directions[0, in_plane[1]] > directions[0, in_plane[0]]:
        in_plane.reverse()
    return (*in_plane, slice_axis)
