"""What a training run keeps on disk: its recipe, its state for going on, its generator for use.

A run folder::

    recipe.yaml        the recipe as it ran, overrides included
    run.json           seed, steps, precision, version, hashes that tell the scans, range of their voxel spacings
    state/             TensorFlow checkpoints of everything that going on needs
    generator/         the generator to predict with: the best by validation, or the newest
    saved_model/       that generator with everything around it, written at the end
    .lock              held while a process trains the run
    log.csv            losses
    validation.csv     PSNR and SSIM on held-out scans
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import keras
import tensorflow as tf
from google.protobuf.message import DecodeError

from tf_mrsr import storage
from tf_mrsr.cohort import Scan
from tf_mrsr.errors import ModelError, OutputError
from tf_mrsr.model_folder import GENERATOR_FOLDER, RECIPE_FILE, RUN_FILE, check_new_run
from tf_mrsr.recipe import Recipe

# What reading a damaged checkpoint or SavedModel raises, according to where the damage is.
DAMAGED = (AssertionError, IndexError, KeyError, OSError, TypeError, ValueError, tf.errors.OpError, DecodeError)
STATE_FOLDER = "state"
SAVED_MODEL_FOLDER = "saved_model"
LOCK_FILE = ".lock"


def create_run(folder: Path, recipe: Recipe, facts: dict) -> None:
    """Makes a run folder.

    Raises:
        OutputError: if the folder holds something already, or cannot be made.
    """
    check_new_run(folder)
    storage.make_folder(folder)
    storage.write_text(folder / RECIPE_FILE, recipe.to_yaml())
    write_facts(folder, facts)


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Keeps other processes from training the run meanwhile, where the system and its disk have locks.

    Raises:
        OutputError: if one trains it already, or the folder cannot be written.
    """
    try:
        import fcntl
    except ImportError:
        yield
        return
    try:
        stream = (folder / LOCK_FILE).open("ab")
    except OSError as error:
        raise OutputError(f"{folder}: cannot be written ({error.strerror}); check the folder and the disk") from error
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise OutputError(
                f"{folder}: another process trains this run; wait for it, or give another --run"
            ) from error
        except OSError:
            pass  # a disk without locks
        yield


def write_facts(folder: Path, facts: dict) -> None:
    storage.write_text(folder / RUN_FILE, json.dumps(facts, indent=2) + "\n")


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


def has_checkpoint(run: Path) -> bool:
    """Whether a run can go on from where it was.

    Raises:
        ModelError: see ``latest_checkpoint``.
    """
    return latest_checkpoint(run / STATE_FOLDER) is not None


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


def _size(path: Path) -> int:
    """Bytes of a file, or of the files of a DICOM series' folder."""
    if path.is_file():
        return path.stat().st_size
    return sum(file.stat().st_size for file in storage.files_below(path) if file.is_file())
