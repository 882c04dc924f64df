"""Trained models by their folder, and super-resolving scans with them."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from tf_mrsr import __version__, networks, recipe, run_folder
from tf_mrsr.errors import ModelError, OutputError, VolumeError
from tf_mrsr.inference.super_resolver import SuperResolver
from tf_mrsr.recipe import Recipe
from tf_mrsr.volume import Volume

# Below this a network sees more of its own zero padding than of the scan.
MIN_VOXELS = 8
_EXTRA_FOLDER = "assets.extra"


class Model(NamedTuple):
    """A trained model: its recipe and the resolver, a ``SuperResolver`` or a SavedModel of one."""

    recipe: Recipe
    resolver: SuperResolver

    def warm_up(self) -> None:
        """Runs a tiny volume, so that a time measured next is that of the computation alone."""
        self.super_resolve(Volume(np.ones((MIN_VOXELS,) * 3, np.float32), np.eye(4)), 2**30)

    def super_resolve(self, volume: Volume, memory_bytes: int) -> Volume:
        """The volume (x, y, z) on the network's finer grid, in the scan's intensities.

        Raises:
            VolumeError: if it is too small, or does not fit into the memory there is.
        """
        check_size(volume)
        try:
            result = self.resolver(
                tf.constant(volume.data), tf.constant(volume.affine), tf.constant(memory_bytes, tf.int64)
            )
        except (tf.errors.ResourceExhaustedError, MemoryError) as error:
            shape = "x".join(map(str, volume.shape))
            raise VolumeError(f"a volume of {shape} voxels needs more memory than there is; lower --memory") from error
        return replace(volume, data=result["volume"].numpy(), affine=result["affine"].numpy())


def check_size(volume: Volume) -> None:
    """Raises a VolumeError if an axis is too short for a network to see anything."""
    if min(volume.shape) < MIN_VOXELS:
        shape = "x".join(map(str, volume.shape))
        raise VolumeError(f"the volume has {shape} voxels; the network needs {MIN_VOXELS} or more along each axis")


def resolver_for(recipe_: Recipe, generator: keras.Model) -> SuperResolver:
    """The resolver around a generator that the recipe describes."""
    return SuperResolver(generator, recipe_.training_degradation().network_grid_map(), recipe_.intensity.kind)


def load(folder: str | Path) -> Model:
    """Loads a run folder or a SavedModel folder.

    Raises:
        ModelError: if it is neither, or damaged.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ModelError(f"{folder}: no such folder; expected a run folder or a SavedModel folder")
    if (folder / "saved_model.pb").exists():
        return _load_saved_model(folder)
    if not (folder / run_folder.RUN_FILE).exists():
        raise ModelError(f"{folder}: neither a run folder ({run_folder.RUN_FILE}) nor a SavedModel (saved_model.pb)")
    recipe_, _ = run_folder.read_run(folder)
    generator = networks.build(recipe_.network.name, "generator", recipe_.network.generator)
    run_folder.restore_generator(folder, generator)
    return Model(recipe_, resolver_for(recipe_, generator))


def _load_saved_model(folder: Path) -> Model:
    recipe_file = folder / _EXTRA_FOLDER / run_folder.RECIPE_FILE
    if not recipe_file.exists():
        raise ModelError(f"{folder}: a SavedModel, but not one of tf_mrsr ({_EXTRA_FOLDER}/recipe.yaml is missing)")
    try:
        resolver = tf.saved_model.load(str(folder))
    except (OSError, ValueError, tf.errors.OpError) as error:
        raise ModelError(f"{folder}: the SavedModel is damaged; fetch or export it again") from error
    return Model(recipe.load(recipe_file), resolver)


def export_run(folder: Path, recipe_: Recipe) -> None:
    """Writes the run's generator as a SavedModel, ``saved_model`` in the run folder, in place of an older one."""
    generator = networks.build(recipe_.network.name, "generator", recipe_.network.generator)
    run_folder.restore_generator(folder, generator)
    save(Model(recipe_, resolver_for(recipe_, generator)), folder / run_folder.SAVED_MODEL_FOLDER)


def save(model: Model, folder: Path) -> None:
    """Writes a self-contained SavedModel, under a temporary name first."""
    temporary = folder.with_name(f".{folder.name}.partial")
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        tf.saved_model.save(model.resolver, str(temporary), signatures=model.resolver.__call__)
        extra = temporary / _EXTRA_FOLDER
        extra.mkdir()
        (extra / run_folder.RECIPE_FILE).write_text(model.recipe.to_yaml(), encoding="utf-8")
        (extra / "version.json").write_text(json.dumps({"tf_mrsr": __version__}) + "\n", encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(temporary, folder)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be written ({error.strerror})") from error
