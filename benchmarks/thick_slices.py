"""Pairs of thick and thin series out of parts of one thin scan: ``python -m benchmarks.thick_slices SCAN OUTPUT``.

Thick slices are means of three. The front of the scan trains, three times with another first slice; the back, after a
gap, tests, once as it is and once with its slices in the opposite order. train.csv, test.csv and reversed.csv list
them.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from tf_mrsr.geometry import GridMap
from tf_mrsr.volume import Volume, read_volume, write_volume

TRAINING, STARTS = 60, (0, 1, 2)  # slices
TEST = (66, 96)
THICKNESS = 3


def main(scan: str, output: str) -> None:
    thin, folder = replace(read_volume(scan), source=None), Path(output)
    folder.mkdir()
    training = {f"train{start}": part(thin, start, start + TRAINING) for start in STARTS}
    test = part(thin, *TEST)
    for name, parts in (("train", training), ("test", {"test": test}), ("reversed", {"reversed": backwards(test)})):
        rows = ["low_res,high_res"]
        for of_part, volume in parts.items():
            write_volume(volume, folder / f"{of_part}_thin.nii.gz")
            write_volume(thick(volume), folder / f"{of_part}_thick.nii.gz")
            rows.append(f"{of_part}_thick.nii.gz,{of_part}_thin.nii.gz")
        (folder / f"{name}.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")


def part(volume: Volume, first: int, stop: int) -> Volume:
    """The slices (x, y, first ... stop - 1)."""
    move = GridMap((1, 1, 1), (0, 0, first))
    return volume.resampled(volume.data[..., first:stop], move)


def thick(volume: Volume) -> Volume:
    """Means of three slices, at their middle."""
    shape = (*volume.shape[:2], volume.shape[2] // THICKNESS, THICKNESS)
    return volume.resampled(volume.data.reshape(shape).mean(axis=-1), GridMap.block_average((1, 1, THICKNESS)))


def backwards(volume: Volume) -> Volume:
    """The same slices at the same places, the last one first."""
    affine = volume.affine.copy()
    affine[:, 3] += (volume.shape[2] - 1) * affine[:, 2]
    affine[:, 2] *= -1
    return replace(volume, data=np.ascontiguousarray(volume.data[..., ::-1]), affine=affine)


if __name__ == "__main__":
    main(*sys.argv[1:3])
