"""What a larger stride costs a model between contrasts: ``python -m benchmarks.strides MODEL SOURCE TARGET``.

Computed is the middle of the scan alone, 96 voxels a side, in the intensities of the whole; compared are the 64 voxels
a side inside it, where every stride has all its overlaps.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np

STRIDES = (32, 16, 8)
CROP, INNER = 96, 64


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("model", "source", "target"):
        arguments.add_argument(name, type=Path)
    chosen = arguments.parse_args()
    import tensorflow as tf

    from tf_mrsr import intensity
    from tf_mrsr.inference import models
    from tf_mrsr.inference.averaging import average_patches
    from tf_mrsr.volume import read_volume

    recipe = models.model_folder.read_recipe(chosen.model)
    generator = models.load_generator(chosen.model)
    source, target = (
        _middle(intensity.measure(recipe.intensity.kind, data).to_network(data), CROP)
        for data in (read_volume(path).data for path in (chosen.source, chosen.target))
    )
    truth = _middle(target, INNER)
    width = float(np.ptp(truth))
    print("| stride | MAE | PSNR (dB) | seconds |\n| --- | --- | --- | --- |")
    for stride in STRIDES:
        started = time.perf_counter()
        result = average_patches(
            lambda patches: generator(patches[..., None], training=False)[..., 0],
            tf.constant(source, tf.float32),
            patch=recipe.prediction.patch,
            stride=tf.constant(stride),
            batch=tf.constant(8),
        ).numpy()
        seconds = time.perf_counter() - started
        error = _middle(result, INNER) - truth
        psnr = 20 * np.log10(width / np.sqrt(np.mean(error**2)))
        print(f"| {stride} | {np.abs(error).mean():.4f} | {psnr:.2f} | {seconds:.1f} |", flush=True)


def _middle(data: np.ndarray, side: int) -> np.ndarray:
    return data[tuple(slice((n - side) // 2, (n - side) // 2 + side) for n in data.shape)]


if __name__ == "__main__":
    main()
