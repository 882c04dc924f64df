"""``python -m tf_mrsr.train``: train a recipe's networks on scans."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tf_mrsr import cli
from tf_mrsr.errors import DataError, ModelError, RecipeError

if TYPE_CHECKING:
    from tf_mrsr.cohort import Scan
    from tf_mrsr.recipe import Recipe

EPILOG = """\
examples:
  tf-mrsr train --recipe sanchez2018_srgan3d_x2_subpixel_nn --data scans/ --run runs/x2
  tf-mrsr train --run runs/x2 --resume --data scans/
  tf-mrsr train --recipe sanchez2018_srgan3d_x2_quick --data scans/ --validation held_out/ --run runs/quick --steps 2000
  tf-mrsr train --recipe sanchez2018_srgan3d_x2_pretrained --data scans/ --run runs/mine --start-from sanchez2018_x2
  tf-mrsr train --recipe narcomey2018_srgan_model1 --data pairs.csv --vgg19 vgg19.npy --run runs/n1
"""


def main(argv: Sequence[str] | None = None) -> int:
    arguments = cli.parser("train", "Train a recipe's networks on high-resolution scans.")
    arguments.epilog = EPILOG
    arguments.add_argument("--recipe", help="name of a recipe that comes with tf_mrsr, or path of a YAML file")
    arguments.add_argument(
        "--data",
        nargs="+",
        required=True,
        help="scans: folders, NIfTI files, CSV/TSV lists with a column 'path', or for pairs 'low_res' and 'high_res', "
        "or 'source' and 'target'",
    )
    arguments.add_argument(
        "--run", type=cli.path, required=True, help="folder of the run: made new, or gone on with (--resume)"
    )
    arguments.add_argument(
        "--validation", nargs="+", default=[], help="held-out scans, as --data; the best epoch by PSNR is kept"
    )
    arguments.add_argument("--resume", action="store_true", help="go on with the run from its newest checkpoint")
    arguments.add_argument(
        "--start-from",
        type=cli.path,
        metavar="MODEL",
        help="begin with the generator of a trained model (run folder, exported or shipped model) of the same network",
    )
    arguments.add_argument(
        "--steps", type=cli.positive, help="train this many steps (in each stage) instead of the recipe's epochs"
    )
    arguments.add_argument("--seed", type=_seed, help="seed of weights, patches and labels (default 0)")
    arguments.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="change one value of the recipe, for instance patches.shape=[64,64,64]",
    )
    arguments.add_argument(
        "--vgg19",
        type=cli.path,
        metavar="FILE",
        help="trained weights of VGG19, for recipes with the loss vgg19_features: Keras' .h5, or .npy or .npz",
    )
    arguments.add_argument(
        "--precision",
        choices=("float32", "mixed_bfloat16"),
        help="mixed_bfloat16: less memory, and faster where the processor has instructions for it, else much slower "
        "(tf-mrsr doctor measures it); default float32",
    )
    arguments.add_argument(
        "--jit", choices=("auto", "on", "off"), default="auto", help="XLA: on GPUs only (auto, default), always, never"
    )
    cli.add_cache_option(arguments)
    arguments.add_argument(
        "--checkpoint-minutes", type=_minutes, default=5.0, metavar="N", help="time between checkpoints (default 5)"
    )
    arguments.add_argument(
        "--skip-bad",
        action="store_true",
        help="leave out scans that are there and cannot be used, naming each, instead of stopping",
    )
    cli.add_nan_option(arguments)
    cli.add_memory_option(arguments)
    cli.add_device_option(arguments)
    return cli.run(_train, arguments.parse_args(argv))


def _name_of(model: Path) -> str:
    """What a card calls the model that a training began with; its files are checked."""
    from tf_mrsr import model_folder

    card = model_folder.read_card(model)
    if not model_folder.is_saved_model(model):
        return model.resolve().name
    if model_folder.generator_file(model) is None:
        raise ModelError(f"{model}: was saved without what a training goes on from; give its run's folder")
    return card.name


def _minutes(text: str) -> float:
    try:
        minutes = float(text)
    except ValueError:
        minutes = -1
    if not 0 <= minutes < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of minutes")
    return minutes


def _seed(text: str) -> int:
    if not text.isdigit() or int(text) >= 2**31:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 to {2**31 - 1}")
    return int(text)


def _train(arguments: argparse.Namespace) -> None:
    from tf_mrsr import cohort, model_folder, recipe

    # Whatever can be refused is refused before TensorFlow is loaded.
    _check_options(arguments)
    if arguments.resume:
        chosen, start_from = model_folder.read_recipe(arguments.run), None
        _, facts = model_folder.read_run(arguments.run)
    else:
        chosen = recipe.load(arguments.recipe, arguments.set)
        start_from = None if arguments.start_from is None else model_folder.resolve(arguments.start_from)
        facts = _new_facts(arguments, start_from)
        model_folder.check_new_run(arguments.run)
    cli.check_can_hold(arguments.run)
    scans = cohort.find_pairs(arguments.data, chosen.contrasts)
    held_out = cohort.find_pairs(arguments.validation, chosen.contrasts) if arguments.validation else []
    _refuse_overlap(scans, held_out)

    cli.load_tensorflow(arguments.device)
    if facts["precision"] == "mixed_bfloat16":
        cli.warn_of_slow_bfloat16(
            "go on on another machine, or begin a new run in float32" if arguments.resume else "leave out --precision"
        )
    from tf_mrsr import networks, run_folder
    from tf_mrsr.card import SPACING_KEY
    from tf_mrsr.pipeline import PatchPairs
    from tf_mrsr.progress import Progress
    from tf_mrsr.training.loop import Settings, Trainer
    from tf_mrsr.training.validation import Validation

    networks.check(chosen.network.name, "generator", chosen.network.generator)  # before any scan is read
    if chosen.network.discriminator or any(stage.discriminator for stage in chosen.stages):
        networks.check(chosen.network.name, "discriminator", chosen.network.discriminator)
    _set_steps(arguments, chosen, facts)
    vgg19 = _vgg19(arguments, chosen, facts)
    on_bad_scan = (lambda error: cli.warn(f"left out: {error}")) if arguments.skip_bad else None
    with Progress("reading", len(scans)) as progress:
        pairs = PatchPairs(
            scans,
            chosen,
            seed=facts["seed"],
            cache_bytes=arguments.cache,
            nan=arguments.nan,
            on_bad_scan=on_bad_scan,
            on_scan_read=progress.advance,
        )
    if arguments.resume and facts.get("start_from") and not run_folder.has_checkpoint(arguments.run):
        raise ModelError(f"{arguments.run}: was stopped before its first checkpoint; delete it and begin again")
    validation = None
    if held_out:
        validation = Validation(
            held_out, chosen, memory_bytes=arguments.memory, nan=arguments.nan, on_bad_scan=on_bad_scan
        )
        held_out = validation.scans
    data = {"data": run_folder.fingerprint(pairs.scans), "validation_data": run_folder.fingerprint(held_out)}
    if arguments.resume:
        _check_same_data(arguments.run, data, facts)
    facts |= data | {"target_window": pairs.target_window, "scans": len(pairs.scans), SPACING_KEY: pairs.spacing_range}
    settings = Settings(
        seed=facts["seed"],
        steps=facts["steps"],
        precision=facts["precision"],
        jit=arguments.jit,
        checkpoint_minutes=arguments.checkpoint_minutes,
        vgg19=vgg19,
        start_from=start_from,
    )
    trainer = Trainer(chosen, pairs, validation, settings)
    if not arguments.resume:
        run_folder.create_run(arguments.run, chosen, facts)
    with run_folder.held(arguments.run):
        done = trainer.open(arguments.run)
        run_folder.write_facts(arguments.run, facts)
        print(
            f"{chosen.name}: {len(pairs.scans)} scans, {pairs.steps_per_epoch} steps per epoch, "
            f"{trainer.total_steps} steps in all{f', going on after {done}' if done else ''}"
        )
        trainer.run()
    print(f"{arguments.run}: trained; predict with --model {arguments.run}")


def _check_options(arguments: argparse.Namespace) -> None:
    from tf_mrsr import recipe

    if not arguments.resume and arguments.recipe is None:
        raise RecipeError("--recipe is needed; recipes that come with tf_mrsr: " + ", ".join(recipe.names()))
    of_new_runs = (arguments.recipe, arguments.set, arguments.precision, arguments.start_from)
    if arguments.resume and (any(of_new_runs) or arguments.seed is not None):
        raise RecipeError(
            "--resume goes on with the run's own recipe, seed, precision and weights; leave those options out"
        )


def _new_facts(arguments: argparse.Namespace, start_from: Path | None) -> dict:
    from tf_mrsr import __version__

    return {
        "tf_mrsr": __version__,
        "seed": arguments.seed or 0,
        "steps": arguments.steps,
        "precision": arguments.precision or "float32",
        "start_from": None if start_from is None else _name_of(start_from),
    }


def _set_steps(arguments: argparse.Namespace, recipe: Recipe, facts: dict) -> None:
    if arguments.steps is None or arguments.steps == facts["steps"]:
        return
    if arguments.resume:
        (first, *more) = recipe.stages
        trained = [first.generator, *([first.discriminator] if first.discriminator else [])]
        if more or any(part.optimizer.depends_on_length for part in trained):
            raise RecipeError(
                "--resume cannot change --steps: the recipe has several stages, or a learning rate that falls over all "
                "its steps"
            )
    facts["steps"] = arguments.steps


def _vgg19(arguments: argparse.Namespace, recipe: Recipe, facts: dict) -> Path | None:
    """The file of VGG19's weights, read once to refuse it early, and kept in ``facts`` so that the run goes on
    with the same.
    """
    from tf_mrsr import card
    from tf_mrsr.networks import vgg19

    if not recipe.needs_vgg19:
        if arguments.vgg19 is not None:
            raise RecipeError(f"{recipe.name} has no feature loss; leave --vgg19 out")
        return None
    recorded = facts.get("vgg19")
    path = arguments.vgg19 or (Path(recorded["path"]) if recorded else None)
    vgg19.read_weights(path)
    facts["vgg19"] = {"path": str(path.resolve()), "sha256": card.sha256(path)}
    if recorded and recorded["sha256"] != facts["vgg19"]["sha256"]:
        raise DataError(f"{path}: not the weights of VGG19 that the run began with; give the same file (--vgg19)")
    return path


def _refuse_overlap(scans: Sequence[Scan], held_out: Sequence[Scan]) -> None:
    both = {scan.high_res.resolve() for scan in scans} & {scan.high_res.resolve() for scan in held_out}
    if both:
        raise DataError(
            f"{len(both)} scans are in both --data and --validation, for instance {min(both)}; keep them apart"
        )


def _check_same_data(run: Path, data: dict[str, str], recorded: dict) -> None:
    for key, option in (("data", "--data"), ("validation_data", "--validation")):
        if data[key] != recorded[key]:
            raise DataError(f"{run}: the run began with other scans than {option} names; give the same to go on")


if __name__ == "__main__":
    sys.exit(main())
