"""``python -m tf_mrsr.evaluate``: measure a model and interpolation on scans."""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tf_mrsr import cli, storage
from tf_mrsr.errors import DataError, OutputError, VolumeError, naming

if TYPE_CHECKING:
    import numpy as np

    from tf_mrsr.cohort import Scan
    from tf_mrsr.evaluation import Case
    from tf_mrsr.inference.models import Model
    from tf_mrsr.recipe import Recipe
    from tf_mrsr.volume import Volume

RESCALED = "network, truth's scale"
FLIPPED = "network, mean over flips"

_MASK_RULES = ("auto", "none")
EPILOG = """\
Each scan is degraded as the model's recipe tests, then estimated again by the model and by nearest, linear and cubic
spline interpolation, each on the grid that is right for the degradation. A model from one contrast to another takes
pairs of scans, and is compared with the source under the best linear change of intensity. The results go to OUTPUT/:
table.md, table.csv, table.json, distribution.png and figures/, three planes and slice-wise differences of each scan.

examples:
  tf-mrsr evaluate --model runs/x2 --data held_out/ -o results/
  tf-mrsr evaluate --model runs/t2 --data held_out/ -o results/ --stride 16
"""


def main(argv: Sequence[str] | None = None) -> int:
    arguments = cli.parser("evaluate", "Measure a model and interpolation on high-resolution scans.")
    arguments.epilog = EPILOG
    cli.add_model_option(arguments)
    arguments.add_argument(
        "--data",
        nargs="+",
        required=True,
        help="scans: folders, NIfTI files, CSV/TSV lists with a column 'path', or for pairs 'low_res' and 'high_res', "
        "or 'source' and 'target'",
    )
    arguments.add_argument("-o", "--output", type=cli.path, required=True, help="folder for the results")
    arguments.add_argument(
        "--mask",
        type=_mask,
        default="auto",
        help="auto (foreground, default), none, or a folder with a mask of each scan's name; where scans of several "
        "folders share a name, FOLDER_NAME as in the table",
    )
    arguments.add_argument(
        "--protocol",
        help="masked, sanchez2018, li2017, taloma2020, taloma2020_peak, narcomey2018_model1 or _model2; default: the "
        "recipe's; printed with the table",
    )
    cli.add_stride_option(arguments)
    cli.add_tta_option(arguments)
    arguments.add_argument("--overwrite", action="store_true", help="replace a results folder that exists")
    arguments.add_argument(
        "--skip-bad",
        action="store_true",
        help="leave out scans that are there and cannot be used, naming each, instead of stopping",
    )
    cli.add_nan_option(arguments)
    cli.add_memory_option(arguments)
    cli.add_device_option(arguments)
    return cli.run(_evaluate, arguments.parse_args(argv))


def _mask(text: str) -> str:
    if text not in _MASK_RULES:
        cli.path(text)  # raises for an empty one
    return text


def _evaluate(arguments: argparse.Namespace) -> None:
    from tf_mrsr import cohort, metrics, model_folder

    source = model_folder.resolve(arguments.model)
    recipe = model_folder.read_recipe(source)
    scans = cohort.find_pairs(arguments.data, recipe.contrasts)
    names = _names(scans)
    if arguments.protocol is not None and arguments.protocol not in metrics.PROTOCOLS:
        raise DataError(f"unknown protocol {arguments.protocol!r}; known are {', '.join(metrics.PROTOCOLS)}")
    if arguments.mask not in _MASK_RULES and not Path(arguments.mask).is_dir():
        raise DataError(f"{arguments.mask}: no such folder; --mask takes auto, none, or a folder of masks")
    protocol = arguments.protocol or recipe.evaluation.protocol
    if arguments.mask not in _MASK_RULES and not metrics.PROTOCOLS[protocol].masked:
        raise DataError(f"--mask {arguments.mask}: protocol {protocol} uses no mask; leave --mask out")
    output = arguments.output.resolve()
    _check_output(output, arguments.overwrite)

    cli.load_tensorflow(arguments.device)
    from tf_mrsr.inference import models
    from tf_mrsr.progress import Progress
    from tf_mrsr.report import figures
    from tf_mrsr.report.tables import Results

    model = models.load(source)
    results = Results(_protocol_lines(model.recipe, protocol, arguments.mask, arguments.stride))
    temporary = output.with_name(f".{output.name}.partial")
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        (temporary / "figures").mkdir(parents=True)
        model.warm_up()
        with Progress("evaluating", len(scans)) as progress:
            for scan, name in zip(scans, names, strict=True):
                try:
                    truth, rows, shown = _measure(scan, name, model, protocol, arguments)
                except (VolumeError, DataError) as error:
                    if not arguments.skip_bad:
                        raise
                    cli.warn(f"left out: {error}")
                else:
                    results.rows += rows
                    figures.three_planes(truth, shown, temporary / "figures" / f"{name}.png")
                    figures.differences(truth, shown, temporary / "figures", name)
                progress.advance(name)
        if not results.rows:
            raise DataError("none of the scans can be evaluated")
        figures.distribution(results, temporary / "distribution.png")
        for suffix, text in (("csv", results.to_csv()), ("json", results.to_json()), ("md", results.to_markdown())):
            (temporary / f"table.{suffix}").write_text(text, encoding="utf-8")
        storage.put_in_place(temporary, output)
    except OSError as error:
        raise OutputError(f"{output}: cannot be written ({error.strerror}); check the folder and the disk") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    print(results.to_markdown())


