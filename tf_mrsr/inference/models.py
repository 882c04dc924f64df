"""Trained models by their folder, and super-resolving scans with them."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from tf_mrsr import __version__, card_page, model_folder, networks, run_folder, storage
from tf_mrsr import card as cards
from tf_mrsr.card import Card
from tf_mrsr.cohort import MIN_VOXELS, check_size
from tf_mrsr.conversion import keras_files
from tf_mrsr.degradation import Degradation
from tf_mrsr.errors import ModelError, OutputError, RecipeError, VolumeError, graph_reason
from tf_mrsr.geometry import GridMap
from tf_mrsr.inference import warm_up
from tf_mrsr.inference.patch_averager import PatchAverager
from tf_mrsr.inference.slice_resolver import SliceResolver
from tf_mrsr.inference.super_resolver import SuperResolver
from tf_mrsr.intensity import Window
from tf_mrsr.layers import CubicUpsampling3D
from tf_mrsr.limits import DEFAULT_MEMORY, UNLIMITED
from tf_mrsr.networks.structure import reach, split, stage_count, up_to_stage
from tf_mrsr.recipe import Recipe
from tf_mrsr.volume import Volume

# Nothing is trained through a SavedModel; what training goes on from lies beside it.
_WITHOUT_GRADIENTS = tf.saved_model.SaveOptions(experimental_custom_gradients=False)


class Model(NamedTuple):
    """A trained model: its recipe, the resolver, a ``SuperResolver`` or a SavedModel of one, its card (None for what
    the recipe alone tells), and the generator with its batch norms (None where only the resolver is loaded or left).
    """

    recipe: Recipe
    resolver: SuperResolver
    card: Card | None = None
    generator: keras.Model | None = None

    @property
    def target_window(self) -> Window | None:
        """What brings the output from network range to scan intensities, if that is not the input's own window."""
        kept = getattr(self.resolver, "target_window", None)
        return None if kept is None else Window(*(float(number) for number in kept.numpy()))

    def warm_up(self) -> None:
        """Runs a tiny volume, so that a time measured next is that of the computation alone."""
        ramp = np.arange(MIN_VOXELS**3, dtype=np.float32).reshape((MIN_VOXELS,) * 3)
        self.super_resolve(Volume(ramp, np.eye(4)), UNLIMITED)

    def super_resolve(self, volume: Volume, memory_bytes: int = DEFAULT_MEMORY, stride: int | None = None) -> Volume:
        """The volume (x, y, z) on the network's finer grid, or in its other contrast.

        Args:
            volume: the scan.
            memory_bytes: what the computation may take.
            stride: for models that average patches, voxels from one patch to the next; None for the recipe's.

        Raises:
            RecipeError: if a stride is given that the model cannot use.
            VolumeError: if it is too small, does not fit into the memory there is, or the result is not finite.
        """
        strides = self._strides(stride)
        check_volume(volume, self.recipe.training_degradation(), memory_bytes)
        try:
            result = self.resolver(
                tf.constant(volume.data), tf.constant(volume.affine), tf.constant(memory_bytes, tf.int64), *strides
            )
        except tf.errors.InvalidArgumentError as error:
            raise VolumeError(f"the volume cannot be used: {graph_reason(error.message)}") from error
        except (tf.errors.ResourceExhaustedError, MemoryError) as error:
            shape = "x".join(map(str, volume.shape))
            raise VolumeError(
                f"a volume of {shape} voxels needs more memory than there is; allow it less (--memory)"
            ) from error
        except tf.errors.OpError as error:
            raise VolumeError(f"TensorFlow fails on the volume: {graph_reason(error.message)}") from error
        data = result["volume"].numpy()
        if not np.all(np.isfinite(data)):
            raise VolumeError(
                f"the result is not finite; the scan's intensities go up to {volume.data.max():.3g}, "
                "rescale them if that is extreme, else the model is broken"
            )
        return replace(volume, data=data, affine=result["affine"].numpy())

    def _strides(self, stride: int | None) -> list[tf.Tensor]:
        spec = self.recipe.prediction
        if spec.kind == "whole":
            if stride is not None:
                raise RecipeError(
                    "a stride is for models that average overlapping patches; this one does not: leave it out"
                )
            return []
        stride = spec.stride if stride is None else stride
        if not 1 <= stride <= spec.patch:
            raise RecipeError(f"the stride must be 1 to {spec.patch} voxels, a whole patch, got {stride}")
        return [tf.constant(stride, tf.int32)]


