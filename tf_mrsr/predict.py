"""``python -m tf_mrsr.predict``: super-resolve scans with a trained model."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tf_mrsr import cli, limits
from tf_mrsr.errors import DataError, OutputError, ServerError, VolumeError, naming

if TYPE_CHECKING:
    from tf_mrsr.card import Card
    from tf_mrsr.cohort import Contrasts
    from tf_mrsr.inference.models import Model
    from tf_mrsr.report.page import Report
    from tf_mrsr.serving.client import RemoteModel
    from tf_mrsr.volume import Derivation, Volume

EPILOG = """\
examples:
  tf-mrsr predict scan.nii.gz -o scan_sr.nii.gz --model runs/x2
  tf-mrsr predict scans/ -o super_resolved/ --model runs/x2 --memory 2GB
  tf-mrsr predict scans/ -o super_resolved/ --model sanchez2018_x2 --report reports/
  tf-mrsr predict dicom/ --list-series
  tf-mrsr predict dicom/ -o derived_series/ --model runs/x2 --series-uid 1.2.3
  tf-mrsr predict dicom/ -o scan_sr.nii.gz --model runs/x2
  tf-mrsr predict scan.nii.gz -o scan_sr.nii.gz --server localhost:8500/x2

Several scans, a folder or a list go to a folder, where each keeps its name (and its place below a folder given).
A model from one contrast to another takes of a folder the scans whose names end in its source contrast, and names what
goes to a folder for its target: sub-01_desc-synthetic_T2w.nii.gz of sub-01_T1w.nii.gz.
A DICOM series becomes a derived DICOM series, a folder of its own, unless a NIfTI name is given.
"""


def main(argv: Sequence[str] | None = None) -> int:
    arguments = cli.parser("predict", "Super-resolve scans with a trained model.")
    arguments.epilog = EPILOG
    arguments.add_argument("scans", nargs="+", help="NIfTI files, folders, DICOM, CSV/TSV lists with a column 'path'")
    arguments.add_argument(
        "-o", "--output", type=cli.path, help="NIfTI file for one scan, folder for several or for a DICOM series"
    )
    source = arguments.add_mutually_exclusive_group()
    source.add_argument("--model", type=cli.path, help=cli.MODEL_HELP)
    source.add_argument(
        "--server", metavar="HOST:PORT/NAME", help="a model that TensorFlow Serving runs, by its gRPC port (8500)"
    )
    arguments.add_argument(
        "--timeout",
        type=cli.positive,
        metavar="SECONDS",
        help=f"for --server, of each scan (default {limits.SERVER_TIMEOUT})",
    )
    arguments.add_argument(
        "--strict", action="store_true", help="refuse scans that the model's card does not cover, instead of a warning"
    )
    arguments.add_argument(
        "--precision",
        choices=("float32", "bfloat16"),
        default="float32",
        help="bfloat16: faster where the processor has instructions for it, else much slower (tf-mrsr doctor measures "
        "it); the result differs a little (default float32)",
    )
    arguments.add_argument("--series-uid", metavar="UID", help="the DICOM series to take, where there are several")
    arguments.add_argument("--list-series", action="store_true", help="list the DICOM series in SCANS and stop")
    existing = arguments.add_mutually_exclusive_group()
    existing.add_argument("--overwrite", action="store_true", help="replace outputs that exist")
    existing.add_argument("--skip-existing", action="store_true", help="leave out scans whose output exists")
    arguments.add_argument(
        "--skip-bad",
        action="store_true",
        help="leave out scans that are there and cannot be used, naming each, instead of stopping",
    )
    arguments.add_argument(
        "--report",
        type=cli.path,
        metavar="FOLDER",
        help="for each scan a page (HTML) that says how far to trust the result: the model tested on the scan itself, "
        "one step coarser, what speaks against the result, pictures; and a table of all. The test takes 1/8 of the "
        "prediction's work for x2, 1/64 for x4, a third for three slices out of one",
    )
    cli.add_stride_option(arguments)
    cli.add_tta_option(arguments)
    cli.add_nan_option(arguments)
    cli.add_memory_option(arguments)
    cli.add_device_option(arguments)
    given = arguments.parse_args(argv)
    if given.list_series:
        return cli.run(_list_series, given)
    wanted = (("-o/--output", given.output), ("--model or --server", given.model or given.server))
    missing = [name for name, value in wanted if value is None]
    if missing:
        arguments.error(f"the following arguments are required: {', '.join(missing)}")
    if given.report is not None and given.server is not None:
        arguments.error("--report needs the model and its card, which a server does not tell; use --model")
    if given.timeout is not None and given.server is None:
        arguments.error("--timeout is for --server")
    return cli.run(_predict, given)


def _list_series(arguments: argparse.Namespace) -> None:
    from tf_mrsr.dicom import reading

    for source in arguments.scans:
        if not source or not Path(source).exists():
            raise VolumeError(f"{source or 'an empty text'}: no such file or folder")
        for line in reading.list_series(Path(source)):
            print(line)


def _predict(arguments: argparse.Namespace) -> None:
    from tf_mrsr import storage, volume
    from tf_mrsr.cohort import Contrasts
    from tf_mrsr.progress import Progress

    card = _read_card(arguments)
    jobs = plan_outputs(
        arguments.scans,
        arguments.output,
        overwrite=arguments.overwrite or arguments.skip_existing,
        one_scan=arguments.series_uid is not None,
        contrasts=None if card is None or not card.contrasts else Contrasts(*card.contrasts),
    )
    if arguments.skip_existing:
        jobs = [(source, target) for source, target in jobs if not _done(target, arguments)]
    if not jobs:
        return
    for _, target in jobs:
        _check_replaceable(target)
    if arguments.report is not None:
        _check_report(jobs, arguments)
    first = None
    if len(jobs) == 1 and not arguments.skip_bad:  # refuse what can be refused before TensorFlow is loaded
        first = _read(jobs[0][0], card, arguments)
    model = _open_model(arguments)
    derivation = _derivation(model, arguments)
    with Progress("super-resolving", len(jobs)) as progress:
        for source, target in jobs:
            if _done(target, arguments):
                progress.advance(source.name)
                continue
            report = None
            try:
                scan = first or _read(source, card, arguments)
                result = _super_resolve(model, source, scan, arguments)
                if arguments.report is not None:
                    report = _report(model, card, source, target, scan, result, arguments)
                if not _done(target, arguments):
                    with naming(source), _written_first(report, target, arguments):
                        storage.make_folder(target.parent)
                        volume.write_volume(result, target, overwrite=arguments.overwrite, derivation=derivation)
            except VolumeError as error:
                if not arguments.skip_bad:
                    raise
                cli.warn(f"left out: {error}")
            progress.advance(source.name)


def _check_replaceable(target: Path) -> None:
    """Raises an OutputError, before any work, where something else stands in the place of a result."""
    from tf_mrsr import volume

    if target.exists() and not volume.is_nifti(target):
        volume.check_output(target, overwrite=True, as_series=True)
    elif target.is_dir():
        raise OutputError(f"{target}: is a folder, where a file is to be written; give another place")


def _check_report(jobs: Sequence[tuple[Path, Path]], arguments: argparse.Namespace) -> None:
    """Raises an error, before any work, where a report may not be written, or others there cannot be read."""
    from tf_mrsr import volume
    from tf_mrsr.report import page

    if arguments.report.suffix.lower() in (".html", ".json", ".csv"):
        raise OutputError(f"{arguments.report}: reports are a folder of pages; give a folder's name")
    cli.check_can_hold(arguments.report)
    places = [_report_place(target, arguments.output) for _, target in jobs]
    place, count = Counter(places).most_common(1)[0]
    if count > 1:
        raise OutputError(f"{arguments.report / place}: two reports would be written to this place; rename a scan")
    for (_, target), place in zip(jobs, places, strict=True):
        if not volume.is_nifti(target) and arguments.report.resolve().is_relative_to(target.resolve()):
            raise OutputError(
                f"{arguments.report}: lies in {target}, which is to be a DICOM series alone; give another folder"
            )
        page.check_place(arguments.report, place, overwrite=arguments.overwrite or arguments.skip_existing)
    if arguments.report.is_dir():
        page.table_of(arguments.report)


def _report_place(target: Path, output: Path) -> Path:
    """Of a report in the folder of reports: as the result lies in its own."""
    from tf_mrsr.volume import is_nifti, stem

    inside = target != output and target.is_relative_to(output)
    place = target.relative_to(output) if inside else Path(target.resolve().name)
    return place.with_name(stem(place)) if is_nifti(place) else place


def _report(
    model: Model, card: Card, source: Path, target: Path, scan: Volume, result: Volume, arguments: argparse.Namespace
) -> Report:
    from tf_mrsr.card import mismatches
    from tf_mrsr.report import page, trust

    with naming(source):
        found = trust.examine(scan, result, lambda volume: _resolve(model, volume, arguments), model.recipe)
    name = _report_place(target, arguments.output).name
    return page.Report(name, card, scan, result, found, mismatches(card, scan, source), arguments.tta)


@contextlib.contextmanager
def _written_first(report: Report | None, target: Path, arguments: argparse.Namespace) -> Iterator[None]:
    """Writes the report, if there is one, and takes it back where its result then cannot be written. In this order no
    result is without its report where an interrupted call is taken up by --skip-existing.
    """
    if report is None:
        yield
        return
    from tf_mrsr.report import page

    place = _report_place(target, arguments.output)
    page.write(report, arguments.report, place)
    try:
        yield
    except BaseException:
        page.remove(arguments.report, place)
        raise


def _done(target: Path, arguments: argparse.Namespace) -> bool:
    """Whether there is nothing to do: another task may have written the result in the meantime."""
    return arguments.skip_existing and _is_there(target)


def _read(source: Path, card: Card | None, arguments: argparse.Namespace) -> Volume:
    """The scan, held against the model's card."""
    from tf_mrsr.card import mismatches
    from tf_mrsr.cohort import read_scan

    scan = read_scan(source, nan=arguments.nan, series_uid=arguments.series_uid)
    if scan.header.sform_code == scan.header.qform_code == 0:
        cli.warn(
            f"{source}: the header states no orientation (sform and qform codes 0); nor does the result, and programs "
            "that then place a scan by its middle show the two up to half a voxel apart"
        )
    for words in [] if card is None else mismatches(card, scan, source):
        if arguments.strict:
            raise VolumeError(f"{source}: {words}; leave out --strict to predict it all the same")
        cli.warn(f"{source}: {words}")
    return scan


