"""What can be read of a model's folder, a run or a SavedModel, without TensorFlow.

Models that come with the package lie in ``weights/`` (``tf_mrsr._weights`` once installed), one SavedModel each.
"""

from __future__ import annotations

import difflib
import json
import re
from pathlib import Path

from tf_mrsr import card as cards
from tf_mrsr import recipe, storage
from tf_mrsr.card import Card
from tf_mrsr.errors import ModelError, OutputError, RecipeError
from tf_mrsr.recipe import Recipe

RECIPE_FILE = "recipe.yaml"
RUN_FILE = "run.json"
GENERATOR_FOLDER = "generator"
EXTRA_FOLDER = "assets.extra"
# The generator with its batch norms, in EXTRA_FOLDER, for a training that goes on from it.
GENERATOR_FILE = "generator.weights.h5"
SAVED_MODEL_FILE = "saved_model.pb"
# Files of a generator alone.
KERAS_SUFFIX = ".keras"
WEIGHTS_SUFFIX = ".weights.h5"
ONNX_SUFFIX = ".onnx"
FORMATS = {"keras": KERAS_SUFFIX, "weights": WEIGHTS_SUFFIX, "onnx": ONNX_SUFFIX}
# TensorFlow takes these for patterns in paths that it reads from, also when it cleans up a run's older checkpoints.
PATTERN_CHARACTERS = "*?[\\"


def weights_directory() -> Path:
    installed = Path(__file__).parent / "_weights"
    return installed if installed.is_dir() else Path(__file__).parents[1] / "weights"


def shipped() -> list[str]:
    """Names of the models that come with the package."""
    return sorted(path.parent.name for path in weights_directory().glob(f"*/{SAVED_MODEL_FILE}"))


def resolve(model: str | Path) -> Path:
    """The folder of a model: a run, a SavedModel, the newest version in a folder of versions, or a shipped name.

    Raises:
        ModelError: if there is no such folder and no shipped model of that name.
    """
    model = Path(model)
    if model.is_dir():
        found = versions(model)
        return model if not found or is_saved_model(model) else found[-1]
    if len(model.parts) == 1 and model.name in shipped():
        return weights_directory() / model.name
    if model.exists():
        raise ModelError(f"{model}: is a file; expected a run folder or a SavedModel folder")
    raise ModelError(f"{model}: no such folder; expected a run folder or a SavedModel folder{_nearest(model.name)}")


def _nearest(name: str) -> str:
    known = shipped()
    if not known:
        return ", and no model comes with the package"
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    if close:
        return f", or the name of a shipped model: did you mean {close[0]!r}?"
    return f", or one of the shipped models {', '.join(known)}"


def versions(folder: Path) -> list[Path]:
    """The SavedModels in a folder of versions (models/x2/1, models/x2/2), the newest last."""
    found = (path.parent for path in folder.glob(f"*/{SAVED_MODEL_FILE}"))
    return sorted((path for path in found if is_version(path.name)), key=lambda path: int(path.name))


def is_version(name: str) -> bool:
    """Whether a folder's name is the number of a version."""
    return name.isascii() and name.isdecimal()


def is_saved_model(folder: Path) -> bool:
    return (folder / SAVED_MODEL_FILE).exists()


def is_ours(folder: Path) -> bool:
    """Whether a folder is a SavedModel that this program wrote."""
    return is_saved_model(folder) and (folder / EXTRA_FOLDER / RECIPE_FILE).is_file()


def foreign_file(folder: Path) -> Path | None:
    """The first file in a SavedModel's folder, hidden or not, that its card does not list; None if there is none.

    Raises:
        ModelError: if the card cannot be read.
    """
    listed = {*cards.read(folder).files, cards.CARD_FILE}
    return storage.foreign_file(folder, lambda path: path.as_posix() in listed)


def check_new_folder(folder: Path) -> None:
    """Raises OutputError if a SavedModel's folder would get a file's name, or one that cannot be read from."""
    chosen = next((name for name, suffix in FORMATS.items() if folder.name.endswith(suffix)), None)
    if chosen is not None:
        raise OutputError(
            f"{folder}: {FORMATS[chosen]} is the ending of a file, but a folder is to be written; leave it out, or "
            f"write the network alone with tf-mrsr export --format {chosen}"
        )
    _check_path(folder, OutputError)


