"""What a model does to bright lesions: ``python -m benchmarks.lesions MODEL FLAIR T1W``.

Lesions are found in the FLAIR itself, since nobody drew them: regions brighter than white matter, in white matter. Told
is the contrast of each, its mean over that of the white matter around it, in the scan, in the cubic spline and in the
network's result from the degraded scan.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from scipy import ndimage
from skimage.filters import threshold_multiotsu

BRIGHT = 3.0  # robust standard deviations above white matter
SMALLEST, MOST = 27, 20  # voxels of a lesion; lesions that are told of
SHELL = (2, 4)  # voxels from a lesion to the inner and outer side of what surrounds it


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("model", "flair", "t1w"):
        arguments.add_argument(name, type=Path)
    chosen = arguments.parse_args()
    from tf_mrsr import model_folder
    from tf_mrsr.baselines import interpolate
    from tf_mrsr.cohort import Scan, read_scan
    from tf_mrsr.evaluation import prepare_case
    from tf_mrsr.inference import models
    from tf_mrsr.limits import DEFAULT_MEMORY

    model = models.load(model_folder.resolve(chosen.model))
    case = prepare_case(Scan(chosen.flair), model.recipe, mask_source="auto")
    t1w = read_scan(chosen.t1w, axes=model.recipe.axes)
    if not np.allclose(t1w.affine, case.truth.affine, atol=1e-3):
        arguments.error("FLAIR and T1W are not on one grid; register and resample the one to the other")
    inside = tuple(slice(n) for n in case.truth.shape)  # of the T1w and of what a network enlarges beyond the scan
    found = find(case.truth.data, t1w.data[inside])
    if not found:
        arguments.error("no bright lesions found")
    grid_map = case.degradation.grid_map(case.truth.shape).inverse()
    estimates = {
        "scan": case.truth.data,
        "cubic spline": interpolate(case.low_res.data, grid_map, case.truth.shape, "cubic"),
        "network": model.super_resolve(case.low_res, DEFAULT_MEMORY).data[inside],
    }
    print("| lesion, voxels | " + " | ".join(estimates) + " |\n| --- | --- | --- | --- |")
    contrasts = [[contrast(data, *pair) for data in estimates.values()] for pair in found]
    for (lesion, _), row in zip(found, contrasts, strict=True):
        print(f"| {np.count_nonzero(lesion)} | " + " | ".join(f"{value:.3f}" for value in row) + " |")
    kept = np.array(contrasts) / np.array(contrasts)[:, :1]
    print("| share of the scan's, mean | " + " | ".join(f"{value:.3f}" for value in kept.mean(0)) + " |")
    print("| the same, least | " + " | ".join(f"{value:.3f}" for value in kept.min(0)) + " |")


def find(flair: np.ndarray, t1w: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """(lesion, white matter around it), masks, the largest first."""
    brain = t1w > 0
    white = t1w > threshold_multiotsu(t1w[brain], 3)[1]
    usual = np.median(flair[white])
    deviation = 1.4826 * np.median(np.abs(flair[white] - usual))
    labels, count = ndimage.label((flair > usual + BRIGHT * deviation) & ndimage.binary_erosion(brain, iterations=5))
    sizes = np.bincount(labels.ravel(), minlength=count + 1)
    found = []
    for label in np.argsort(-sizes[1:], kind="stable") + 1:
        if sizes[label] < SMALLEST or len(found) == MOST:
            break
        lesion = labels == label
        near, far = (ndimage.binary_dilation(lesion, iterations=n) for n in SHELL)
        around = far & ~near
        # Cortex is as bright, but has no white matter on its other side.
        if np.mean(white[around]) > 0.6:
            found.append((lesion, around & white & (labels == 0)))
    return found


def contrast(flair: np.ndarray, lesion: np.ndarray, around: np.ndarray) -> float:
    return float(flair[lesion].mean() / flair[around].mean() - 1)


if __name__ == "__main__":
    main()
