"""Reading and writing a long DICOM series: seconds and peak memory, each in a process of its own. Linux only (/proc).

The series is made of smooth noise: 384 slices of 256 x 256 pixels with 12 bits, one file per slice, and again as RLE.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from scipy import ndimage

from benchmarks.machine import in_process, peak_mb, timed

SHAPE = (256, 256, 384)


def main() -> None:
    print("| series | list, s | read, s | write, s | peak above base, MB (the volume has 96) |")
    print("| --- " * 5 + "|")
    with tempfile.TemporaryDirectory() as folder:
        for name, series in make(Path(folder)):
            row = in_process(measure, folder=str(series), output=f"{series}.out")
            print(f"| {name} | {row['list']:.2f} | {row['read']:.2f} | {row['write']:.2f} | {row['peak_mb']:.0f} |")


def make(folder: Path):
    """(name, folder) of the series."""
    from pydicom.uid import ExplicitVRLittleEndian, RLELossless

    from tests import dicom_series

    noise = np.random.default_rng(0).uniform(0, 20_000, SHAPE).astype(np.float32)
    data = np.clip(ndimage.gaussian_filter(noise, 2) - 8000, 0, 4095).astype(np.int32)
    slices = dicom_series.slices(data)
    yield "uncompressed", _save(folder / "plain", slices, ExplicitVRLittleEndian)
    yield "RLE", _save(folder / "rle", slices, RLELossless)


def _save(folder: Path, slices: list, syntax) -> Path:
    from tests import dicom_series

    for first in range(0, len(slices), 96):  # its file names are good for a hundred slices
        dicom_series.save(folder / f"{first}", slices[first : first + 96], syntax)
    return folder


def measure(folder: str, output: str) -> dict[str, float]:
    """Seconds to list, read and write the series as a derived one, and memory above that of the imports."""
    from tf_mrsr.dicom import reading, writing  # noqa: F401
    from tf_mrsr.volume import Derivation, read_volume, write_volume

    seconds = {}

    def work() -> None:
        seconds["list"] = timed(lambda: reading.list_series(Path(folder)))
        volume = []
        seconds["read"] = timed(lambda: volume.append(read_volume(Path(folder))))
        seconds["write"] = timed(lambda: write_volume(volume[0], Path(output), derivation=Derivation("benchmark")))

    return {"peak_mb": peak_mb(work), **seconds}


if __name__ == "__main__":
    main()
