"""Measures of agreement between a truth and an estimate, both float32 of shape (x, y, z)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from skimage.filters import threshold_otsu
from skimage.metrics import structural_similarity

from tf_mrsr.errors import DataError

METRICS = ("psnr", "ssim", "mae", "mse")
SSIM_WINDOW = 7
_REACH = SSIM_WINDOW // 2
_SLAB_PLANES = 24


def mse(truth: np.ndarray, estimate: np.ndarray) -> float:
    """Mean of (truth - estimate)^2, in squared scan intensities."""
    return float(np.mean(np.square(truth.astype(np.float64) - estimate)))


def mse_over_rows(truth: np.ndarray, estimate: np.ndarray) -> float:
    """Sum of (truth - estimate)^2 over the number of rows, for slices (x, y): ``mse`` times the number of columns.

    That is what the narcomey2018 program calls the mean squared error of Model 1, and table 1 of the paper shows; for
    Model 2 it takes the mean.
    """
    return mse(truth, estimate) * truth.shape[0]


def mae(truth: np.ndarray, estimate: np.ndarray) -> float:
    """Mean of |truth - estimate|, in scan intensities."""
    return float(np.mean(np.abs(truth.astype(np.float64) - estimate)))


def psnr(truth: np.ndarray, estimate: np.ndarray, data_range: float) -> float:
    """Peak signal-to-noise ratio 10 log10(data_range^2 / mse), in dB; infinite for equal arrays."""
    error = mse(truth, estimate)
    return float("inf") if error == 0 else float(10 * np.log10(data_range**2 / error))


def ssim(truth: np.ndarray, estimate: np.ndarray, data_range: float, mask: np.ndarray | None = None) -> float:
    """Mean structural similarity (scikit-image, uniform 7-voxel windows in 3D), over ``mask`` if there is one."""
    if min(truth.shape) < SSIM_WINDOW:
        raise DataError(f"SSIM needs {SSIM_WINDOW} voxels or more along each axis, got shape {truth.shape}")
    if mask is None:  # windows that reach over the border do not count
        mask = np.zeros(truth.shape, bool)
        mask[(slice(_REACH, -_REACH),) * 3] = True
    planes, total = truth.shape[0], 0.0
    for start in range(0, planes, _SLAB_PLANES):  # by slabs, to save memory
        stop = min(start + _SLAB_PLANES, planes)
        low, high = max(min(start - _REACH, planes - SSIM_WINDOW), 0), min(max(stop + _REACH, SSIM_WINDOW), planes)
        # Scaled to a range of 1 in double precision: SSIM does not change, and no square overflows.
        scaled = [data[low:high].astype(np.float64) / data_range for data in (truth, estimate)]
        _, similarity = structural_similarity(*scaled, data_range=1.0, full=True)
        total += float(similarity[start - low : stop - low][mask[start:stop]].sum())
    return total / np.count_nonzero(mask)


@dataclass(frozen=True)
class Protocol:
    """How a truth and an estimate are compared; printed with every table.

    Attributes:
        name: the name of the protocol.
        description: in words, for the table.
        compare: takes truth, estimate and mask (all (x, y, z)) and returns the value of each of ``METRICS``.
        masked: whether only voxels of the mask count.
    """

    name: str
    description: str
    compare: Callable[[np.ndarray, np.ndarray, np.ndarray], dict[str, float]]
    masked: bool


def _compare_inside(truth: np.ndarray, estimate: np.ndarray, mask: np.ndarray) -> dict[str, float]:
    inside = truth[mask]
    data_range = float(inside.max() - inside.min())
    if data_range == 0:
        raise DataError("the truth is constant inside the mask, so there is no range to measure against")
    return {
        "psnr": psnr(inside, estimate[mask], data_range),
        "ssim": ssim(truth, estimate, data_range, mask),
        "mae": mae(inside, estimate[mask]),
        "mse": mse(inside, estimate[mask]),
    }


def _compare_sanchez2018(truth: np.ndarray, estimate: np.ndarray, mask: np.ndarray) -> dict[str, float]:
    data_range = float(max(truth.max(), estimate.max()) - min(truth.min(), estimate.min()))
    if data_range == 0:
        raise DataError("truth and estimate are constant, so there is no range to measure against")
    truth, estimate = truth * mask, estimate * mask
    return {
        "psnr": psnr(truth, estimate, data_range),
        "ssim": ssim(truth, estimate, data_range),
        "mae": mae(truth, estimate),
        "mse": mse(truth, estimate),
    }


def _compare_li2017(truth: np.ndarray, estimate: np.ndarray, mask: np.ndarray) -> dict[str, float]:
    low, high = float(truth.min()), float(truth.max())
    if low == high:
        raise DataError("the truth is constant, so it cannot be put on the scale 0 ... 255")
    truth, estimate = ((data - low) * (255 / (high - low)) for data in (truth, estimate))
    return {
        "psnr": psnr(truth, estimate, 255),
        "ssim": ssim(truth, estimate, 255),
        "mae": mae(truth, estimate),
        "mse": mse(truth, estimate),
    }


def _compare_taloma2020(truth: np.ndarray, estimate: np.ndarray, mask: np.ndarray) -> dict[str, float]:
    centre, width = (float(f(truth, dtype=np.float64)) for f in (np.mean, np.std))
    if width == 0:
        raise DataError("the truth is constant, so it cannot be standardised")
    truth, estimate = ((data - centre) / width for data in (truth, estimate))
    data_range = float(truth.max() - truth.min())
    return {
        "psnr": psnr(truth, estimate, data_range),
        "ssim": ssim(truth, estimate, data_range),
        "mae": mae(truth, estimate),
        "mse": mse(truth, estimate),
    }


def _compare_taloma2020_peak(truth: np.ndarray, estimate: np.ndarray, mask: np.ndarray) -> dict[str, float]:
    values = _compare_taloma2020(truth, estimate, mask)
    centre, width = (float(f(truth, dtype=np.float64)) for f in (np.mean, np.std))
    peak = (float(max(truth.max(), estimate.max())) - centre) / width
    return {**values, "psnr": float("inf") if values["mse"] == 0 else float(10 * np.log10(peak**2 / values["mse"]))}


def _compare_slices(truth: np.ndarray, estimate: np.ndarray, mask: np.ndarray) -> dict[str, float]:
    low, high = float(truth.min()), float(truth.max())
    if low == high:
        raise DataError("the truth is constant, so there is no range to measure against")
    if min(truth.shape[:2]) < SSIM_WINDOW:
        raise DataError(f"SSIM needs {SSIM_WINDOW} pixels or more along both axes of a slice, got {truth.shape[:2]}")
    scaled = [data.astype(np.float64) / (high - low) for data in (truth, estimate)]
    return {
        "psnr": psnr(truth, estimate, high - low),
        "ssim": float(structural_similarity(*scaled, data_range=1.0, channel_axis=2)),
        "mae": mae(truth, estimate),
        "mse": mse(truth, estimate),
    }


def _compare_narcomey2018_model1(truth: np.ndarray, estimate: np.ndarray, mask: np.ndarray) -> dict[str, float]:
    return {**_compare_slices(truth, estimate, mask), "mse": mse_over_rows(truth, estimate)}


_SLICES = "raw intensities, no mask, SSIM of slices (7-pixel windows in 2D); data range = max - min of the truth; "
PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol(
            "masked",
            "means over the voxels of the mask; data range = max - min of the truth inside the mask",
            _compare_inside,
            masked=True,
        ),
        Protocol(
            "sanchez2018",
            "truth and estimate multiplied by the mask, means over the whole volume; data range = joint max - joint "
            "min of both before masking (as the sanchez2018 program measures)",
            _compare_sanchez2018,
            masked=True,
        ),
        Protocol(
            "li2017",
            "means over the whole volume, no mask, on the scale that puts the truth's min at 0 and its max at 255; "
            "data range = 255 (as the li2017 paper's table)",
            _compare_li2017,
            masked=False,
        ),
        Protocol(
            "taloma2020",
            "means over the whole volume, no mask, in standard deviations of the truth; data range = max - min of the "
            "truth (the taloma2020 report standardises its volumes and does not state its range)",
            _compare_taloma2020,
            masked=False,
        ),
        Protocol(
            "taloma2020_peak",
            "as taloma2020, but the peak of PSNR is the largest voxel of truth and estimate, in standard deviations "
            "above the truth's mean (as in the author's earlier program for slices, which has it from medSynthesis)",
            _compare_taloma2020_peak,
            masked=False,
        ),
        Protocol(
            "narcomey2018_model1",
            f"{_SLICES}MSE over rows: the mean squared error times the number of columns, which is what the program "
            "computes for Model 1 and the narcomey2018 report shows",
            _compare_narcomey2018_model1,
            masked=False,
        ),
        Protocol(
            "narcomey2018_model2",
            f"{_SLICES}MSE the plain mean, as the narcomey2018 program has it for Model 2",
            _compare_slices,
            masked=False,
        ),
    )
}


def foreground_mask(data: np.ndarray) -> np.ndarray:
    """A mask (bool, (x, y, z)) of the head or brain in a scan.

    Where a tenth of the voxels or more are exactly 0 (skull-stripped or masked scans) the mask is everything else;
    otherwise it is what lies above Otsu's threshold. Holes are filled and only the largest piece is kept.
    """
    zero = data == 0
    mask = ~zero if zero.mean() >= 0.1 else data > threshold_otsu(data.ravel())
    mask = ndimage.binary_fill_holes(mask)
    labels, count = ndimage.label(mask)
    if count == 0:
        raise DataError("no foreground found for the automatic mask; give a mask folder or --mask none")
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    return labels == sizes.argmax()
