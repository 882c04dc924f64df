"""Patches from .nii.gz files on disk: how fast they come, against what a training step takes.

The files are made of noisy balls of the paper's 224 x 224 x 152 voxels. Cold means that the system's cache of the
files is dropped before they are read.
"""

from __future__ import annotations

import gzip
import importlib.util
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks import training
from benchmarks.machine import fastest, in_process, noisy_ball, peak_mb, timed
from benchmarks.table import Row

SHAPE = (224, 224, 152)
PATCH = (64, 64, 64)


def run(*, quick: bool) -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as folder:
        shape = [n // 2 for n in SHAPE] if quick else SHAPE
        for number in range(2 if quick else 4):
            _write(Path(folder, f"sub-{number}_T1w.nii.gz"), tuple(shape), number)
        yield from _reading(in_process(measure_reading, folder=folder))
        step = in_process(training.measure, shape=PATCH, precision="float32")["seconds"]
        found = in_process(measure_pipeline, folder=folder)
        taken = training.BATCH / step
        for case, about in (
            ("patches, cold: read, checked and cut for the first time", "cold"),
            ("patches of an epoch, scans kept in memory", "kept"),
            ("patches of an epoch, memory for one scan alone", "one"),
        ):
            yield Row(
                "data",
                f"{case}, {'x'.join(map(str, PATCH))}",
                found[about]["seconds"],
                found["patches"] / found[about]["seconds"],
                "patches/s",
                found["patches"] / found[about]["seconds"] / taken,
                "what a float32 training step takes",
                found[about]["peak_mb"],
            )
        seconds = first_step(Path(folder))
        yield Row("data", "start of train to the end of its first step, 64x64x64", seconds, note="whole process")


def _reading(found: dict) -> Iterator[Row]:
    for case in ("read_volume", "nibabel", "MONAI LoadImage"):
        seconds = found.get(case)
        if seconds is None:
            yield Row("data", f"decode, {case}", note="not installed")
        else:
            rate = found["mb"] / seconds
            yield Row("data", f"decode, {case}", seconds, rate, "MB/s", found["gzip"] / seconds, "Python's gzip")


def measure_reading(folder: str) -> dict[str, float]:
    """Seconds for one file of int16 voxels, by several readers; "mb" is its size unpacked."""
    import nibabel as nib

    from tf_mrsr.volume import read_volume

    path = sorted(Path(folder).glob("*.nii.gz"))[0]
    found = {
        "gzip": fastest(lambda: gzip.decompress(path.read_bytes()), 3),
        "read_volume": fastest(lambda: read_volume(path), 3),
        "nibabel": fastest(lambda: nib.load(path).get_fdata(dtype=np.float32), 3),
        "mb": len(gzip.decompress(path.read_bytes())) / 1e6,
    }
    if importlib.util.find_spec("monai") is not None:
        from monai.transforms import LoadImage

        load = LoadImage(image_only=True)
        found["MONAI LoadImage"] = fastest(lambda: load(path), 3)
    return found


def measure_pipeline(folder: str) -> dict:
    """Seconds and memory of an epoch's patches, from cold files, from memory, and with memory for one scan."""
    from tf_mrsr import cohort, recipe
    from tf_mrsr.pipeline import PatchPairs

    sides = list(PATCH)
    chosen = recipe.load(training.RECIPE, [f"patches.shape={sides}", f"patches.step={sides}"])
    scans = cohort.find_pairs([folder], chosen.contrasts)
    pipelines = {}

    def epoch(pairs: PatchPairs) -> None:
        for _ in pairs.dataset(0, pairs.steps_per_epoch):
            pass

    def cold() -> None:
        for scan in scans:
            _drop_from_cache(scan.high_res)
        pipelines["kept"] = PatchPairs(scans, chosen, seed=0)
        epoch(pipelines["kept"])

    found = {"cold": _measured(cold), "kept": _measured(lambda: epoch(pipelines["kept"]))}
    patches = pipelines["kept"].steps_per_epoch * chosen.batch_size
    del pipelines["kept"]
    pairs = PatchPairs(scans, chosen, seed=0, cache_bytes=1)
    return {**found, "one": _measured(lambda: epoch(pairs)), "patches": patches}


def _measured(work) -> dict[str, float]:
    seconds = []
    peak = peak_mb(lambda: seconds.append(timed(work)))
    return {"seconds": seconds[0], "peak_mb": peak}


def first_step(folder: Path) -> float:
    """Seconds from the start of ``tf-mrsr train`` until its log tells of the first step."""
    with tempfile.TemporaryDirectory() as runs:
        run_folder = Path(runs, "run")
        sides = list(PATCH)
        command = [sys.executable, "-m", "tf_mrsr", "train", "--recipe", training.RECIPE, "--data", str(folder)]
        command += ["--set", f"patches.shape={sides}", "--set", f"patches.step={sides}"]
        command += ["--run", str(run_folder), "--steps", "1"]
        for path in folder.glob("*.nii.gz"):
            _drop_from_cache(path)
        start = time.perf_counter()
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
            while process.poll() is None and not _has_row(run_folder / "log.csv"):
                time.sleep(0.05)
            seconds = time.perf_counter() - start
            _, errors = process.communicate()
        if process.returncode:
            raise RuntimeError(errors.strip().splitlines()[-1])
    return seconds


def _has_row(path: Path) -> bool:
    return path.exists() and len(path.read_text(encoding="utf-8").splitlines()) > 1


def _write(path: Path, shape: tuple[int, int, int], seed: int) -> None:
    import nibabel as nib

    nib.save(nib.Nifti1Image(noisy_ball(shape, seed), np.eye(4)), path)


def _drop_from_cache(path: Path) -> None:
    with path.open("rb") as stream:
        os.fsync(stream.fileno())
        os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
