"""``python -m tf_mrsr.convert``: weights of the original programs, or Keras files, as models of ours."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tf_mrsr import cli, model_folder
from tf_mrsr.errors import ModelError, OutputError, RecipeError
from tf_mrsr.model_folder import KERAS_SUFFIX, WEIGHTS_SUFFIX

if TYPE_CHECKING:
    from tf_mrsr.recipe import Recipe

EPILOG = """\
examples:
  tf-mrsr convert checkpoints/model-0 -o models/x4 --recipe sanchez2018_srgan3d_x4_subpixel_code
  tf-mrsr convert checkpoints/ -o x4.weights.h5 --recipe sanchez2018_srgan3d_x4_subpixel_code
  tf-mrsr convert g_srgan.npz -o models/model1 --recipe narcomey2018_srgan_model1_code
  tf-mrsr convert x2.keras -o models/x2 --recipe runs/x2/recipe.yaml

A folder is what predict and evaluate take as --model; a name that ends in .weights.h5 gets the generator's weights for
Keras, to be loaded into tf_mrsr.networks. A recipe with '_code' has the network as the program has it. .keras and
.weights.h5 files are those of tf-mrsr export, or of the same networks trained elsewhere; only their weights are read.
"""
PROGRAMS = ("narcomey2018", "sanchez2018")  # modules of tf_mrsr.conversion


def main(argv: Sequence[str] | None = None) -> int:
    arguments = cli.parser("convert", "Make a model of weights that an original program or Keras wrote.")
    arguments.epilog = EPILOG
    arguments.add_argument(
        "source",
        type=cli.path,
        help="sanchez2018: checkpoint of TensorFlow 1 (folder, or its name before '.index'); "
        "narcomey2018: TensorLayer's .npz; any network: .keras or .weights.h5",
    )
    arguments.add_argument(
        "-o", "--output", type=cli.path, required=True, help=f"folder of the model, or a file NAME{WEIGHTS_SUFFIX}"
    )
    arguments.add_argument("--recipe", required=True, help="recipe of the network: a name, or the path of a YAML file")
    arguments.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="change one value of the recipe, for instance network.generator.filters=64",
    )
    arguments.add_argument(
        "--target-window",
        nargs=2,
        type=float,
        metavar=("CENTRE", "WIDTH"),
        help="for models from one contrast to another: the scale of the target's intensities, which export tells",
    )
    arguments.add_argument("--overwrite", action="store_true", help="replace an output that exists")
    return cli.run(_convert, arguments.parse_args(argv))


def _convert(arguments: argparse.Namespace) -> None:
    from tf_mrsr import recipe

    chosen = recipe.load(arguments.recipe, arguments.set)
    network, output = chosen.network.name, arguments.output
    of_keras = arguments.source.name.endswith((KERAS_SUFFIX, WEIGHTS_SUFFIX))
    if network not in PROGRAMS and not of_keras:
        raise RecipeError(
            f"{chosen.name}: there is no program to convert from for {network}, only {', '.join(PROGRAMS)}; give a "
            f"{KERAS_SUFFIX} or {WEIGHTS_SUFFIX} file"
        )
    weights_only = output.name.endswith(WEIGHTS_SUFFIX)
    _check_source(arguments.source)
    _check_window(arguments, chosen, weights_only)
    _check_output(output, weights_only, arguments.overwrite)
    if not of_keras and f"{chosen.name}_code" in recipe.names():
        cli.warn(f"{chosen.name} follows the paper; {chosen.name}_code follows the program that trained the weights")

    cli.load_tensorflow()
    from tf_mrsr.conversion import keras_files, narcomey2018, sanchez2018
    from tf_mrsr.inference import models

    generator = models.build_generator(chosen)
    if of_keras:
        generator = models.load_stages(generator, arguments.source)
    else:
        {"narcomey2018": narcomey2018, "sanchez2018": sanchez2018}[network].load(generator, arguments.source)
    if weights_only:
        keras_files.save(generator, output)
    else:
        resolver = models.resolver_for(chosen, generator, arguments.target_window)
        models.save(models.Model(chosen, resolver, generator=generator), output)
    use = "load them with Keras" if weights_only else f"predict with --model {output}"
    print(f"{output}: {len(generator.weights)} tensors, {generator.count_params()} weights converted; {use}")


def _check_source(source: Path) -> None:
    if not source.exists() and not source.with_name(f"{source.name}.index").exists():
        raise ModelError(f"{source}: no such file, folder or checkpoint")


def _check_window(arguments: argparse.Namespace, chosen: Recipe, weights_only: bool) -> None:
    window = arguments.target_window
    needed = chosen.intensity.target == "own" and not weights_only
    if needed and window is None:
        raise RecipeError(
            f"{chosen.name}: the scale of the target's intensities is not in a file of weights; give it with "
            "--target-window CENTRE WIDTH, as export told it (or target_window in the run's run.json)"
        )
    if window is not None and not needed:
        raise RecipeError("--target-window is for folders of models from one contrast to another; leave it out")
    if window is not None and not (math.isfinite(window[0]) and 0 < window[1] < math.inf):
        raise RecipeError(f"--target-window must be a finite centre and a width over 0, got {window}")


def _check_output(output: Path, weights_only: bool, overwrite: bool) -> None:
    if not weights_only:
        model_folder.check_new_folder(output)
    if output.exists():
        if not overwrite:
            raise OutputError(f"{output}: exists already; give another name or --overwrite")
        replaceable = output.is_file() if weights_only else model_folder.is_ours(output)
        if not replaceable:
            raise OutputError(f"{output}: is not a model that this command wrote; give another name")
        foreign = None if weights_only else model_folder.foreign_file(output)
        if foreign is not None:
            raise OutputError(f"{output}: holds {foreign}, which is not of the model, so it is not replaced; move it")
    parent = output.absolute().parent
    if not parent.is_dir():
        raise OutputError(f"{parent}: does not exist; make it first")
    cli.check_writable(parent)


if __name__ == "__main__":
    sys.exit(main())