def check_volume(volume: Volume, degradation: Degradation, memory_bytes: int) -> None:
    """Raises a VolumeError if ``Model.super_resolve`` would refuse the volume for its size."""
    check_size(volume, by_slice=degradation.by_slice)
    # Input and result, each once raw and once in network range.
    needed = 8 * volume.data.size * (1 + math.prod(degradation.factors))
    if memory_bytes < needed:
        raise VolumeError(
            f"the volume and its result alone take {math.ceil(needed / 2**20)} MB; raise --memory to several times that"
        )


def build_generator(recipe: Recipe, precision: str = "float32") -> keras.Model:
    """The generator that a recipe describes, with fresh weights.

    Raises:
        RecipeError: if the arguments do not fit the network, or it does not enlarge by the degradation's factors, or
            is one of slices and the degradation not, or the reverse.
    """
    degradation = recipe.training_degradation()
    factors = degradation.factors
    generator = networks.build(recipe.network.name, "generator", _generator_arguments(recipe), precision)
    of_slices = len(generator.input_shape) == 4
    if of_slices != degradation.by_slice:
        raise RecipeError(
            f"{recipe.network.name} is a network of {'slices' if of_slices else 'volumes'}; degradation.kind "
            "'matched_slices' and networks of slices go together"
        )
    try:
        scale = reach(generator).scale
        split(generator)
    except TypeError as error:
        raise RecipeError(f"{recipe.network.name}: {error}") from error
    # The channels that a network of slices gives are neighbouring slices.
    scale = (*scale, generator.output_shape[-1]) if of_slices else scale
    if scale != factors:
        raise RecipeError(f"the generator enlarges by {scale}, but the degradation's factors are {factors}")
    for layer in generator.layers:
        if isinstance(layer, CubicUpsampling3D):
            _check_interpolation(layer, degradation)
    if stage_count(generator) not in (1, len(recipe.stages)):
        raise RecipeError(
            f"the generator has {stage_count(generator)} stages, but the recipe trains {len(recipe.stages)}"
        )
    return generator


def _generator_arguments(recipe: Recipe) -> dict[str, Any]:
    """As the recipe states them, and the factor where it leaves that to the degradation."""
    arguments = dict(recipe.network.generator)
    if "scale_factor" in networks.parameters(recipe.network.name, "generator"):
        arguments.setdefault("scale_factor", max(recipe.training_degradation().factors))
    return arguments


def _check_interpolation(layer: CubicUpsampling3D, degradation: Degradation) -> None:
    """Raises RecipeError where the layer puts voxels elsewhere than the degradation takes them from."""
    if layer.centred:
        grid_map, place, kind = GridMap.block_average(layer.factors), "in the middle of its voxels", "block_average"
    else:
        grid_map, place, kind = GridMap.decimation(layer.factors), "on high-resolution voxel r j", "gaussian_decimation"
    if degradation.network_grid_map() != grid_map.inverse():
        raise RecipeError(
            f"the generator's argument 'residual' needs low-resolution voxel j {place}, as degradation.kind '{kind}' "
            f"leaves it; here {degradation.alignment}"
        )


def resolver_for(recipe: Recipe, generator: keras.Model, target_window: Sequence[float] | None = None) -> SuperResolver:
    """The resolver around a generator that the recipe describes.

    Args:
        recipe: the recipe.
        generator: the generator, or its first stages.
        target_window: centre and width of the target's intensities, where the recipe measures them apart.
    """
    arguments = {
        "grid_map": recipe.training_degradation().network_grid_map(),
        "intensity_kind": recipe.intensity.kind,
        "slices_last": recipe.axes == "slices_last",
        "target_window": None if target_window is None else Window(*target_window),
    }
    if len(generator.input_shape) == 4:
        return SliceResolver(generator, **arguments)
    if recipe.prediction.kind == "patches":
        return PatchAverager(generator, recipe.prediction.patch, recipe.prediction.stride, **arguments)
    return SuperResolver(generator, **arguments)


