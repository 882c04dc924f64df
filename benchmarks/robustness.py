"""A model on input that its training did not show: ``python -m benchmarks.robustness MODEL SCAN``.

The scan is degraded as the model's recipe tests it, and then spoilt; the network's gain over the cubic spline, which
gets the same input, says whether it still helps. Compared is the brain (the protocol "masked") with the scan itself.
Beside it stands what ``tf-mrsr predict --report`` would say, which does not know the scan.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from tf_mrsr.degradation import BlockAverage, Degradation, GaussianDecimation, SliceProfile
from tf_mrsr.evaluation import Case

Change = Callable[[np.ndarray], np.ndarray]
SHADING = 0.4  # of the mean, from one side to the other


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("model", "scan"):
        arguments.add_argument(name, type=Path)
    chosen = arguments.parse_args()
    from tf_mrsr import model_folder
    from tf_mrsr.baselines import interpolate
    from tf_mrsr.cohort import Scan
    from tf_mrsr.evaluation import evaluate_estimate, prepare_case
    from tf_mrsr.inference import models
    from tf_mrsr.limits import DEFAULT_MEMORY
    from tf_mrsr.report import trust
    from tf_mrsr.volume import Volume

    model = models.load(model_folder.resolve(chosen.model))
    case = prepare_case(Scan(chosen.scan), model.recipe, mask_source="auto")
    grid_map = case.degradation.grid_map(case.truth.shape).inverse()

    def super_resolve(volume: Volume) -> Volume:
        return model.super_resolve(volume, DEFAULT_MEMORY)

    def row(words: str, low_res: np.ndarray, case: Case = case) -> None:
        spoilt = replace(case.low_res, data=low_res.astype(np.float32))
        cubic = interpolate(spoilt.data, grid_map, case.truth.shape, "cubic")
        result = super_resolve(spoilt)
        found = [evaluate_estimate(case, estimate, "masked") for estimate in (cubic, result.data)]
        report = trust.examine(spoilt, result, super_resolve, model.recipe).trust
        cells = [f"{f['psnr']:.2f} / {f['ssim']:.4f}" for f in found]
        cells += [f"{found[1]['psnr'] - found[0]['psnr']:+.2f}", f"{report.gain:+.2f}", f"{report.detail:.2f}"]
        cells += [f"{report.contradiction:.2%}", str(len(report.remarks()))]
        print(f"| {words} | {' | '.join(cells)} |", flush=True)

    head = ("input", "cubic spline, PSNR / SSIM", "network", "gain, dB", "report: gain one step coarser, dB", "detail")
    print(f"| {' | '.join((*head, 'degraded again, off the scan', 'remarks'))} |\n{'| --- ' * 8}|")
    for words, change in _changes(float(np.percentile(case.low_res.data, 99))):
        row(words, change(case.low_res.data))
    shaded = replace(case.truth, data=_shaded(case.truth.data))
    words = f"shading of {SHADING:.0%} from one side to the other, in the scan as well"
    row(words, case.degradation(shaded.data), replace(case, truth=shaded))
    for words, degradation in _other_scanning(case.degradation):
        row(words, degradation(case.truth.data))


def _changes(bright: float) -> Iterator[tuple[str, Change]]:
    """(words, change of the low-resolution voxels); noise is Rician, its level a share of the scan's bright tissue."""
    yield "as in training", lambda data: data
    for level in (0.01, 0.03, 0.05):
        yield f"noise of {level:.0%}", lambda data, level=level: _rician(data, level * bright)
    yield "one voxel 3 times as bright as all others", _with_a_bright_voxel


def _rician(data: np.ndarray, sigma: float) -> np.ndarray:
    real, imaginary = np.random.default_rng(0).normal(0, sigma, (2, *data.shape))
    return np.hypot(data + real, imaginary)


def _shaded(data: np.ndarray) -> np.ndarray:
    ramp = np.linspace(1 - SHADING / 2, 1 + SHADING / 2, data.shape[0])
    return (data * ramp[:, None, None]).astype(np.float32)


def _with_a_bright_voxel(data: np.ndarray) -> np.ndarray:
    spoilt = data.copy()
    spoilt[0, 0, 0] = 3 * data.max()
    return spoilt


def _other_scanning(trained: Degradation) -> Iterator[tuple[str, Degradation]]:
    """(words, degradation): as the model's own, but for how far into its neighbours a voxel reaches.

    At half its height a Gaussian slice profile is as wide as the slices are apart.
    """
    if isinstance(trained, GaussianDecimation):
        for sigma in (0.5, 1.5):
            yield f"blur of {sigma} voxels in place of {trained.sigma}", replace(trained, sigma=sigma)
    if isinstance(trained, BlockAverage):
        factor = max(trained.factors)
        yield "slices with gaps of a third of their distance", SliceProfile(trained.factors, factor * 2 / 3)
        yield "slices that overlap by a third of their distance", SliceProfile(trained.factors, factor * 4 / 3)
        yield "slices of a Gaussian profile", SliceProfile(trained.factors, factor, "gaussian")


if __name__ == "__main__":
    main()
