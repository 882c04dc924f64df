"""``python -m tf_mrsr.convert``: weights of the original programs as models of ours."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tf_mrsr import cli
from tf_mrsr.errors import ModelError, OutputError, RecipeError

if TYPE_CHECKING:
    import keras

EPILOG = """\
examples:
  tf-mrsr convert checkpoints/model-0 -o models/x4 --recipe sanchez2018_srgan3d_x4_subpixel_code
  tf-mrsr convert checkpoints/ -o x4.weights.h5 --recipe sanchez2018_srgan3d_x4_subpixel_code
  tf-mrsr convert g_srgan.npz -o models/model1 --recipe narcomey2018_srgan_model1_code

The first and last make a folder that predict and evaluate take as --model; the second makes the generator's weights for
Keras, to be loaded into tf_mrsr.networks. A recipe with '_code' has the network as the program has it.
"""
WEIGHTS_SUFFIX = ".weights.h5"
PROGRAMS = ("narcomey2018", "sanchez2018")  # modules of tf_mrsr.conversion


def main(argv: Sequence[str] | None = None) -> int:
    arguments = cli.parser("convert", "Convert the weights that an original program trained.")
    arguments.epilog = EPILOG
    arguments.add_argument(
        "source",
        type=cli.path,
        help="sanchez2018: checkpoint of TensorFlow 1 (folder, or its name before '.index'); "
        "narcomey2018: TensorLayer's .npz",
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
    arguments.add_argument("--overwrite", action="store_true", help="replace an output that exists")
    return cli.run(_convert, arguments.parse_args(argv))


def _convert(arguments: argparse.Namespace) -> None:
    from tf_mrsr import recipe

    chosen = recipe.load(arguments.recipe, arguments.set)
    network, output = chosen.network.name, arguments.output
    if network not in PROGRAMS:
        raise RecipeError(
            f"{chosen.name}: there is no program to convert from for {network}, only {', '.join(PROGRAMS)}"
        )
    weights_only = output.name.endswith(WEIGHTS_SUFFIX)
    _check_source(arguments.source)
    _check_output(output, weights_only, arguments.overwrite)
    if f"{chosen.name}_code" in recipe.names():
        cli.warn(f"{chosen.name} follows the paper; {chosen.name}_code follows the program that trained the weights")

    cli.load_tensorflow()
    from tf_mrsr.conversion import narcomey2018, sanchez2018
    from tf_mrsr.inference import models

    generator = models.build_generator(chosen)
    {"narcomey2018": narcomey2018, "sanchez2018": sanchez2018}[network].load(generator, arguments.source)
    if weights_only:
        _save_weights(generator, output)
    else:
        models.save(models.Model(chosen, models.resolver_for(chosen, generator)), output)
    use = "load them with Keras" if weights_only else f"predict with --model {output}"
    print(f"{output}: {len(generator.weights)} tensors, {generator.count_params()} weights converted; {use}")


def _check_source(source: Path) -> None:
    if not source.exists() and not source.with_name(f"{source.name}.index").exists():
        raise ModelError(f"{source}: no such file, folder or checkpoint")


def _check_output(output: Path, weights_only: bool, overwrite: bool) -> None:
    if output.exists():
        if not overwrite:
            raise OutputError(f"{output}: exists already; give another name or --overwrite")
        replaceable = output.is_file() if weights_only else (output / "saved_model.pb").is_file()
        if not replaceable:
            raise OutputError(f"{output}: is not a model that this command wrote; give another name")
    parent = output.absolute().parent
    if not parent.is_dir():
        raise OutputError(f"{parent}: does not exist; make it first")
    cli.check_writable(parent)


def _save_weights(generator: keras.Model, output: Path) -> None:
    temporary = output.with_name(f".{output.name.removesuffix(WEIGHTS_SUFFIX)}.partial{WEIGHTS_SUFFIX}")
    try:
        generator.save_weights(temporary)
        os.replace(temporary, output)
    except OSError as error:
        raise OutputError(f"{output}: cannot be written; check the folder and the disk") from error
    finally:
        temporary.unlink(missing_ok=True)


if __name__ == "__main__":
    sys.exit(main())