def load(folder: str | Path, precision: str = "float32") -> Model:
    """Loads a model.

    Args:
        folder: a run, a SavedModel, a folder of its versions, or the name of a model that comes with the package, see
            ``model_folder.resolve``.
        precision: what it computes in, "float32" or "mixed_bfloat16", which is faster where the processor has bfloat16
            instructions.

    Raises:
        ModelError: if it is none of these, or a file is missing, damaged or changed; with "mixed_bfloat16" also if a
            SavedModel's weights are not those of its recipe's network.
    """
    folder = model_folder.resolve(folder)
    card = model_folder.read_card(folder)
    if not model_folder.is_saved_model(folder):
        return _of_run(folder, card, precision)
    model = Model(model_folder.read_recipe(folder), _load_saved_model(folder), card)
    return model if precision == "float32" else _rebuilt(model, folder, precision)


def _load_saved_model(folder: Path) -> Any:
    try:
        return tf.saved_model.load(str(folder))
    except run_folder.DAMAGED as error:
        raise ModelError(f"{folder}: the SavedModel is damaged; fetch or export it again") from error


def _of_run(folder: Path, card: Card, precision: str = "float32") -> Model:
    recipe, facts = model_folder.read_run(folder)
    generator = load_generator(folder, precision)
    return Model(recipe, resolver_for(recipe, generator, facts.get("target_window")), card, generator)


def load_generator(folder: Path, precision: str = "float32") -> keras.Model:
    """The generator of a run, or of a SavedModel that was exported from one, with its batch norms.

    Args:
        folder: the model.
        precision: what it computes in, see ``load``; its weights are float32 all the same.

    Raises:
        ModelError: if it is neither, it has no generator, or its file is damaged.
    """
    generator = build_generator(model_folder.read_recipe(folder), precision)
    if not model_folder.is_saved_model(folder):
        model_folder.read_run(folder)
        return up_to_stage(generator, run_folder.restore_generator(folder, generator))
    file = model_folder.generator_file(folder)
    if file is None:
        raise ModelError(
            f"{folder}: has no {model_folder.GENERATOR_FILE}, and the batch norms of its SavedModel are part of the "
            "convolutions; give the run's folder"
        )
    return load_stages(generator, file)


def load_stages(generator: keras.Model, file: Path) -> keras.Model:
    """Gives a generator the weights of a Keras file, and returns as many of its stages as there are in the file.

    Raises:
        ModelError: as ``keras_files.load``.
    """
    for stages in range(stage_count(generator), 1, -1):
        trained = up_to_stage(generator, stages)
        try:
            keras_files.load(trained, file)
        except ModelError:
            continue
        return trained
    trained = up_to_stage(generator, 1)
    keras_files.load(trained, file)
    return trained


def load_initial_weights(generator: keras.Model, recipe: Recipe, source: Path) -> None:
    """Gives a generator that ``recipe`` built the weights of a trained one, for a training to begin with.

    Args:
        generator: the generator.
        recipe: the recipe.
        source: the trained model, see ``load_generator``.

    Raises:
        ModelError: if the source has no generator, or its file is damaged.
        RecipeError: if it is of another network, or has fewer stages.
    """
    other = model_folder.read_recipe(source)
    theirs, ours = _network_words(other), _network_words(recipe)
    if theirs != ours:
        raise RecipeError(
            f"{source}: its network is {theirs}, the recipe's {ours}; choose a recipe of the same network"
        )
    weights = load_generator(source).get_weights()
    if len(weights) != len(generator.weights):
        raise RecipeError(f"{source}: not all stages of its network are trained; let its run go on to the end")
    generator.set_weights(weights)


