"""From a high-resolution volume to a low-resolution one, with the grid map that this makes.

Every degradation here is linear and separable: one matrix along each axis, low = W_x W_y W_z high. The matrices are
SciPy's own filters and zooms applied to unit vectors, so the result is SciPy's to rounding, while blur and sampling
take one pass and compute no voxel that is thrown away.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import ndimage
from scipy.special import ndtr

from tf_mrsr.errors import RecipeError
from tf_mrsr.geometry import GridMap

Shape3 = tuple[int, int, int]

_WIDEST = 100  # voxels; wider than any blur that leaves something of a head, and still quick to make


@dataclass(frozen=True)
class Degradation(ABC):
    """Base of all degradations.

    Attributes:
        factors: high-resolution voxels per low-resolution voxel along (x, y, z), whole numbers, 1 for no change.
    """

    factors: Shape3

    def __post_init__(self) -> None:
        factors = tuple(self.factors)
        if len(factors) != 3 or any(type(f) is not int or f < 1 for f in factors):
            raise RecipeError(f"degradation factors must be three whole numbers, got {factors}")
        if (max(factors) > 1) != self.changes_grid:
            expected = "one at least 2 or more" if self.changes_grid else "all 1"
            raise RecipeError(f"degradation factors must be three whole numbers, {expected}, got {factors}")
        object.__setattr__(self, "factors", factors)

    @abstractmethod
    def operator(self, size: int, axis: int) -> np.ndarray:
        """The matrix (low size, high size), float64, along ``axis`` of ``size`` high-resolution voxels."""

    @abstractmethod
    def grid_map(self, high_shape: Sequence[int]) -> GridMap:
        """From low-resolution voxel index to high-resolution voxel index, for a volume of ``high_shape``."""

    def network_grid_map(self) -> GridMap:
        """From output index to input index of a network trained to undo this degradation.

        A fully convolutional network enlarges by exactly its factor wherever it stands, so its map has scale
        1 / factor and no dependence on the shape.
        """
        return self.grid_map((1, 1, 1)).inverse()

    def usable_shape(self, high_shape: Sequence[int]) -> Shape3:
        """How many voxels, from the first, of a volume can be degraded and estimated again; usually all."""
        return tuple(high_shape)

    def low_shape(self, high_shape: Sequence[int]) -> Shape3:
        return tuple(-(-n // f) for n, f in zip(high_shape, self.factors, strict=True))

    def __call__(self, high: np.ndarray) -> np.ndarray:
        """Low-resolution data (x, y, z) of ``high`` (x, y, z), in the same floating-point type."""
        low = high
        for axis, factor in enumerate(self.factors):
            if factor > 1 or self._acts_on_every_axis:
                low = _apply(self.operator(high.shape[axis], axis), low, axis)
        return low

    def batch(self, high: np.ndarray) -> np.ndarray:
        """Low-resolution patches (batch, x, y, z) of ``high`` (batch, x, y, z)."""
        return np.stack([self(patch) for patch in high])

    @property
    @abstractmethod
    def alignment(self) -> str:
        """Where a low-resolution voxel lies, in words."""

    # Blurs of the isotropic kinds act along an axis even where its factor is 1.
    _acts_on_every_axis = False
    changes_grid = True
    by_slice = False  # for networks of slices; the slice axis is the last


def _apply(operator: np.ndarray, data: np.ndarray, axis: int) -> np.ndarray:
    moved = np.tensordot(operator.astype(data.dtype), data, axes=(1, axis))
    return np.ascontiguousarray(np.moveaxis(moved, 0, axis))


def _check_sigma(sigma: float) -> None:
    if not 0 < sigma <= _WIDEST:
        raise RecipeError(f"degradation sigma must be over 0 and up to {_WIDEST} voxels, got {sigma}")


@lru_cache(maxsize=64)
def _gaussian(size: int, sigma: float) -> np.ndarray:
    return ndimage.gaussian_filter1d(np.eye(size), sigma, axis=0)


@dataclass(frozen=True)
class GaussianDecimation(Degradation):
    """Gaussian blur, then every r-th voxel from index 0 (sanchez2018, section 2.1: "a Gaussian filter and a
    downsampling operator").

    Attributes:
        sigma: standard deviation of the blur, in high-resolution voxels.
    """

    sigma: float = 1.0
    _acts_on_every_axis = True

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_sigma(self.sigma)

    def operator(self, size: int, axis: int) -> np.ndarray:
        return _gaussian(size, self.sigma)[:: self.factors[axis]]

    def grid_map(self, high_shape: Sequence[int]) -> GridMap:
        return GridMap.decimation(self.factors)

    @property
    def alignment(self) -> str:
        return "low-resolution voxel j lies on high-resolution voxel r j (every r-th voxel, from the first)"


@dataclass(frozen=True)
class GaussianZoom(Degradation):
    """Gaussian blur, then SciPy's ``zoom`` by 1 / r, as the sanchez2018 program does it.

    ``zoom`` puts the first voxel centre on the first and the last on the last, so voxels are (n - 1) / (m - 1) apart.

    Attributes:
        sigma: standard deviation of the blur, in high-resolution voxels.
        order: 0 takes the nearest voxel (the program's training), 3 a cubic B-spline whose coefficients are the
            voxels themselves, without the prefilter that interpolation needs (the program's testing).
        blur_across_batch: the program's training filters the whole batch array, its first axis too, which mixes
            the patches of a batch.
    """

    sigma: float = 1.0
    order: int = 0
    blur_across_batch: bool = False
    _acts_on_every_axis = True

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_sigma(self.sigma)
        if self.order not in range(6):
            raise RecipeError(f"degradation order must be a spline order from 0 to 5, got {self.order}")

    def operator(self, size: int, axis: int) -> np.ndarray:
        return _zoom(size, 1 / self.factors[axis], self.order) @ _gaussian(size, self.sigma)

    def grid_map(self, high_shape: Sequence[int]) -> GridMap:
        return GridMap.corner_aligned(high_shape, self.low_shape(high_shape))

    @property
    def alignment(self) -> str:
        return "first voxel centre on first, last on last; low-resolution voxels are (n - 1) / (m - 1) voxels apart"

    def network_grid_map(self) -> GridMap:
        """Edges on edges: the map of scale 1 / r that shares the volume's centre with ``zoom``'s own map.

        Patches stretch by (n - 1) / (m - 1) but the network only enlarges by r, so what it learns to place right is
        the centre of a patch.
        """
        return GridMap.block_average(self.factors).inverse()

    def usable_shape(self, high_shape: Sequence[int]) -> Shape3:
        """Multiples of the factor: with a rest, network and ``zoom`` would differ by a fraction of a voxel."""
        return tuple(n // f * f for n, f in zip(high_shape, self.factors, strict=True))

    def low_shape(self, high_shape: Sequence[int]) -> Shape3:
        return tuple(round(n / f) for n, f in zip(high_shape, self.factors, strict=True))

    def batch(self, high: np.ndarray) -> np.ndarray:
        if self.blur_across_batch:
            high = _apply(_gaussian(len(high), self.sigma), high, 0)
        return super().batch(high)


@lru_cache(maxsize=64)
def _zoom(size: int, zoom: float, order: int) -> np.ndarray:
    return np.stack([ndimage.zoom(unit, zoom, order=order, prefilter=False) for unit in np.eye(size)], axis=1)


_CENTRE_OF_BLOCK = "low-resolution voxel j lies at high-resolution voxel r j + (r - 1) / 2 (the centre of its block)"


@dataclass(frozen=True)
class BlockAverage(Degradation):
    """The mean of blocks of r voxels; a last block that is not full is filled up with its last voxel."""

    def operator(self, size: int, axis: int) -> np.ndarray:
        factor = self.factors[axis]
        count = -(-size // factor)
        member = np.minimum(np.arange(count * factor), size - 1).reshape(count, factor)
        operator = np.zeros((count, size))
        np.add.at(operator, (np.arange(count)[:, None], member), 1 / factor)
        return operator

    def grid_map(self, high_shape: Sequence[int]) -> GridMap:
        return GridMap.block_average(self.factors)

    @property
    def alignment(self) -> str:
        return _CENTRE_OF_BLOCK


@dataclass(frozen=True)
class SliceProfile(Degradation):
    """Slices of a given thickness with gaps between them; exactly one axis has a factor over 1.

    Low-resolution slice j is centred on the block of voxels r j ... r j + r - 1 and weighs the volume with a profile
    of the given thickness::

        high   | 0 | 1 | 2 | 3 | 4 | 5 |      factor 3, thickness 2, gap 1:
        low      [  0  ]     [  1  ]          each slice covers 2 voxels of every 3

    Attributes:
        thickness: slice thickness in high-resolution voxels; the gap is the factor less the thickness. Thicker than
            the factor means overlapping slices. For a Gaussian it is the full width at half maximum.
        profile: "box" or "gaussian".
    """

    thickness: float = 1.0
    profile: str = "box"

    def __post_init__(self) -> None:
        super().__post_init__()
        if sum(f > 1 for f in self.factors) != 1:
            raise RecipeError(f"a slice profile has one axis with a factor over 1, got factors {self.factors}")
        if not 0 < self.thickness < np.inf:
            raise RecipeError(f"slice thickness must be over 0 voxels and finite, got {self.thickness}")
        if self.profile not in ("box", "gaussian"):
            raise RecipeError(f"slice profile must be 'box' or 'gaussian', got {self.profile!r}")

    def operator(self, size: int, axis: int) -> np.ndarray:
        factor = self.factors[axis]
        centres = factor * np.arange(-(-size // factor)) + (factor - 1) / 2
        # What of the profile falls into each voxel; the profile beyond the volume is given to its border voxels.
        edges = np.arange(size + 1) - 0.5
        edges[0], edges[-1] = -np.inf, np.inf
        return np.diff(self._cumulative(edges[None, :] - centres[:, None]), axis=1)

    def _cumulative(self, distance: np.ndarray) -> np.ndarray:
        if self.profile == "box":
            return np.clip(distance / self.thickness + 0.5, 0, 1)
        return ndtr(distance / (self.thickness / np.sqrt(8 * np.log(2))))

    def grid_map(self, high_shape: Sequence[int]) -> GridMap:
        return GridMap.block_average(self.factors)

    @property
    def alignment(self) -> str:
        return _CENTRE_OF_BLOCK


@dataclass(frozen=True)
class OtherContrast(Degradation):
    """No change of the grid: the network's input is another contrast of the same head, voxel on voxel (taloma2020).

    It cannot be computed, so only real pairs of scans will do.
    """

    factors: Shape3 = (1, 1, 1)
    changes_grid = False

    def operator(self, size: int, axis: int) -> np.ndarray:
        return np.eye(size)

    def grid_map(self, high_shape: Sequence[int]) -> GridMap:
        return GridMap.identity()

    @property
    def alignment(self) -> str:
        return "source and target lie voxel on voxel"


@dataclass(frozen=True)
class MatchedSlices(BlockAverage):
    """Every thick slice and the thin one nearest to it, in real pairs of series (narcomey2018); see
    ``tf_mrsr.matched_series``.

    With a factor of 1 the thin slice is estimated in the place of the thick one; with 3 its two neighbours as well,
    which are the three slices of a block that the thick one averages.

    Attributes:
        max_distance: how far a thin slice may lie from its thick one, in thick spacings.
        simulated_thickness: for a single thin scan, of how many slices a thick one is the mean; the middle one is its
            match.
    """

    max_distance: float = 0.5
    simulated_thickness: int = 3
    by_slice = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.factors not in ((1, 1, 1), (1, 1, 3)):
            raise RecipeError(
                "matched slices have the factors (1, 1, 1), for the slice itself, or (1, 1, 3), for its neighbours as "
                f"well, got {self.factors}"
            )
        if not 0 < self.max_distance < np.inf:
            raise RecipeError(f"degradation max_distance must be over 0 thick spacings, got {self.max_distance}")
        if self.simulated_thickness < 3 or self.simulated_thickness % 2 == 0:
            raise RecipeError(
                "degradation simulated_thickness must be an odd number of slices, 3 or more, got "
                f"{self.simulated_thickness}"
            )
        if self.changes_grid and self.simulated_thickness != 3:
            raise RecipeError("degradation simulated_thickness must be 3 where the factor is 3")

    @property
    def changes_grid(self) -> bool:
        return max(self.factors) > 1

    @property
    def alignment(self) -> str:
        return _CENTRE_OF_BLOCK if self.changes_grid else "the matched thin slice is put in the place of the thick one"


KINDS: dict[str, type[Degradation]] = {
    "other_contrast": OtherContrast,
    "matched_slices": MatchedSlices,
    "gaussian_decimation": GaussianDecimation,
    "gaussian_zoom": GaussianZoom,
    "block_average": BlockAverage,
    "slice_profile": SliceProfile,
}
