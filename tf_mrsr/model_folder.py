"""What can be read of a model's folder, a run or a SavedModel, without TensorFlow."""

from __future__ import annotations

from pathlib import Path

from tf_mrsr import recipe
from tf_mrsr.errors import ModelError
from tf_mrsr.recipe import Recipe

RECIPE_FILE = "recipe.yaml"
RUN_FILE = "run.json"
EXTRA_FOLDER = "assets.extra"
SAVED_MODEL_FILE = "saved_model.pb"


def is_saved_model(folder: Path) -> bool:
    return (folder / SAVED_MODEL_FILE).exists()


def read_recipe(folder: Path) -> Recipe:
    """The recipe of a run folder or a SavedModel folder.

    Raises:
        ModelError: if it is neither.
    """
    if not folder.is_dir():
        raise ModelError(f"{folder}: no such folder; expected a run folder or a SavedModel folder")
    if is_saved_model(folder):
        file = folder / EXTRA_FOLDER / RECIPE_FILE
        if not file.exists():
            raise ModelError(
                f"{folder}: a SavedModel, but not one of tf_mrsr ({EXTRA_FOLDER}/{RECIPE_FILE} is missing)"
            )
        return recipe.load(file)
    if not (folder / RUN_FILE).exists():
        raise ModelError(f"{folder}: neither a run folder ({RUN_FILE}) nor a SavedModel ({SAVED_MODEL_FILE})")
    return recipe.load(folder / RECIPE_FILE)
