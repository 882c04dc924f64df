"""Real pairs of scans of one person: a low- and a high-resolution one, brought onto matching grids, or two contrasts on
one grid. Pairs whose slices are matched are in ``matched_series``.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy import ndimage

from tf_mrsr.cohort import Scan, read_scan
from tf_mrsr.degradation import Degradation, MatchedSlices, OtherContrast
from tf_mrsr.errors import DataError, GeometryError, VolumeError
from tf_mrsr.geometry import millimetres, voxel_spacing_mm
from tf_mrsr.matched_series import read_matched
from tf_mrsr.volume import Volume

MIN_OVERLAP = 0.95
SPACING_TOLERANCE = 0.05
_SAME_PLACE_VOXELS = 1e-3
_SAME_GRID_VOXELS = 0.05  # headers of one registration may differ by rounding


def read_pair(
    scan: Scan, degradation: Degradation, *, nan: str, axes: str, intensity_kind: str = "standard"
) -> tuple[Volume, Volume]:
    """The high-resolution volume, cut to what the degradation can use, and the low-resolution one.

    The latter is what the degradation makes of the former or, for a real pair, what was scanned. A scanned volume is
    resampled (linearly) onto the grid that the degradation would have made, and brought to the mean and the standard
    deviation of what the degradation would have made, because two scans have two intensity scales. Where the network
    range begins at 0 (half_max) 0 stays 0, so that air looks in training as it does in prediction.

    Args:
        scan: the files.
        degradation: says which grid belongs to the high-resolution scan.
        nan, axes: see ``tf_mrsr.cohort.read_scan``; with slices last, the slices of a real pair are those of the
            low-resolution scan.
        intensity_kind: a key of ``tf_mrsr.intensity.KINDS``.

    Raises:
        VolumeError: if a file cannot be used.
        DataError: if the spacings do not differ by the degradation's factors, or the two do not cover the same space;
            between contrasts, if there is no source or it lies on another grid; see also ``read_matched``.
    """
    if isinstance(degradation, OtherContrast):
        return _read_contrasts(scan, nan=nan, axes=axes)
    if isinstance(degradation, MatchedSlices):
        return read_matched(scan, degradation, nan=nan)
    if scan.low_res is None:
        high_res = read_scan(scan.high_res, nan=nan, axes=axes)
    else:
        high_res, low_res = _read_alike(scan, nan=nan, axes=axes)
    usable = tuple(slice(0, n) for n in degradation.usable_shape(high_res.shape))
    high_res = replace(high_res, data=high_res.data[usable])
    try:
        grid_map = degradation.grid_map(high_res.shape)
    except GeometryError as error:
        shape = "x".join(map(str, high_res.shape))
        raise VolumeError(
            f"{scan.high_res}: {shape} voxels are too few for degradation by {degradation.factors}"
        ) from error
    if scan.low_res is None:
        return high_res, high_res.resampled(degradation(high_res.data), grid_map)
    shape = degradation.low_shape(high_res.shape)
    affine = grid_map.apply_to_affine(high_res.affine)
    _check_spacing(scan, low_res, affine, degradation)
    data = _resample(scan, low_res, affine, shape)
    if np.ptp(data) == 0:
        raise DataError(
            f"{scan.low_res}: has a single value where {scan.high_res} lies; register the two, check their headers, or "
            "leave the pair out"
        )
    simulated = degradation(high_res.data)
    gain = simulated.std() / data.std()
    scaled = data * gain if intensity_kind == "half_max" else (data - data.mean()) * gain + simulated.mean()
    return high_res, high_res.resampled(scaled, grid_map)


def _read_contrasts(scan: Scan, *, nan: str, axes: str) -> tuple[Volume, Volume]:
    if scan.low_res is None:
        raise DataError(
            f"{scan.high_res}: pairs of two contrasts are needed; give a list with the columns source and target"
        )
    target = read_scan(scan.high_res, nan=nan, axes=axes)
    source = read_scan(scan.low_res, nan=nan, axes=axes)
    if source.shape != target.shape or _moved(source.affine, target.affine, target.shape) > _SAME_GRID_VOXELS:
        raise DataError(
            f"{scan.low_res} lies on another grid than {scan.high_res}; register and resample one onto the other first "
            "(for instance with ANTs, FSL's flirt, or nilearn.image.resample_to_img where both are in one space)"
        )
    return target, replace(source, affine=target.affine)


def _moved(affine: np.ndarray, other: np.ndarray, shape: tuple[int, int, int]) -> float:
    """How far, in voxels, a corner of a volume of ``other`` lies from the same corner of ``affine`` at most."""
    to_first = np.linalg.inv(affine) @ other
    corners = np.array([[x, y, z, 1] for x in (0, shape[0]) for y in (0, shape[1]) for z in (0, shape[2])])
    return float(np.abs((corners @ (to_first - np.eye(4)).T)[:, :3]).max())


def _read_alike(scan: Scan, *, nan: str, axes: str) -> tuple[Volume, Volume]:
    """Both scans of a real pair, array axes in one order: of cubes only the thick scan tells which axis has slices."""
    high_res, low_res = read_scan(scan.high_res, nan=nan), read_scan(scan.low_res, nan=nan, axes=axes)
    try:
        if axes == "stored":
            return high_res, on_axes_of(high_res, low_res)
        return on_axes_of(low_res, high_res), low_res
    except DataError as error:
        raise DataError(f"{scan.low_res}, {scan.high_res}: {error}") from error


def on_axes_of(fixed: Volume, moving: Volume) -> Volume:
    """``moving`` with its array axes in the order in which those of ``fixed`` run.

    Raises:
        DataError: if they are turned against each other so far that no order fits.
    """
    directions = [volume.affine[:3, :3] / volume.spacing_mm for volume in (fixed, moving)]
    order = np.abs(directions[0].T @ directions[1]).argmax(axis=1)
    if len(set(order)) < 3:
        raise DataError("turned by about 45 degrees or more against each other; resample one onto the other's axes")
    return moving.with_axes(order)


def _check_spacing(scan: Scan, low_res: Volume, expected: np.ndarray, degradation: Degradation) -> None:
    spacing, wanted = np.array(low_res.spacing_mm), np.array(voxel_spacing_mm(expected))
    if np.any(np.abs(spacing / wanted - 1) > SPACING_TOLERANCE):
        raise DataError(
            f"{scan.low_res}: voxels of {millimetres(spacing)}, but {scan.high_res} by factors {degradation.factors} "
            f"asks for {millimetres(wanted)} along its axes; resample one of them or change the factor"
        )


def _resample(scan: Scan, low_res: Volume, affine: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    to_low = np.linalg.inv(low_res.affine) @ affine
    if shape == low_res.shape and _moved(low_res.affine, affine, shape) < _SAME_PLACE_VOXELS:
        return low_res.data
    inside = ndimage.affine_transform(
        np.ones(low_res.shape, np.float32), to_low[:3, :3], to_low[:3, 3], shape, order=0, mode="grid-constant"
    )
    overlap = float(inside.mean())
    if overlap < MIN_OVERLAP:
        raise DataError(
            f"{scan.low_res} covers {overlap:.0%} of the space of {scan.high_res}, less than {MIN_OVERLAP:.0%}; "
            "register them, or cut the larger one"
        )
    return ndimage.affine_transform(low_res.data, to_low[:3, :3], to_low[:3, 3], shape, order=1, mode="nearest")
