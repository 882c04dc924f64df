"""Checkerboard artefacts of the ways of enlarging: ``python -m benchmarks.checkerboard SCAN RUN ...``.

An enlargement that treats the r places of a high-resolution voxel differently leaves a pattern of period r: a line in
the power spectrum at the multiples of 1 / r. Told is how far, in dB, that line stands above the spectrum beside it, on
average over the three axes: in the scan itself, in the cubic spline, and in each run's network with new weights and as
trained. 0 dB is no artefact.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

BESIDE = 6  # bins to one side that a line is compared with


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("scan", type=Path)
    arguments.add_argument("runs", type=Path, nargs="+")
    chosen = arguments.parse_args()
    import keras

    from tf_mrsr import model_folder
    from tf_mrsr.baselines import interpolate
    from tf_mrsr.cohort import Scan
    from tf_mrsr.evaluation import prepare_case
    from tf_mrsr.inference import models
    from tf_mrsr.limits import DEFAULT_MEMORY

    print("| | with new weights, dB | trained, dB |\n| --- | --- | --- |")
    for number, run in enumerate(chosen.runs):
        run = model_folder.resolve(run)
        trained = models.load(run)
        recipe = trained.recipe
        case = prepare_case(Scan(chosen.scan), recipe, mask_source="auto")
        if number == 0:
            factor = max(case.degradation.factors)
            grid_map = case.degradation.grid_map(case.truth.shape).inverse()
            cubic = interpolate(case.low_res.data, grid_map, case.truth.shape, "cubic")
            print(f"| the scan | | {line_above_its_surroundings(case.truth.data, factor):+.1f} |")
            print(f"| cubic spline | | {line_above_its_surroundings(cubic, factor):+.1f} |")
        if case.degradation.factors != (factor,) * 3:
            arguments.error(f"{run}: a network for factors {case.degradation.factors}, expected {(factor,) * 3}")
        keras.utils.set_random_seed(0)
        new = models.Model(recipe, models.resolver_for(recipe, models.build_generator(recipe)))
        found = [
            line_above_its_surroundings(model.super_resolve(case.low_res, DEFAULT_MEMORY).data, factor)
            for model in (new, trained)
        ]
        words = f"{run.name}: {recipe.network.generator.get('upsampling', recipe.network.name)}"
        print(f"| {words} | {found[0]:+.1f} | {found[1]:+.1f} |", flush=True)


def line_above_its_surroundings(volume: np.ndarray, factor: int) -> float:
    """Power at the multiples of 1 / factor over that beside them, in dB, the mean of (x, y, z)."""
    return float(np.mean([_along(np.moveaxis(volume, axis, -1), factor) for axis in range(3)]))


def _along(lines: np.ndarray, factor: int) -> float:
    size = lines.shape[-1] // (2 * factor) * 2 * factor
    lines = lines[..., :size].astype(np.float64)
    window = np.hanning(size)  # the ends of a line would otherwise leak into every bin
    power = np.mean(np.abs(np.fft.rfft(lines * window)) ** 2, axis=(0, 1))
    line, beside = 0.0, 0.0
    for bin_ in range(size // factor, size // 2 + 1, size // factor):
        line += power[bin_]
        # The window is 3 bins wide, so the nearest two belong to the line.
        below = power[bin_ - 2 - BESIDE : bin_ - 2]
        above = power[bin_ + 3 : bin_ + 3 + BESIDE]
        beside += np.mean(np.concatenate([below, above]))
    return 10 * np.log10(line / beside)


if __name__ == "__main__":
    main()