def _read_card(arguments: argparse.Namespace) -> Card | None:
    """The model's card, where it is at hand."""
    if arguments.server is not None:
        if arguments.strict:
            raise ServerError("--strict compares with the model's card, which a server does not tell; use --model")
        if arguments.precision != "float32":
            raise ServerError("--precision is the server's own matter; use --model, or leave it out")
        if arguments.device != "auto":
            raise ServerError("--device is the server's own matter; use --model, or leave it out")
        return None
    from tf_mrsr import model_folder

    return model_folder.read_card(model_folder.resolve(arguments.model))


def _open_model(arguments: argparse.Namespace) -> Model | RemoteModel:
    if arguments.server is not None:
        from tf_mrsr.serving import client

        return client.RemoteModel(
            client.parse_address(arguments.server), timeout=arguments.timeout or limits.SERVER_TIMEOUT
        )
    from tf_mrsr import model_folder

    folder = model_folder.resolve(arguments.model)
    cli.load_tensorflow(arguments.device)
    if arguments.precision == "bfloat16":
        cli.warn_of_slow_bfloat16("leave out --precision")
    from tf_mrsr.inference import models

    return models.load(folder, "mixed_bfloat16" if arguments.precision == "bfloat16" else "float32")


def _derivation(model: Model | RemoteModel, arguments: argparse.Namespace) -> Derivation:
    from tf_mrsr.volume import Derivation

    if arguments.server is None:
        return Derivation(model.recipe.name, "super-resolved" if model.recipe.contrasts is None else "synthesised")
    return Derivation(arguments.server.rpartition("/")[2], "processed")  # a server does not tell what its model does


