"""What the machine itself can do, the memory that a process takes, and processes for single measurements.

Linux only (/proc).
"""

from __future__ import annotations

import gzip
import importlib
import json
import os
import re
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from benchmarks.table import Row
from tf_mrsr.cli import switch_on_onednn
from tf_mrsr.limits import SLOW_BFLOAT16

# Some libraries write more below it.
_ERROR = re.compile(r"[\w.]+(Error|Exception)\b")


def in_process(function: Callable[..., Any], **arguments: Any) -> Any:
    """What a function of a module returns in a process of its own, so that its memory is its own.

    Arguments and result must fit into JSON.

    Raises:
        RuntimeError: if the process fails, with its last line that names an error, or else with its last line.
    """
    module = function.__module__
    if module == "__main__":  # of a script that was started with python -m
        module = sys.modules[module].__spec__.name
    command = [
        sys.executable,
        "-m",
        "benchmarks.machine",
        module,
        function.__name__,
        json.dumps(arguments),
    ]
    switch_on_onednn()
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        raise RuntimeError(([line for line in lines if _ERROR.match(line)] or lines)[-1])
    return json.loads(done.stdout.splitlines()[-1])


def limits(*, quick: bool) -> list[Row]:
    """Matrix multiplication, copying and inflating, each the best of some tries."""
    rows = in_process(_limits, size=2048 if quick else 4096)
    note = "" if has_bfloat16() else "no instructions for it: its rows are left out"
    return [
        *(Row("machine", case, rate=rate, unit=unit) for case, rate, unit in rows),
        Row("machine", "3D convolution, bfloat16", ratio=_bfloat16_speed(), to="its speed in float32", note=note),
    ]


def has_bfloat16() -> bool:
    """Whether computing in bfloat16 is not much slower than in float32 here."""
    return _bfloat16_speed() >= SLOW_BFLOAT16


@cache
def _bfloat16_speed() -> float:
    return in_process(_measure_bfloat16)


def _measure_bfloat16() -> float:
    from tf_mrsr import bfloat16

    return bfloat16.speed()


def _limits(size: int) -> list[tuple[str, float, str]]:
    return [
        (f"matrix multiplication, float32, {size} x {size}", gemm_rate("float32", size), "GFLOP/s"),
        (f"matrix multiplication, bfloat16, {size} x {size}", gemm_rate("bfloat16", size), "GFLOP/s"),
        ("memory copy, bytes read and written", copy_rate(), "GB/s"),
        ("gzip inflate (zlib), one core, bytes written", inflate_rate(noisy_ball((160, 160, 160))), "MB/s"),
    ]


def gemm_rate(precision: str = "float32", size: int = 4096, repeats: int = 3) -> float:
    """The best matrix multiplication rate of some tries, GFLOP/s."""
    import tensorflow as tf

    matrix = tf.cast(tf.random.stateless_normal((size, size), (1, 2)), precision)
    multiply = tf.function(lambda a: tf.reduce_sum(a @ a))
    return 2 * size**3 / fastest(lambda: multiply(matrix).numpy(), repeats) / 1e9


def copy_rate() -> float:
    """GB/s of one thread, bytes read and bytes written together."""
    source = np.ones(2**27, np.uint8)
    target = np.empty_like(source)
    return 2 * source.nbytes / fastest(lambda: np.copyto(target, source), 5) / 1e9


def inflate_rate(data: np.ndarray) -> float:
    """MB/s of what zlib unpacks of the packed array, at nibabel's compression level."""
    packed = gzip.compress(data.tobytes(order="F"), 1)
    return data.nbytes / fastest(lambda: zlib.decompress(packed, 31), 3) / 1e6


def noisy_ball(shape: tuple[int, int, int], seed: int = 0) -> np.ndarray:
    """An int16 volume (x, y, z) that packs like a skull-stripped head: zeros around a ball of noisy tissue."""
    rng = np.random.default_rng(seed)
    places = np.meshgrid(*(np.linspace(-1.1, 1.1, n, dtype=np.float32) for n in shape), indexing="ij", sparse=True)
    inside = sum(place**2 for place in places) < 1
    smooth = 600 + 200 * np.cos(7 * places[0]) * np.cos(5 * places[1]) * np.cos(6 * places[2])
    return np.where(inside, smooth + rng.normal(0, 15, shape), 0).astype(np.int16)


def fastest(run: Callable[[], Any], repeats: int) -> float:
    """Seconds of the fastest of ``repeats`` runs, after one that does not count."""
    run()
    return min(timed(run) for _ in range(repeats))


def timed(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def peak_mb(run: Callable[[], Any]) -> float:
    """Largest memory of this process during the run, above that before it."""
    with open("/proc/self/clear_refs", "w") as stream:
        stream.write("5")
    base = _status("VmRSS")
    run()
    return (_status("VmHWM") - base) / 1024


def _status(field: str) -> int:
    """Kilobytes."""
    with open("/proc/self/status") as stream:
        return next(int(line.split()[1]) for line in stream if line.startswith(field))


def _main() -> None:
    module, function, arguments = sys.argv[1:]
    print(json.dumps(getattr(importlib.import_module(module), function)(**json.loads(arguments))))


if __name__ == "__main__":
    _main()
