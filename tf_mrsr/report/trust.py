"""How far to trust one prediction, as far as the scan itself can tell; ``predict --report`` writes it down.

Nobody has the truth of a prediction. What can be had is the network's gain on the scan itself, one step coarser: the
scan is degraded as the training's scans were, estimated again and compared with itself. Remote sensing judges sharpened
pictures in this way (Wald et al., Photogrammetric Engineering & Remote Sensing 63, 1997). The step is not the one that
matters, so it is no measurement of the result; but a network that fails there fails on this kind of scan.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from tf_mrsr import baselines, metrics
from tf_mrsr.cohort import check_size
from tf_mrsr.errors import DataError, VolumeError
from tf_mrsr.evaluation import Case, baseline_estimates, evaluate_estimate
from tf_mrsr.geometry import slices_last
from tf_mrsr.recipe import Recipe
from tf_mrsr.volume import Volume

_BRIGHT = 99  # percentile of the foreground, which other numbers are shares of
# Detail is the weaker the finer it is: where a network adds more than in the test, it adds what is no detail.
MOST_DETAIL = 1.3


@dataclass(frozen=True)
class Trust:
    """What was found; shares are of the scan's bright tissue, and None where the model's work cannot be tested so.

    Attributes:
        cubic_psnr, network_psnr: in dB, of the scan estimated from itself one step coarser, inside its foreground.
        cubic_ssim, network_ssim: the same.
        added: root mean square of what the network added to the cubic spline, in the foreground.
        added_in_test: the same in the test.
        contradiction: root mean square of how far the result, degraded, lies from the scan, in the foreground.
        cubic_contradiction: the same of the cubic spline.
        lowest, highest: of the result's intensities.
        scan_lowest, scan_highest: of the scan's.
        mean_ratio: the result's mean over the scan's, both of the whole volume; None where the scan's is 0.
    """

    lowest: float
    highest: float
    scan_lowest: float
    scan_highest: float
    mean_ratio: float | None
    cubic_psnr: float | None = None
    network_psnr: float | None = None
    cubic_ssim: float | None = None
    network_ssim: float | None = None
    added: float | None = None
    added_in_test: float | None = None
    contradiction: float | None = None
    cubic_contradiction: float | None = None

    @property
    def gain(self) -> float | None:
        """Of the network over the cubic spline in the test, in dB."""
        return None if self.network_psnr is None else self.network_psnr - self.cubic_psnr

    @property
    def detail(self) -> float | None:
        """What the network added over what it added in the test."""
        return None if self.added_in_test is None or self.added_in_test == 0 else self.added / self.added_in_test

    def remarks(self) -> list[str]:
        """In words, what speaks against the result; empty if nothing found does."""
        found = []
        if self.gain is not None and self.gain < 0:
            found.append(
                f"one step coarser the network is {-self.gain:.1f} dB worse than the cubic spline on this scan: take "
                "the spline, or a model that was trained on scans like it"
            )
        if self.detail is not None and self.detail > MOST_DETAIL:
            found.append(
                f"the network adds {self.detail:.1f} times the detail that it added one step coarser, where less is "
                "to be expected: it may take noise, or a scan that is sharper than those of its training, for detail"
            )
        if self.contradiction is not None and self.contradiction > self.cubic_contradiction:
            found.append(
                f"degraded again, the result lies further from the scan ({self.contradiction:.1%} of its bright "
                f"tissue) than the cubic spline ({self.cubic_contradiction:.1%})"
            )
        return found


class Found(NamedTuple):
    """The numbers, and the cubic spline on the result's grid (axes as the result's; None between contrasts)."""

    trust: Trust
    cubic: np.ndarray | None


def examine(scan: Volume, result: Volume, super_resolve: Callable[[Volume], Volume], recipe: Recipe) -> Found:
    """Holds a prediction against the scan that it was made of.

    Args:
        scan: what went in, axes as stored.
        result: what came out.
        super_resolve: the model, as it made the result.
        recipe: the model's.

    Raises:
        VolumeError: if ``super_resolve`` does.
    """
    mean = scan.data.mean(dtype=np.float64)
    ranges = Trust(
        lowest=float(result.data.min()),
        highest=float(result.data.max()),
        scan_lowest=float(scan.data.min()),
        scan_highest=float(scan.data.max()),
        mean_ratio=None if mean == 0 else float(result.data.mean(dtype=np.float64) / mean),
    )
    degradation = recipe.testing_degradation()
    if not degradation.changes_grid:
        return Found(ranges, None)
    order = (0, 1, 2)
    if recipe.axes == "slices_last":
        order = slices_last(scan.affine, keep_in_plane=degradation.by_slice)
    scan, result = scan.with_axes(order), result.with_axes(order)
    cubic = baselines.interpolate(scan.data, degradation.network_grid_map(), result.shape, "cubic")
    mask = _foreground(scan)
    bright = float(np.percentile(scan.data[mask], _BRIGHT)) or 1.0

    def contradiction(estimate: np.ndarray) -> float:
        here = tuple(slice(0, n) for n in scan.shape)
        return _rms(degradation(estimate)[here], scan.data, mask) / bright

    # The mask on the result's grid: each of its voxels lies in one of the scan's.
    fine = mask
    for axis, factor in enumerate(degradation.factors):
        fine = np.repeat(fine, factor, axis)
    tested, added_in_test = _test(scan, mask, super_resolve, recipe)
    found = dataclasses.replace(
        ranges,
        **tested,
        added=_rms(result.data, cubic, fine) / bright,
        added_in_test=None if added_in_test is None else added_in_test / bright,
        contradiction=contradiction(result.data),
        cubic_contradiction=contradiction(cubic),
    )
    return Found(found, cubic.transpose(np.argsort(order)))


def _test(
    scan: Volume, mask: np.ndarray, super_resolve: Callable[[Volume], Volume], recipe: Recipe
) -> tuple[dict[str, float], float | None]:
    """PSNR and SSIM of spline and network on the scan one step coarser, and what the network added there; nothing where
    too few voxels are left, or the foreground is all of one value.
    """
    degradation = recipe.testing_degradation()
    usable = tuple(slice(0, n) for n in degradation.usable_shape(scan.shape))
    truth, mask = replace(scan, data=scan.data[usable]), mask[usable]
    if min(truth.shape) < metrics.SSIM_WINDOW or not mask.any() or np.ptp(truth.data[mask]) == 0:
        return {}, None
    low_res = truth.resampled(degradation(truth.data), degradation.grid_map(truth.shape))
    try:
        check_size(low_res, by_slice=degradation.by_slice)
    except VolumeError:
        return {}, None
    case = Case("the scan", truth, low_res, mask, degradation)
    estimates = dict(baseline_estimates(case, ["cubic"], "masked"))
    estimates["network"] = super_resolve(low_res).data[tuple(slice(0, n) for n in truth.shape)]
    values = {name: evaluate_estimate(case, estimate, "masked") for name, estimate in estimates.items()}
    numbers = {f"{name}_{metric}": values[name][metric] for name in values for metric in ("psnr", "ssim")}
    return numbers, _rms(estimates["network"], estimates["cubic"], mask)


def _foreground(scan: Volume) -> np.ndarray:
    """Bool (x, y, z); everything where no foreground stands out."""
    try:
        return metrics.foreground_mask(scan.data)
    except DataError:
        return np.ones(scan.shape, bool)


def _rms(first: np.ndarray, second: np.ndarray, mask: np.ndarray) -> float:
    """Root mean square of the difference inside the mask, plane by plane to save memory."""
    planes = zip(first, second, mask, strict=True)
    total = sum(float(np.square(a[inside] - b[inside], dtype=np.float64).sum()) for a, b, inside in planes)
    return math.sqrt(total / np.count_nonzero(mask))