def _check_output(output: Path, overwrite: bool) -> None:
    if output.exists():
        if not overwrite:
            raise OutputError(f"{output}: exists already; give another name or --overwrite")
        _check_replaceable(output)
    if not output.parent.is_dir():
        raise OutputError(f"{output}: the folder {output.parent} does not exist; make it first")
    cli.check_writable(output.parent)


def _check_replaceable(results: Path) -> None:
    """Only what an evaluation made is ever removed."""
    if not (results / "table.json").is_file():
        raise OutputError(
            f"{results}: is not a results folder of an evaluation, so it is not replaced; give another name"
        )
    foreign = storage.foreign_file(results, is_result)
    if foreign is not None:
        raise OutputError(f"{results}: holds {foreign}, which no evaluation made, so it is not replaced; move it")


def is_result(path: Path) -> bool:
    """Whether an evaluation writes such a file; its path below the results folder."""
    if path.parts[:-1] == ("figures",):
        return path.suffix == ".png"
    return path.as_posix() in ("distribution.png", "table.csv", "table.json", "table.md")


def _names(scans: Sequence[Scan]) -> list[str]:
    """The scans' names; with those of as many folders above them as tell all apart, as where every patient has one."""
    from tf_mrsr.volume import stem

    # A scan may be a link to a store of another name, so only its folder is resolved.
    folders = [scan.high_res.parent.resolve().parts[1:] for scan in scans]
    for above in range(max(map(len, folders)) + 1):
        names = [
            "_".join([*parts[max(len(parts) - above, 0) :], stem(scan.high_res)])
            for scan, parts in zip(scans, folders, strict=True)
        ]
        if len(set(names)) == len(names):
            return names
    name, _ = Counter(names).most_common(1)[0]
    raise DataError(f"two scans are named {name}; the table could not tell them apart, rename one")


def _measure(
    scan: Scan, name: str, model: Model, protocol: str, arguments: argparse.Namespace
) -> tuple[Volume, list[Mapping[str, object]], dict[str, np.ndarray]]:
    """The truth, a row of the table for each method, and the estimates that are drawn.

    Raises:
        VolumeError, DataError: if the scan cannot be used.
    """
    from tf_mrsr.evaluation import evaluate_estimate, prepare_case

    case = prepare_case(scan, model.recipe, mask_source=arguments.mask, nan=arguments.nan, name=name)
    rows, shown, last = [], {}, model.recipe.evaluation.baselines[-1]
    started = time.perf_counter()
    with naming(scan.high_res):
        for method, estimate in _estimates(case, model, protocol, arguments):
            seconds = time.perf_counter() - started
            row = {"case": name, "method": method}
            rows.append({**row, **evaluate_estimate(case, estimate, protocol), "seconds": seconds})
            if method in ("nearest", last, "network", RESCALED):
                shown[method] = estimate[tuple(slice(0, n) for n in case.truth.shape)]
            started = time.perf_counter()
    return case.truth, rows, shown


def _estimates(
    case: Case, model: Model, protocol: str, arguments: argparse.Namespace
) -> Iterator[tuple[str, np.ndarray]]:
    from tf_mrsr.evaluation import baseline_estimates, in_scale_of_truth
    from tf_mrsr.inference import ensemble

    yield from baseline_estimates(case, model.recipe.evaluation.baselines, protocol)

    def once(volume: Volume) -> Volume:
        return cli.interruptible(lambda: model.super_resolve(volume, arguments.memory, arguments.stride))

    estimate = once(case.low_res).data
    yield "network", estimate
    if arguments.tta:
        yield FLIPPED, ensemble.mean_over_flips(once, case.low_res).data
    if model.target_window is not None:
        yield RESCALED, in_scale_of_truth(case, estimate, model.target_window, model.recipe.intensity.kind)


def _protocol_lines(recipe: Recipe, protocol: str, mask: str, stride: int | None) -> list[str]:
    from tf_mrsr import metrics

    degradation = recipe.testing_degradation()
    lines = [
        f"recipe: {recipe.name}{', changed: ' + ', '.join(recipe.changes) if recipe.changes else ''}",
        f"degradation: {degradation}",
        f"alignment: {degradation.alignment}",
        f"protocol {protocol}: {metrics.PROTOCOLS[protocol].description}",
    ]
    if metrics.PROTOCOLS[protocol].masked:
        lines.append(f"mask: {mask if mask in _MASK_RULES else 'a folder, one for each scan'}")
    if recipe.contrasts is None and not degradation.changes_grid:
        return [*lines, "baseline: nearest, the thick slice itself"]
    if recipe.contrasts is None:
        return [
            *lines,
            "baselines: B-splines of order 0 (nearest), 1 (linear), 3 (cubic), 4 (bspline4) with prefilter, each at "
            "the places that the alignment gives",
        ]
    lines += [
        "baseline: identity, the source under the linear change of intensity that is best for this very scan, by "
        "squares where the protocol compares",
        f"{RESCALED}: the network's output with this truth's centre and width in place of the training targets'",
    ]
    if recipe.prediction.kind == "patches":
        spec = recipe.prediction
        lines.append(f"patches of {spec.patch} voxels a side, stride {stride or spec.stride}, averaged")
    return lines


if __name__ == "__main__":
    sys.exit(main())
