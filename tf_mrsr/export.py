"""``python -m tf_mrsr.export``: a trained model as a folder that TensorFlow alone runs, and TensorFlow Serving; or its
network as a Keras or ONNX file.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from tf_mrsr import cli, storage
from tf_mrsr.errors import DataError, OutputError
from tf_mrsr.model_folder import FORMATS

if TYPE_CHECKING:
    from tf_mrsr.card import Card

EPILOG = """\
OUTPUT/1/ (or 2, 3, ...) gets a SavedModel with the whole way from a raw volume to the result, warm-up requests, and a
card: card.json and README.md. What is not stated here the card calls "not stated". Signatures: serving_default (volume,
affine, memory_bytes), bytes (the same, serialised) and patches or slices (the network alone).

With --format, the network alone is written, from network range to network range, without geometry or card: whole
for Keras, its weights for the builders in tf_mrsr.networks, or ONNX, checked with onnxruntime against the network.

examples:
  tf-mrsr export --model runs/x2 -o models/x2 --evaluation results/ --licence CC0 --contrast T1w
  tf-mrsr export --model runs/x2 -o models/x2 --serving-config && docker compose -f models/compose.yaml up -d
  tf-mrsr export --model runs/x2 -o x2.keras --format keras
"""
_CURVE = "training.png"
_PNG = b"\x89PNG\r\n\x1a\n"
ONNX_PACKAGES = ("tf2onnx", "onnx", "onnxruntime")


def main(argv: Sequence[str] | None = None) -> int:
    arguments = cli.parser("export", "Write a trained model as a self-contained, versioned SavedModel with its card.")
    arguments.epilog = EPILOG
    cli.add_model_option(arguments)
    arguments.add_argument(
        "-o",
        "--output",
        type=cli.path,
        required=True,
        help="the model's folder, as models/x2; versions go below it. With --format, a file",
    )
    arguments.add_argument(
        "--format",
        choices=("saved_model", *FORMATS),
        default="saved_model",
        help="saved_model (default); of the network alone: " + ", ".join(f"{k} (NAME{v})" for k, v in FORMATS.items()),
    )
    arguments.add_argument("--overwrite", action="store_true", help="with --format, replace a file that exists")
    arguments.add_argument(
        "--card",
        type=cli.path,
        metavar="FILE",
        help="YAML file with data, licence, contrasts and notes (Markdown), for the options below and more",
    )
    arguments.add_argument("--data-description", type=_stated, metavar="TEXT", help="what the model was trained on")
    arguments.add_argument("--licence", type=_stated, metavar="TEXT", help="under which the model may be used")
    arguments.add_argument(
        "--contrast", type=_stated, nargs="+", metavar="NAME", help="contrasts it was trained on, as T1w FLAIR"
    )
    arguments.add_argument(
        "--evaluation",
        type=cli.path,
        nargs="+",
        metavar="RESULTS",
        help="results folder of tf-mrsr evaluate: the card's numbers. Those of several folds are joined",
    )
    arguments.add_argument(
        "--picture",
        type=cli.path,
        action="append",
        default=[],
        metavar="FILE",
        help="PNG file that the card shows, as results/figures/NAME.png; it shows what is on it to whoever gets the "
        "model. May be given more than once. A run's curve of training is shown anyway",
    )
    arguments.add_argument(
        "--serving-config",
        action="store_true",
        help="write models.config, batching.config and compose.yaml beside the model's folder, for tensorflow/serving",
    )
    arguments.add_argument(
        "--no-generator",
        action="store_true",
        help="leave out the weights that train --start-from and --format need, which double the size",
    )
    given = arguments.parse_args(argv)
    of_folders = (given.card, given.data_description, given.licence, given.contrast, given.evaluation)
    given_one = (
        given.serving_config or given.no_generator or given.picture or any(option is not None for option in of_folders)
    )
    if given.format != "saved_model" and given_one:
        arguments.error("cards and serving files go with a SavedModel; leave their options or --format out")
    if given.format == "saved_model" and given.overwrite:
        arguments.error("a SavedModel gets a new version; leave --overwrite out")
    return cli.run(_export if given.format == "saved_model" else _export_network, given)


def _stated(text: str) -> str:
    """What an empty shell variable, or a terminal of another encoding, cannot have written."""
    if not text.strip():
        raise argparse.ArgumentTypeError("the text is empty; leave the option out where nothing is to be stated")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise argparse.ArgumentTypeError(f"{text!a} is not in UTF-8") from None
    return text


def _export_network(arguments: argparse.Namespace) -> None:
    from tf_mrsr import model_folder

    output = arguments.output.absolute()
    source = model_folder.resolve(arguments.model)
    model_folder.read_card(source)  # its files are checked
    _check_file(output, FORMATS[arguments.format], overwrite=arguments.overwrite)
    if arguments.format == "onnx":
        _check_onnx()

    cli.load_tensorflow()
    import numpy as np

    from tf_mrsr.conversion import keras_files, onnx_files
    from tf_mrsr.inference import models

    generator = models.load_generator(source)
    (onnx_files if arguments.format == "onnx" else keras_files).save(generator, output)
    print(f"{output}: {generator.count_params()} weights, {output.stat().st_size / 2**20:.1f} MB")
    window = models.load(source).target_window
    if window is not None:
        # Without exponents: argparse takes -3e-08 for an option.
        numbers = " ".join(
            np.format_float_positional(number, precision=9, unique=False, fractional=False, trim="-")
            for number in window
        )
        print(f"the target's intensities, which are not in the file: --target-window {numbers}")


def _check_file(output: Path, suffix: str, *, overwrite: bool) -> None:
    if not output.name.endswith(suffix) or output.name == suffix:
        raise OutputError(f"{output}: expected a name that ends in {suffix} for this --format")
    if output.is_dir() or (output.exists() and not overwrite):
        raise OutputError(f"{output}: exists already; give another name or --overwrite")
    if not output.parent.is_dir():
        raise OutputError(f"{output}: the folder {output.parent} does not exist; make it first")
    cli.check_writable(output.parent)


def _check_onnx() -> None:
    missing = [name for name in ONNX_PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise OutputError(
            f"--format onnx needs {', '.join(missing)}; install them with pip install '.[onnx]' in tf_mrsr's folder"
        )


def _export(arguments: argparse.Namespace) -> None:
    from tf_mrsr import card_page, model_folder
    from tf_mrsr.serving import config

    source = model_folder.resolve(arguments.model)
    card = _card(arguments, source)
    target = _next_version(arguments.output)
    if arguments.serving_config:
        config.check(arguments.output.absolute().parent)
    for picture in arguments.picture:
        if not _is_png(picture):
            raise DataError(f"{picture}: not a PNG file; give a picture that tf-mrsr evaluate wrote, or leave it out")

    cli.load_tensorflow()
    from tf_mrsr.inference import models
    from tf_mrsr.report import figures

    model = models.rebuild(source)
    storage.make_folder(target.parent)
    with tempfile.TemporaryDirectory() as folder:
        pictures = {path.name: path for path in sorted((source / card_page.PICTURES_FOLDER).glob("*.png"))}
        if arguments.picture:
            kept = {name: path for name, path in pictures.items() if name == _CURVE}
            pictures = {f"scan{number}.png": picture for number, picture in enumerate(arguments.picture, start=1)}
            pictures |= kept
        curve = figures.training_curve(source, Path(folder) / _CURVE)
        if curve is not None:
            pictures[curve.name] = curve
        generator = None if arguments.no_generator else model.generator
        models.save(model._replace(card=card, generator=generator), target, pictures)
    size = sum(path.stat().st_size for path in target.rglob("*") if path.is_file())
    print(f"{target}: exported, {size / 2**20:.1f} MB; predict with --model {target}")
    if arguments.serving_config:
        for file in config.write(target.parent.parent):
            print(f"{file}: written")


def _is_png(path: Path) -> bool:
    try:
        with path.open("rb") as stream:
            return stream.read(len(_PNG)) == _PNG
    except OSError:
        return False


def _card(arguments: argparse.Namespace, source: Path) -> Card:
    from tf_mrsr import card as cards
    from tf_mrsr import model_folder

    card = model_folder.read_card(source)
    facts = card.facts if arguments.card is None else cards.read_facts(arguments.card)
    stated = {
        "data": arguments.data_description,
        "licence": arguments.licence,
        "contrasts": None if arguments.contrast is None else tuple(arguments.contrast),
    }
    measured = card.measured
    if arguments.evaluation is not None:
        measured = cards.read_evaluation(arguments.evaluation, model_folder.read_recipe(source))
    facts = replace(facts, **{name: value for name, value in stated.items() if value is not None})
    return replace(card, name=arguments.output.absolute().name, facts=facts, measured=measured)


def _next_version(output: Path) -> Path:
    """The folder of the version after those that are there."""
    from tf_mrsr import model_folder
    from tf_mrsr.serving import config

    model_folder.check_new_folder(output)
    output = output.absolute()
    if model_folder.is_version(output.name):
        raise OutputError(f"{output}: versions are numbered here; give the folder above, the model's")
    config.check_name(output.name)
    if output.exists() and not output.is_dir():
        raise OutputError(f"{output}: is a file; give the name of a folder")
    if any((output / name).exists() for name in (model_folder.SAVED_MODEL_FILE, model_folder.RUN_FILE)):
        raise OutputError(f"{output}: is itself a run or a SavedModel; give another folder, versions go below it")
    cli.check_can_hold(output)
    numbers = [int(p.name) for p in output.iterdir() if model_folder.is_version(p.name)] if output.exists() else []
    return output / str(max(numbers, default=0) + 1)


if __name__ == "__main__":
    sys.exit(main())
