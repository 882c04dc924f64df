"""Whole-volume prediction: time as a share of the machine's own matrix-multiplication rate, and peak memory.

Every configuration runs in a process of its own, which measures the float32 GEMM rate right before and after the
network, so that the share compares like with like on a machine whose speed drifts. Linux only (/proc).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time

import numpy as np

LOW_SHAPE = {2: (112, 112, 76), 4: (56, 56, 38)}  # both give the paper's 224 x 224 x 152
REPEATS = 3


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--child", nargs=3, metavar=("UPSAMPLING", "FACTOR", "MEMORY"), help=argparse.SUPPRESS)
    chosen = arguments.parse_args()
    if chosen.child:
        print(json.dumps(measure(chosen.child[0], int(chosen.child[1]), int(chosen.child[2]))))
        return
    print("| network | memory | seconds | GFLOP | GFLOP/s | GEMM GFLOP/s | share | peak above base, MB |")
    print("| --- " * 8 + "|")
    for upsampling, factor in (("subpixel_nn", 2), ("resize", 2), ("subpixel", 2), ("subpixel_nn", 4)):
        for memory in (2**30, 2**62):
            command = [sys.executable, "-m", "benchmarks.prediction", "--child", upsampling, str(factor), str(memory)]
            output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            row = json.loads(output.splitlines()[-1])
            print(
                f"| x{factor} {upsampling} | {'1GB' if memory == 2**30 else 'unlimited'} | {row['seconds']:.2f} "
                f"| {row['gflop']:.0f} | {row['rate']:.0f} | {row['gemm']:.0f} | {row['rate'] / row['gemm']:.0%} "
                f"| {row['peak_mb']:.0f} |",
                flush=True,
            )


def measure(upsampling: str, factor: int, memory: int) -> dict[str, float]:
    """The fastest of some runs, useful work in GFLOP (of the untiled network), and memory."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    from tf_mrsr.geometry import GridMap
    from tf_mrsr.inference.super_resolver import SuperResolver
    from tf_mrsr.networks import sanchez2018

    generator = sanchez2018.generator(factor, upsampling)
    resolver = SuperResolver(generator, GridMap.decimation((factor,) * 3).inverse(), "half_max")
    volume = np.random.default_rng(0).uniform(0, 100, LOW_SHAPE[factor]).astype(np.float32)
    resolver(volume[:16, :16, :16], np.eye(4), memory)
    rates = [gemm_rate()]
    _reset_peak()
    base = _status("VmRSS")
    seconds = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        resolver(volume, np.eye(4), memory)
        seconds.append(time.perf_counter() - start)
    peak = _status("VmHWM") - base
    rates.append(gemm_rate())
    work = flop_per_low_voxel(generator) * volume.size / 1e9
    return {
        "seconds": min(seconds),
        "gflop": work,
        "rate": work / min(seconds),
        "gemm": max(rates),
        "peak_mb": peak / 1024,
    }


def gemm_rate(size: int = 4096, repeats: int = 5) -> float:
    """The best float32 matrix multiplication rate of some tries, GFLOP/s."""
    import tensorflow as tf

    matrix = tf.random.normal((size, size))
    multiply = tf.function(lambda a: tf.reduce_sum(a @ a))
    multiply(matrix)
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        multiply(matrix).numpy()
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best / 1e9


def flop_per_low_voxel(generator) -> int:
    """Multiplications and additions of the convolutions per voxel of the network's input."""
    import keras

    total, scale = 0, 1
    for layer in generator.layers:
        if isinstance(layer, keras.layers.Conv3DTranspose):
            total += 2 * layer.kernel.shape.num_elements() * scale
            scale *= int(np.prod(layer.strides))
        elif isinstance(layer, keras.layers.Conv3D):
            total += 2 * layer.kernel.shape.num_elements() * scale
        else:
            scale *= int(np.prod(getattr(layer, "size", getattr(layer, "factors", 1))))
    return total


def _reset_peak() -> None:
    with open("/proc/self/clear_refs", "w") as stream:
        stream.write("5")


def _status(field: str) -> int:
    """Kilobytes."""
    with open("/proc/self/status") as stream:
        return next(int(line.split()[1]) for line in stream if line.startswith(field))


if __name__ == "__main__":
    main()
