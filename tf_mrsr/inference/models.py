"""Trained models by their folder, and super-resolving scans with them."""

from __future__ import annotations

import math
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from tf_mrsr import networks, recipe, run_folder
from tf_mrsr.cohort import MIN_VOXELS, check_size
from tf_mrsr.errors import ModelError, OutputError, RecipeError, VolumeError
from tf_mrsr.inference.super_resolver import SuperResolver
from tf_mrsr.limits import UNLIMITED
from tf_mrsr.networks.structure import reach
from tf_mrsr.recipe import Recipe
from tf_mrsr.volume import Volume

_EXTRA_FOLDER = "assets.extra"


class Model(NamedTuple):
    """A trained model: its recipe and the resolver, a ``SuperResolver`` or a SavedModel of one."""

    recipe: Recipe
    resolver: SuperResolver

    def warm_up(self) -> None:
        """Runs a tiny volume, so that a time measured next is that of the computation alone."""
        ramp = np.arange(MIN_VOXELS**3, dtype=np.float32).reshape((MIN_VOXELS,) * 3)
        self.super_resolve(Volume(ramp, np.eye(4)), UNLIMITED)

    def super_resolve(self, volume: Volume, memory_bytes: int) -> Volume:
        """The volume (x, y, z) on the network's finer grid, in the scan's intensities.

        Raises:
            VolumeError: if it is too small, does not fit into the memory there is, or the result is not finite.
        """
        check_size(volume)
        # Input and result, each once raw and once in network range.
        needed = 8 * volume.data.size * (1 + math.prod(self.recipe.training_degradation().factors))
        if memory_bytes < needed:
            raise VolumeError(
                f"the volume and its result alone take {needed / 2**20:.0f} MB; raise --memory to several times that"
            )
        try:
            result = self.resolver(
                tf.constant(volume.data), tf.constant(volume.affine), tf.constant(memory_bytes, tf.int64)
            )
        except (tf.errors.ResourceExhaustedError, MemoryError) as error:
            shape = "x".join(map(str, volume.shape))
            raise VolumeError(f"a volume of {shape} voxels needs more memory than there is; lower --memory") from error
        data = result["volume"].numpy()
        if not np.all(np.isfinite(data)):
            raise VolumeError(
                f"the result is not finite; the scan's intensities go up to {volume.data.max():.3g}, "
                "rescale them if that is extreme, else the model is broken"
            )
        return replace(volume, data=data, affine=result["affine"].numpy())


def build_generator(recipe_: Recipe, precision: str = "float32") -> keras.Model:
    """The generator that a recipe describes, with fresh weights.

    Raises:
        RecipeError: if the arguments do not fit the network, or it does not enlarge by the degradation's factors.
    """
    factors = recipe_.training_degradation().factors
    arguments = dict(recipe_.network.generator)
    if "scale_factor" in networks.parameters(recipe_.network.name, "generator"):
        arguments.setdefault("scale_factor", max(factors))
    generator = networks.build(recipe_.network.name, "generator", arguments, precision)
    if reach(generator).scale != factors:
        raise RecipeError(
            f"the generator enlarges by {reach(generator).scale}, but the degradation's factors are {factors}"
        )
    return generator


def resolver_for(recipe_: Recipe, generator: keras.Model) -> SuperResolver:
    """The resolver around a generator that the recipe describes."""
    grid_map = recipe_.training_degradation().network_grid_map()
    return SuperResolver(generator, grid_map, recipe_.intensity.kind, slices_last=recipe_.axes == "slices_last")


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
    generator = build_generator(recipe_)
    run_folder.restore_generator(folder, generator)
    return Model(recipe_, resolver_for(recipe_, generator))


def _load_saved_model(folder: Path) -> Model:
    recipe_file = folder / _EXTRA_FOLDER / run_folder.RECIPE_FILE
    if not recipe_file.exists():
        raise ModelError(f"{folder}: a SavedModel, but not one of tf_mrsr ({_EXTRA_FOLDER}/recipe.yaml is missing)")
    try:
        resolver = tf.saved_model.load(str(folder))
    except run_folder.DAMAGED as error:
        raise ModelError(f"{folder}: the SavedModel is damaged; fetch or export it again") from error
    return Model(recipe.load(recipe_file), resolver)


def export_run(folder: Path, recipe_: Recipe) -> None:
    """Writes the run's generator as a SavedModel, ``saved_model`` in the run folder, in place of an older one."""
    generator = build_generator(recipe_)
    run_folder.restore_generator(folder, generator)
    save(Model(recipe_, resolver_for(recipe_, generator)), folder / run_folder.SAVED_MODEL_FOLDER)


def save(model: Model, folder: Path) -> None:
    """Writes a self-contained SavedModel, under a temporary name first."""
    temporary = folder.with_name(f".{folder.name}.partial")
    old = folder.with_name(f".{folder.name}.old")
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        tf.saved_model.save(model.resolver, str(temporary), signatures=model.resolver.__call__)
        extra = temporary / _EXTRA_FOLDER
        extra.mkdir()
        (extra / run_folder.RECIPE_FILE).write_text(model.recipe.to_yaml(), encoding="utf-8")
        if folder.exists():
            os.replace(folder, old)
        os.replace(temporary, folder)
    except (OSError, tf.errors.OpError) as error:
        raise OutputError(f"{folder}: cannot be written; check the folder and the disk") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