def _super_resolve(model: Model | RemoteModel, source: Path, scan: Volume, arguments: argparse.Namespace) -> Volume:
    with naming(source):
        return _resolve(model, scan, arguments)


def _resolve(model: Model | RemoteModel, scan: Volume, arguments: argparse.Namespace) -> Volume:
    from tf_mrsr.inference import ensemble

    def once(volume: Volume) -> Volume:
        return model.super_resolve(volume, arguments.memory, arguments.stride)

    return cli.interruptible(lambda: ensemble.mean_over_flips(once, scan) if arguments.tta else once(scan))


def plan_outputs(
    sources: Sequence[str],
    output: Path,
    *,
    overwrite: bool,
    one_scan: bool = False,
    contrasts: Contrasts | None = None,
) -> list[tuple[Path, Path]]:
    """(scan, file or folder to write) for every scan, checked for collisions and for what exists.

    Args:
        sources: see ``tf_mrsr.cohort.find_scans``.
        output: NIfTI file or folder.
        overwrite: whether what exists may be replaced.
        one_scan: take the only source as one scan, however many series it holds.
        contrasts: those of a model from one contrast to another: of a folder, scans of the source contrast are taken,
            and what goes to a folder is named for the target.

    Raises:
        DataError, OutputError: if a source is missing or an output may not be written.
    """
    from tf_mrsr import cohort, volume

    if one_scan and len(sources) > 1:
        raise DataError(f"--series-uid chooses from one folder; {len(sources)} sources were given")
    if "" in sources:
        raise DataError("one of the scans is an empty text; expected the name of a file or folder")
    scans = [Path(sources[0])] if one_scan else cohort.find_scans(sources, contrasts)
    single = len(sources) == 1 and scans == [Path(sources[0])]
    folders = [Path(s) for s in sources if Path(s).is_dir()]
    for folder in folders:
        if output.resolve().is_relative_to(folder.resolve()):
            raise OutputError(f"{output}: lies in {folder}, whose scans are the input; write to another place")
    as_series = single and not volume.is_nifti(scans[0]) and not volume.is_nifti(output)
    to_file = not output.is_dir() and (volume.is_nifti(output) or (single and bool(output.suffix)))
    if as_series or (to_file and single):
        jobs = [(scans[0], volume.check_output(output, overwrite=overwrite, as_series=as_series))]
    elif to_file:
        raise OutputError(f"{output}: a folder, a list or several scans need a folder as output, not a file")
    else:
        jobs = _into_folder(scans, folders, output, contrasts)
        taken = next((target for _, target in jobs if _is_there(target) and not overwrite), None)
        if taken is not None:
            raise OutputError(f"{taken}: exists already; give another folder, --overwrite or --skip-existing")
    inputs = {scan.resolve() for scan in scans}
    for _, target in jobs:
        if target.resolve() in inputs:
            raise OutputError(f"{target}: is one of the scans itself; write to another place")
    # A series goes into its folder where that is there, else beside its neighbours.
    for folder in {target if target.is_dir() else target.parent for _, target in jobs}:
        cli.check_can_hold(folder)
    return jobs


