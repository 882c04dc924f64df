"""``python -m tf_mrsr.predict``: super-resolve scans with a trained model."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tf_mrsr import cli
from tf_mrsr.errors import OutputError, ServerError, VolumeError

if TYPE_CHECKING:
    from tf_mrsr.card import Card
    from tf_mrsr.inference.models import Model
    from tf_mrsr.serving.client import RemoteModel
    from tf_mrsr.volume import Volume

EPILOG = """\
examples:
  tf-mrsr predict scan.nii.gz -o scan_sr.nii.gz --model runs/x2
  tf-mrsr predict scans/ -o super_resolved/ --model runs/x2 --memory 2GB
  tf-mrsr predict scan.nii.gz -o scan_sr.nii.gz --server localhost:8500/x2

Several scans, a folder or a list go to a folder, where each keeps its name (and its place below a folder given).
"""


def main(argv: Sequence[str] | None = None) -> int:
    arguments = cli.parser("predict", "Super-resolve scans with a trained model.")
    arguments.epilog = EPILOG
    arguments.add_argument("scans", nargs="+", help="NIfTI files, folders, CSV/TSV lists with a column 'path'")
    arguments.add_argument(
        "-o", "--output", type=cli.path, required=True, help="NIfTI file for one scan, folder for several"
    )
    source = arguments.add_mutually_exclusive_group(required=True)
    source.add_argument("--model", type=cli.path, help=cli.MODEL_HELP)
    source.add_argument(
        "--server", metavar="HOST:PORT/NAME", help="a model that TensorFlow Serving runs, by its gRPC port (8500)"
    )
    arguments.add_argument(
        "--timeout", type=cli.positive, default=600, metavar="SECONDS", help="for --server, of each scan (default 600)"
    )
    arguments.add_argument(
        "--strict", action="store_true", help="refuse scans that the model's card does not cover, instead of a warning"
    )
    arguments.add_argument("--overwrite", action="store_true", help="replace outputs that exist")
    arguments.add_argument("--skip-existing", action="store_true", help="leave out scans whose output exists")
    arguments.add_argument(
        "--skip-bad", action="store_true", help="leave out scans that cannot be used, naming each, instead of stopping"
    )
    cli.add_stride_option(arguments)
    cli.add_nan_option(arguments)
    cli.add_memory_option(arguments)
    cli.add_device_option(arguments)
    return cli.run(_predict, arguments.parse_args(argv))


def _predict(arguments: argparse.Namespace) -> None:
    from tf_mrsr import volume
    from tf_mrsr.card import mismatches
    from tf_mrsr.cohort import read_scan
    from tf_mrsr.progress import Progress

    jobs = plan_outputs(arguments.scans, arguments.output, overwrite=arguments.overwrite or arguments.skip_existing)
    if arguments.skip_existing:
        jobs = [(source, target) for source, target in jobs if not target.exists()]
    if len(jobs) == 1 and not arguments.skip_bad:  # refuse what can be refused before TensorFlow is loaded
        read_scan(jobs[0][0], nan=arguments.nan)
    card, model = _open_model(arguments)
    with Progress("super-resolving", len(jobs)) as progress:
        for source, target in jobs:
            try:
                scan = read_scan(source, nan=arguments.nan)
                if scan.header.sform_code == scan.header.qform_code == 0:
                    cli.warn(
                        f"{source}: the header states no orientation (sform and qform codes 0); nor does the result"
                    )
                unlike = [] if card is None else mismatches(card, scan, source)
                if unlike and arguments.strict:
                    raise VolumeError(f"{source}: {unlike[0]}; leave out --strict to predict it all the same")
                result = _super_resolve(model, source, scan, arguments)
                for words in unlike:
                    cli.warn(f"{source}: {words}")
            except VolumeError as error:
                if not arguments.skip_bad:
                    raise
                cli.warn(f"left out: {error}")
            else:
                _make_folder(target.parent)
                volume.write_volume(result, target, overwrite=arguments.overwrite)
            progress.advance(source.name)


def _open_model(arguments: argparse.Namespace) -> tuple[Card | None, Model | RemoteModel]:
    """The model and, where it is at hand, its card."""
    if arguments.server is not None:
        from tf_mrsr.serving import client

        if arguments.strict:
            raise ServerError("--strict compares with the model's card, which a server does not tell; use --model")
        return None, client.RemoteModel(client.parse_address(arguments.server), timeout=arguments.timeout)
    from tf_mrsr import model_folder

    folder = model_folder.resolve(arguments.model)
    card = model_folder.read_card(folder)
    cli.load_tensorflow(arguments.device)
    from tf_mrsr.inference import models

    return card, models.load(folder)


def _super_resolve(model: Model | RemoteModel, source: Path, scan: Volume, arguments: argparse.Namespace) -> Volume:
    try:
        return model.super_resolve(scan, arguments.memory, arguments.stride)
    except VolumeError as error:
        raise VolumeError(f"{source}: {error}") from error


def plan_outputs(sources: Sequence[str], output: Path, *, overwrite: bool) -> list[tuple[Path, Path]]:
    """(scan, file to write) for every scan, checked for collisions and for files that exist.

    Raises:
        DataError, OutputError: if a source is missing or an output may not be written.
    """
    from tf_mrsr import cohort, volume

    scans = cohort.find_scans(sources)
    single = len(sources) == 1 and scans == [Path(sources[0])]
    to_file = not output.is_dir() and (volume.is_nifti(output) or (single and bool(output.suffix)))
    if to_file and not single:
        raise OutputError(f"{output}: a folder, a list or several scans need a folder as output, not a file")
    if to_file:
        jobs = [(scans[0], volume.check_output(output, overwrite=overwrite))]
    else:
        folders = [Path(s) for s in sources if Path(s).is_dir()]
        for folder in folders:
            if output.resolve().is_relative_to(folder.resolve()):
                raise OutputError(f"{output}: lies in {folder}, whose scans are the input; write to another place")
        jobs = [(scan, output / _relative(scan, folders)) for scan in scans]
        targets = [target for _, target in jobs]
        twice = next((t for t in targets if targets.count(t) > 1), None)
        if twice is not None:
            raise OutputError(f"{twice}: two scans would be written to this file; predict them to different folders")
        taken = next((t for t in targets if t.exists() and not overwrite), None)
        if taken is not None:
            raise OutputError(f"{taken}: exists already; give another folder, --overwrite or --skip-existing")
    inputs = {scan.resolve() for scan in scans}
    for _, target in jobs:
        if target.resolve() in inputs:
            raise OutputError(f"{target}: is one of the scans itself; write to another place")
    existing = next(p for p in (output.absolute(), *output.absolute().parents) if p.is_dir())
    cli.check_writable(existing)
    return jobs


def _relative(scan: Path, folders: Sequence[Path]) -> Path:
    for folder in folders:
        if scan.is_relative_to(folder):
            return scan.relative_to(folder)
    return Path(scan.name)


def _make_folder(folder: Path) -> None:

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be made ({error.strerror})") from error


if __name__ == "__main__":
    sys.exit(main())
