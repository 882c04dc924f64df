"""What a training run keeps on disk: its recipe, its state for going on, its generator for use.

A run folder::

    recipe.yaml        the recipe as it ran, overrides included
    run.json           seed, steps, precision, version, hashes that tell the scans
    state/             TensorFlow checkpoints of everything that going on needs
    generator/         the generator to predict with: the best by validation, or the newest
    saved_model/       that generator with everything around it, written at the end
    log.csv            losses
    validation.csv     PSNR and SSIM on held-out scans
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

import keras
import tensorflow as tf
from google.protobuf.message import DecodeError

from tf_mrsr import recipe as recipes
from tf_mrsr.cohort import Scan
from tf_mrsr.errors import ModelError, OutputError
from tf_mrsr.model_folder import RECIPE_FILE, RUN_FILE
from tf_mrsr.recipe import Recipe

# What reading a damaged checkpoint or SavedModel raises, according to where the damage is.
DAMAGED = (AssertionError, IndexError, KeyError, OSError, TypeError, ValueError, tf.errors.OpError, DecodeError)
STATE_FOLDER = "state"
GENERATOR_FOLDER = "generator"
SAVED_MODEL_FOLDER = "saved_model"


def write_text(path: Path, text: str) -> None:
    """Writes a file under a temporary name, then renames it."""
    temporary = path.with_name(f".{path.name}.partial")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror})") from error


def create_run(folder: Path, recipe: Recipe, facts: dict) -> None:
    """Makes a run folder.

    Raises:
        OutputError: if the folder holds something already, or cannot be made.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise OutputError(f"{folder}: exists and is not an empty folder; use --resume to go on, or another --run")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be made ({error.strerror})") from error
    write_text(folder / RECIPE_FILE, recipe.to_yaml())
    write_facts(folder, facts)


def write_facts(folder: Path, facts: dict) -> None:
    write_text(folder / RUN_FILE, json.dumps(facts, indent=2) + "\n")


def read_run(folder: Path) -> tuple[Recipe, dict]:
    """The recipe and facts of a run folder.

    Raises:
        ModelError: if it is not a run folder.
    """
    try:
        facts = json.loads((folder / RUN_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{folder}: not a run folder ({RUN_FILE} is missing or damaged)") from error
    kinds = {"seed": int, "steps": (int, type(None)), "precision": str, "data": str, "validation_data": str}
    kinds |= {"vgg19": (dict, type(None))}
    if not isinstance(facts, dict) or not all(isinstance(facts.get(key), kind) for key, kind in kinds.items()):
        raise ModelError(f"{folder}: {RUN_FILE} is damaged; put back the one that the run began with")
    return recipes.load(folder / RECIPE_FILE), facts


def generator_manager(folder: Path, generator: keras.Model, stages: tf.Variable) -> tf.train.CheckpointManager:
    """Writes the generator to predict with; ``stages`` (int) says how many of its stages are of use."""
    checkpoint = tf.train.Checkpoint(generator=generator, stages=stages)
    return tf.train.CheckpointManager(checkpoint, folder / GENERATOR_FOLDER, max_to_keep=1)


def restore_generator(folder: Path, generator: keras.Model) -> int:
    """Loads the run's generator into a model that its recipe built.

    Returns:
        How many of the generator's stages are of use.

    Raises:
        ModelError: if the run has none yet or its file is damaged.
    """
    checkpoint = latest_checkpoint(folder / GENERATOR_FOLDER)
    if checkpoint is None:
        raise ModelError(f"{folder}: the run has no generator yet; let it train longer")
    stages = tf.Variable(0, trainable=False)
    try:
        kept = tf.train.Checkpoint(generator=generator, stages=stages).restore(checkpoint)
        kept.expect_partial().assert_existing_objects_matched()
    except DAMAGED as error:
        raise ModelError(
            f"{folder}: the generator's checkpoint is damaged or of another recipe; use its saved_model, or train again"
        ) from error
    return int(stages)


def latest_checkpoint(folder: Path) -> str | None:
    """The newest checkpoint in a folder; None if there is none.

    Raises:
        ModelError: if there are checkpoints but the index that names the newest is missing or damaged.
    """
    try:
        checkpoint = tf.train.latest_checkpoint(folder)
    except DAMAGED as error:
        raise ModelError(f"{folder}: the file 'checkpoint' is damaged; put back a copy, or start a new run") from error
    if checkpoint is None and any(folder.glob("*.index")):
        raise ModelError(f"{folder}: the file 'checkpoint' is missing or damaged; put back a copy, or start a new run")
    return checkpoint


def save_checkpoint(manager: tf.train.CheckpointManager, step: int) -> None:
    """Writes a checkpoint, published by rename.

    Raises:
        OutputError: if it cannot be written.
    """
    try:
        manager.save(checkpoint_number=step)
    except (OSError, tf.errors.OpError) as error:
        raise OutputError(f"{manager.directory}: cannot be written; check the folder and the disk") from error


def fingerprint(scans: Sequence[Scan]) -> str:
    """A hash of names and sizes of scans, which tells whether a run goes on with the data that it began with."""
    lines = [" ".join(f"{path.name} {_size(path)}" for path in scan if path is not None) for scan in scans]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def _size(path: Path) -> int:
    """Bytes of a file, or of the files of a DICOM series' folder."""
    if path.is_file():
        return path.stat().st_size
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