def _into_folder(
    scans: Sequence[Path], folders: Sequence[Path], output: Path, contrasts: Contrasts | None
) -> list[tuple[Path, Path]]:
    """(scan, file or folder in ``output``) for each scan, as ``plan_outputs``."""
    from tf_mrsr import cohort

    jobs = [(scan, output / _relative(scan, folders)) for scan in scans]
    if contrasts is not None:
        jobs = [(scan, target.with_name(cohort.synthetic_name(scan, contrasts))) for scan, target in jobs]
    target, count = Counter(target for _, target in jobs).most_common(1)[0]
    if count > 1:
        raise OutputError(f"{target}: two scans would be written to this place; predict them to different folders")
    return jobs


def _is_there(target: Path) -> bool:
    """Whether a result is there; an empty folder is none."""
    from tf_mrsr import storage

    return bool(storage.content(target)) if target.is_dir() else target.exists()


def _relative(scan: Path, folders: Sequence[Path]) -> Path:
    """The scan's place below its folder; one without an ending for a DICOM series, which becomes a folder."""
    from tf_mrsr import volume

    folder = next((f for f in folders if scan.is_relative_to(f) and scan != f), None)
    name = scan.name if volume.is_nifti(scan) else volume.stem(scan)
    return Path(name) if folder is None else scan.relative_to(folder).with_name(name)


if __name__ == "__main__":
    sys.exit(main())
