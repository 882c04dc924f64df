"""``python -m tf_mrsr.prepare``: list pairs of a thick and a thin series of every patient, and their slices."""

from __future__ import annotations

import argparse
import csv
import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tf_mrsr import cli, storage
from tf_mrsr.errors import DataError, OutputError, VolumeError

if TYPE_CHECKING:
    from tf_mrsr.cohort import Scan
    from tf_mrsr.matched_series import MatchedSeries

EPILOG = """\
PATIENTS has a folder per patient, with two scans in each: NIfTI files, or folders that hold one DICOM series each. The
one whose slices are farther apart is the thick one. train and evaluate take the list as --data; patients for validation
and test belong into lists of their own. Beside it, pairs_slices.csv shows every pair of slices: their numbers, counted
from 1 in the order of each series, and the distance between them.

examples:
  tf-mrsr prepare patients/ -o pairs.csv
  tf-mrsr train --recipe narcomey2018_srresnet_model1 --data pairs.csv --run runs/n1
"""
_OF_SLICES = "_slices"
_SAME_THICKNESS = 1.01


def main(argv: Sequence[str] | None = None) -> int:
    arguments = cli.parser("prepare", "List pairs of a thick and a thin series, and the slices that they match.")
    arguments.epilog = EPILOG
    arguments.add_argument("patients", type=cli.path, help="folder with a folder per patient")
    arguments.add_argument(
        "-o", "--output", type=cli.path, required=True, help="list to write, NAME.csv; NAME_slices.csv goes beside it"
    )
    arguments.add_argument(
        "--max-distance",
        type=_distance,
        default=0.5,
        metavar="N",
        help="refuse thin slices farther than this from their thick one, in distances between thick slices "
        "(default 0.5); for train, change degradation.max_distance as well",
    )
    arguments.add_argument(
        "--skip-bad", action="store_true", help="leave out patients that cannot be used, naming each, and go on"
    )
    arguments.add_argument("--overwrite", action="store_true", help="replace lists that exist")
    cli.add_nan_option(arguments)
    return cli.run(_prepare, arguments.parse_args(argv))


def _distance(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number over 0")
    return value


def _prepare(arguments: argparse.Namespace) -> None:
    output = arguments.output.absolute()
    slices_output = output.with_name(f"{output.stem}{_OF_SLICES}.csv")
    _check_outputs(output, slices_output, overwrite=arguments.overwrite)
    if not arguments.patients.is_dir():
        raise DataError(f"{arguments.patients}: no such folder; expected one with a folder per patient")
    folders = sorted(p for p in arguments.patients.iterdir() if p.is_dir() and not p.name.startswith("."))
    pairs, slices = [["low_res", "high_res"]], [["patient", "low_res_slice", "high_res_slice", "distance_mm"]]
    for folder in folders:
        try:
            scan, series = _match(folder, arguments)
        except (DataError, VolumeError) as error:
            if not arguments.skip_bad:
                raise
            cli.warn(f"left out: {error}")
            continue
        # A scan may be a link to a store of another name, so only its folder is resolved.
        places = [path.parent.resolve() / path.name for path in (scan.low_res, scan.high_res)]
        pairs.append([os.path.relpath(place, output.parent.resolve()) for place in places])
        rows = zip(series.thick_numbers, series.thin_numbers, series.pairs.distances_mm, strict=True)
        slices += [[folder.name, thick, thin, f"{distance:.3f}"] for thick, thin, distance in rows]
    if len(pairs) == 1:
        raise DataError(f"{arguments.patients}: no pair of scans in {len(folders)} folders; expected two in each")
    for path, rows in ((slices_output, slices), (output, pairs)):
        _write(path, rows)
    print(f"{output}: {len(pairs) - 1} pairs of scans; {slices_output}: {len(slices) - 1} pairs of slices")


def _match(folder: Path, arguments: argparse.Namespace) -> tuple[Scan, MatchedSeries]:
    from tf_mrsr.cohort import Scan, read_scan
    from tf_mrsr.geometry import slices_last
    from tf_mrsr.matched_series import match

    paths = _scans_in(folder)
    if len(paths) != 2:
        raise DataError(
            f"{folder}: has {len(paths)} scans; expected two, a thick and a thin one, as NIfTI files or as folders "
            "that hold one DICOM series each"
        )
    volumes = [read_scan(path, nan=arguments.nan) for path in paths]
    distances = [volume.spacing_mm[slices_last(volume.affine)[2]] for volume in volumes]
    thin, thick = (0, 1) if distances[0] < distances[1] else (1, 0)
    if distances[thick] < _SAME_THICKNESS * distances[thin]:
        raise DataError(f"{folder}: both scans have slices {distances[thick]:.2f} mm apart; one must be the thick one")
    scan = Scan(paths[thin], paths[thick])
    return scan, match(scan, volumes[thick], volumes[thin], arguments.max_distance)


def _scans_in(folder: Path) -> list[Path]:
    from tf_mrsr.volume import is_nifti

    entries = sorted(p for p in folder.iterdir() if not p.name.startswith("."))
    return [p for p in entries if (_holds_dicom(p) if p.is_dir() else is_nifti(p))]


def _holds_dicom(folder: Path) -> bool:
    from tf_mrsr.dicom import files

    return any(p.is_file() and p.name.upper() != "DICOMDIR" and files.is_dicom(p) for p in sorted(folder.iterdir()))


def _check_outputs(output: Path, slices_output: Path, *, overwrite: bool) -> None:
    if output.suffix.lower() != ".csv":
        raise OutputError(f"{output}: expected a name that ends in .csv")
    existing = next((path for path in (output, slices_output) if path.exists()), None)
    if existing is not None and not overwrite:
        raise OutputError(f"{existing}: exists already; write to another folder, or --overwrite")
    if not output.parent.is_dir():
        raise OutputError(f"{output}: the folder {output.parent} does not exist; make it first")
    cli.check_writable(output.parent)


def _write(path: Path, rows: Sequence[Sequence[object]]) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    storage.write_text(path, text.getvalue())


if __name__ == "__main__":
    sys.exit(main())
