"""Seconds from the start of a process to its end: the help of every command, and a small prediction."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.machine import fastest, in_process, noisy_ball
from benchmarks.table import Row
from tf_mrsr.__main__ import COMMANDS

SHAPE = (48, 48, 48)
RECIPE = "sanchez2018_srgan3d_x2_subpixel_nn"


def run(*, quick: bool) -> Iterator[Row]:
    for command in COMMANDS:
        yield Row("start-up", f"tf-mrsr {command} --help", _seconds([command, "--help"], 2))
    with tempfile.TemporaryDirectory() as folder:
        in_process(make, folder=folder)
        scan, result, model = (str(Path(folder, name)) for name in ("scan.nii.gz", "result.nii.gz", "model"))
        command = ["predict", scan, "-o", result, "--model", model, "--overwrite"]
        seconds = _seconds(command, 1 if quick else 3)
        yield Row("start-up", f"tf-mrsr predict, {'x'.join(map(str, SHAPE))}, SavedModel, from start to end", seconds)
    loading = ["-c", "from tf_mrsr import cli; cli.load_tensorflow()"]
    yield Row("start-up", "of that, loading TensorFlow without what Keras loads besides", _seconds_of(loading, 2))
    yield Row("start-up", "python -c 'import tensorflow'", _seconds_of(["-c", "import tensorflow"], 2))


def make(folder: str) -> None:
    """Writes a scan and a model with fresh weights."""
    from tf_mrsr import recipe
    from tf_mrsr.inference import models
    from tf_mrsr.volume import Volume, write_volume

    chosen = recipe.load(RECIPE)
    model = models.Model(chosen, models.resolver_for(chosen, models.build_generator(chosen)))
    models.save(model, Path(folder, "model"))
    write_volume(Volume(noisy_ball(SHAPE).astype(np.float32), np.eye(4)), Path(folder, "scan.nii.gz"))


def _seconds(arguments: list[str], repeats: int) -> float:
    return _seconds_of(["-m", "tf_mrsr", *arguments], repeats)


def _seconds_of(arguments: list[str], repeats: int) -> float:
    return fastest(lambda: subprocess.run([sys.executable, *arguments], capture_output=True, check=True), repeats)
