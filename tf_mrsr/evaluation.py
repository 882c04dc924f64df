"""Degrade a scan, estimate it again, compare with the truth: for networks and for interpolation alike."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from tf_mrsr import baselines, intensity, metrics
from tf_mrsr.cohort import Scan, check_size
from tf_mrsr.degradation import Degradation
from tf_mrsr.errors import DataError, VolumeError
from tf_mrsr.intensity import Window
from tf_mrsr.pairs import on_axes_of, read_pair
from tf_mrsr.recipe import Recipe
from tf_mrsr.volume import NIFTI_SUFFIXES, Volume, read_volume, stem


@dataclass(frozen=True)
class Case:
    """One scan to be estimated.

    Attributes:
        name: what the table calls it, usually the file's name without its ending.
        truth: the scan.
        low_res: what the degradation makes of it, on its own grid.
        mask: bool (x, y, z), where truth and estimate are compared.
        degradation: how ``low_res`` was made.
    """

    name: str
    truth: Volume
    low_res: Volume
    mask: np.ndarray
    degradation: Degradation


def prepare_case(
    scan: Scan, recipe: Recipe, *, mask_source: str | Path, nan: str = "refuse", name: str | None = None
) -> Case:
    """Reads a scan and its mask, and degrades the scan as the recipe tests, or reads the other one of a real pair.

    Args:
        scan: the files.
        recipe: names the degradation.
        mask_source: "auto" (see ``metrics.foreground_mask``), "none" for every voxel, or a folder that holds a mask
            of the case's name, non-zero inside.
        nan: see ``read_volume``.
        name: the case's name; the file's without its ending unless given.

    Raises:
        VolumeError, DataError: if scan or mask cannot be used.
    """
    path, degradation = scan.high_res, recipe.testing_degradation()
    name = stem(path) if name is None else name
    truth, low_res = read_pair(scan, degradation, nan=nan, axes=recipe.axes, intensity_kind=recipe.intensity.kind)
    mask = _mask(path, name, truth, mask_source, nan=nan)
    if not mask.any():
        raise DataError(f"{path}: nothing of the scan lies in the mask")
    try:
        check_size(low_res, by_slice=degradation.by_slice)
    except VolumeError as error:
        raise VolumeError(f"{path}: after degradation by {degradation.factors}, {error}") from error
    return Case(name, truth, low_res, mask, degradation)


def baseline_estimates(case: Case, methods: Sequence[str], protocol: str) -> Iterator[tuple[str, np.ndarray]]:
    """(method, estimate) for some of ``baselines.NAMES``, on the grid that is right for the degradation and with the
    linear fit that is best where the protocol compares.
    """
    grid_map = case.degradation.grid_map(case.truth.shape).inverse()
    for method in methods:
        if method == baselines.IDENTITY:
            region = case.mask if metrics.PROTOCOLS[protocol].masked else np.ones_like(case.mask)
            yield method, baselines.linear_fit(case.low_res.data, case.truth.data, region)
        else:
            yield method, baselines.interpolate(case.low_res.data, grid_map, case.truth.shape, method)


def in_scale_of_truth(case: Case, estimate: np.ndarray, window: Window, kind: str) -> np.ndarray:
    """An estimate of another contrast as the truth's own intensity window would show it.

    A prediction gets the intensity scale of the training targets. Where the truth is known its own scale can be put in
    place, which leaves what the network itself got wrong; taloma2020 measures in network range, of
    which this is the nearest that a single scan allows.

    Args:
        case: the case.
        estimate: (x, y, z), in the scan intensities that ``window`` gives.
        window: the model's target window.
        kind: the recipe's intensity kind, a key of ``tf_mrsr.intensity.KINDS``.
    """
    return intensity.measure(kind, case.truth.data).to_scan(window.to_network(estimate))


def evaluate_estimate(case: Case, estimate: np.ndarray, protocol: str) -> Mapping[str, float]:
    """The value of each metric.

    Args:
        case: the case.
        estimate: (x, y, z) with the truth's first voxel first; voxels beyond the truth are left out.
        protocol: a key of ``metrics.PROTOCOLS``.

    Raises:
        DataError: if the estimate does not cover the truth.
    """
    shape = case.truth.shape
    if any(e < t for e, t in zip(estimate.shape, shape, strict=True)):
        raise DataError(f"{case.name}: the estimate has {estimate.shape} voxels, fewer than the scan's {shape}")
    estimate = estimate[tuple(slice(0, n) for n in shape)]
    try:
        return metrics.PROTOCOLS[protocol].compare(case.truth.data, estimate, case.mask)
    except DataError as error:
        raise DataError(f"{case.name}: {error}") from error


def _mask(path: Path, name: str, truth: Volume, source: str | Path, *, nan: str) -> np.ndarray:
    if source == "none":
        return np.ones(truth.shape, bool)
    if source == "auto":
        try:
            return metrics.foreground_mask(truth.data)
        except DataError as error:
            raise DataError(f"{path}: {error}") from error
    candidates = [Path(source) / (name + suffix) for suffix in NIFTI_SUFFIXES]
    mask_path = next((c for c in candidates if c.is_file()), None)
    if mask_path is None:
        raise DataError(f"{source}: no mask named {candidates[-1].name}; give one per scan, named as in the table")
    try:
        mask = on_axes_of(truth, read_volume(mask_path, nan=nan))
    except DataError as error:
        raise DataError(f"{mask_path}, {path}: {error}") from error
    # The truth may have lost its last voxels to a degradation that needs a multiple of its factor.
    mask = replace(mask, data=mask.data[tuple(slice(0, n) for n in truth.shape)])
    if mask.shape != truth.shape or not np.allclose(mask.affine, truth.affine, atol=1e-3):
        raise DataError(f"{mask_path}: the mask lies on another grid than the scan; resample it onto the scan's")
    if not mask.data.any():
        raise DataError(f"{mask_path}: the mask is empty")
    return mask.data != 0