def _network_words(recipe: Recipe) -> str:
    """All that decides on the generator: its arguments, those left out as well, and the factors."""
    network = recipe.network
    defaults = {name: spec.default for name, spec in networks.parameters(network.name, "generator").items()}
    factors = recipe.training_degradation().factors
    arguments = {**defaults, **_generator_arguments(recipe)}
    words = ", ".join(f"{name}={_as_yaml_has_it(value)}" for name, value in sorted(arguments.items()))
    return f"{network.name}({words}) for factors {factors}"


def _as_yaml_has_it(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


def rebuild(folder: str | Path) -> Model:
    """As ``load``, with a resolver built anew from the recipe, as ``save`` needs it, and the generator where there is
    one.

    Raises:
        ModelError: as ``load``, or if a SavedModel's weights are not those of its recipe's network.
    """
    folder = model_folder.resolve(folder)
    model = load(folder)
    if not isinstance(model.resolver, SuperResolver):
        model = _rebuilt(model, folder)
        if model_folder.generator_file(folder) is not None:
            model = model._replace(generator=load_generator(folder))
    return model


def _rebuilt(model: Model, folder: Path, precision: str = "float32") -> Model:
    """The model of a SavedModel with a resolver built from the recipe."""
    window = model.target_window
    kept = model.resolver.network_variables
    generator = build_generator(model.recipe, precision)
    for stages in range(stage_count(generator), 0, -1):
        resolver = resolver_for(model.recipe, up_to_stage(generator, stages), window)
        if [v.shape for v in resolver.network_variables] == [v.shape for v in kept]:
            for variable, value in zip(resolver.network_variables, kept, strict=True):
                variable.assign(value)
            return model._replace(resolver=resolver)
    raise ModelError(f"{folder}: the weights are not those of the network that the recipe describes; export the run")


def export_run(folder: Path) -> None:
    """Writes the run's generator as a SavedModel, ``saved_model`` in the run folder, in place of an older one."""
    save(_of_run(folder, model_folder.read_card(folder)), folder / run_folder.SAVED_MODEL_FOLDER)


def save(model: Model, folder: str | Path, pictures: Mapping[str, Path] | None = None) -> None:
    """Writes a self-contained SavedModel with its card, under a temporary name first; with the model's generator, if it
    has one, from which a training can go on.

    The only way out: what training leaves, what ``tf-mrsr export`` writes and what is served are the same folder.

    Args:
        model: the model.
        folder: where it goes.
        pictures: PNG files for the card, by the name that each gets there.

    Raises:
        OutputError: if it cannot be written.
    """
    folder = Path(folder).resolve()
    temporary = folder.with_name(f".{folder.name}.partial")
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        tf.saved_model.save(model.resolver, str(temporary), model.resolver.signatures, _WITHOUT_GRADIENTS)
        _describe(model, temporary, pictures or {})
        storage.put_in_place(temporary, folder)
    except (OSError, tf.errors.OpError) as error:
        raise OutputError(f"{folder}: cannot be written; check the folder and the disk") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _describe(model: Model, folder: Path, pictures: Mapping[str, Path]) -> None:
    """Puts beside a SavedModel what tells of it: recipe, warm-up requests, generator, pictures, card."""
    card = replace(model.card or cards.of_recipe(model.recipe), tf_mrsr=__version__)
    extra = folder / model_folder.EXTRA_FOLDER
    extra.mkdir()
    (extra / model_folder.RECIPE_FILE).write_text(model.recipe.to_yaml(), encoding="utf-8")
    warm_up.write(extra / warm_up.FILE, card.name, model.resolver.signatures, stride=model.recipe.prediction.stride)
    if model.generator is not None:
        keras_files.save(model.generator, extra / model_folder.GENERATOR_FILE)
    if pictures:
        (folder / card_page.PICTURES_FOLDER).mkdir()
    for name, picture in pictures.items():
        shutil.copyfile(picture, folder / card_page.PICTURES_FOLDER / name)
    (folder / card_page.README_FILE).write_text(card_page.to_markdown(card, list(pictures)), encoding="utf-8")
    (folder / cards.CARD_FILE).write_text(card.with_files(folder).to_json(), encoding="utf-8")