def _check_path(folder: Path, kind: type[ModelError | OutputError]) -> None:
    found = [character for character in PATTERN_CHARACTERS if character in folder.as_posix()]
    try:
        folder.as_posix().encode()
    except UnicodeEncodeError as error:
        raise kind(f"{folder}: the path is not in UTF-8, so TensorFlow cannot use it; rename the folder") from error
    if found:
        raise kind(
            f"{folder}: the path has {' and '.join(found)} in it, which TensorFlow takes for a pattern; rename the "
            "folder, or work in it with relative paths if it is one above"
        )


def check_new_run(folder: Path) -> None:
    """Raises OutputError if a new run's folder holds something already, or has a path that cannot be read from."""
    _check_path(folder, OutputError)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise OutputError(f"{folder}: exists and is not an empty folder; use --resume to go on, or another --run")


def generator_file(folder: Path) -> Path | None:
    """The file of a SavedModel's generator with its batch norms, or None if it was saved without."""
    file = folder / EXTRA_FOLDER / GENERATOR_FILE
    return file if file.exists() else None


def read_recipe(folder: Path) -> Recipe:
    """The recipe of a run folder or a SavedModel folder.

    Raises:
        ModelError: if it is neither, or has a path that TensorFlow cannot read from.
    """
    if not folder.is_dir():
        raise ModelError(f"{folder}: no such folder; expected a run folder or a SavedModel folder")
    _check_path(folder, ModelError)
    if is_saved_model(folder):
        file = folder / EXTRA_FOLDER / RECIPE_FILE
        if not file.exists():
            raise ModelError(
                f"{folder}: a SavedModel, but not one of tf_mrsr ({EXTRA_FOLDER}/{RECIPE_FILE} is missing)"
            )
        return recipe.load(file)
    if not (folder / RUN_FILE).exists():
        raise ModelError(
            f"{folder}: neither a run folder ({RUN_FILE}) nor a SavedModel ({SAVED_MODEL_FILE}){_hidden(folder)}"
        )
    return recipe.load(folder / RECIPE_FILE)


def _hidden(folder: Path) -> str:
    if len(folder.parts) > 1 or folder.name not in shipped():
        return ""
    return "; this folder hides the shipped model of its name, rename it or work in another folder"


def read_card(folder: Path) -> Card:
    """The card of a run folder or a SavedModel folder; the latter's files are checked against it.

    Raises:
        ModelError: if it is neither, or a file is missing, damaged or changed.
    """
    chosen = read_recipe(folder)
    if is_saved_model(folder):
        return cards.read(folder)
    _, facts = read_run(folder)
    try:
        return cards.of_recipe(chosen, facts, _generator_step(folder))
    except RecipeError as error:
        raise ModelError(f"{folder}: {RUN_FILE} is damaged ({error})") from error


def _generator_step(run: Path) -> int | None:
    """The step after which a run's generator was written, the number in its checkpoint's name (ckpt-2500)."""
    try:
        newest = (run / GENERATOR_FOLDER / "checkpoint").read_text(encoding="utf-8")
    except (OSError, ValueError):
        return None
    found = re.search(r'^model_checkpoint_path: ".*-([0-9]+)"', newest, re.MULTILINE)
    return None if found is None else int(found[1])


def read_run(folder: Path) -> tuple[Recipe, dict]:
    """The recipe and facts of a run folder.

    Raises:
        ModelError: if it is not a run folder, or has a path that TensorFlow cannot read from.
    """
    _check_path(folder, ModelError)
    try:
        facts = json.loads((folder / RUN_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{folder}: not a run folder ({RUN_FILE} is missing or damaged)") from error
    kinds = {"seed": int, "steps": (int, type(None)), "precision": str, "data": str, "validation_data": str}
    kinds |= {"vgg19": (dict, type(None))}
    if not isinstance(facts, dict) or not all(isinstance(facts.get(key), kind) for key, kind in kinds.items()):
        raise ModelError(f"{folder}: {RUN_FILE} is damaged; put back the one that the run began with")
    return recipe.load(folder / RECIPE_FILE), facts
