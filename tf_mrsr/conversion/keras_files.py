"""Generators as Keras files, whole (``.keras``) or their weights alone (``.weights.h5``), and back."""

from __future__ import annotations

import io
import math
import os
import tempfile
import zipfile
import zlib
from pathlib import Path

import h5py
import keras
import numpy as np

from tf_mrsr.conversion.tensors import assign
from tf_mrsr.errors import ModelError, OutputError
from tf_mrsr.model_folder import KERAS_SUFFIX, WEIGHTS_SUFFIX

_WEIGHTS_IN_KERAS = "model.weights.h5"
# What training with Keras adds; it is no part of the generator.
_NOT_THE_MODELS = "optimizer/"
# A file may hold an optimiser's state as well, twice the weights, and what HDF5 needs around them.
_LARGEST_SHARE, _LARGEST_REST = 4, 2**26


def save(generator: keras.Model, output: Path) -> None:
    """Writes a generator under a temporary name, then renames it.

    Args:
        generator: the model.
        output: a name that ends in .keras, for the whole model, or in .weights.h5.

    Raises:
        OutputError: if it cannot be written.
    """
    suffix = KERAS_SUFFIX if output.name.endswith(KERAS_SUFFIX) else WEIGHTS_SUFFIX
    temporary = output.with_name(f".{output.name.removesuffix(suffix)}.partial{suffix}")
    try:
        (generator.save if suffix == KERAS_SUFFIX else generator.save_weights)(temporary)
        os.replace(temporary, output)
    except (OSError, RuntimeError) as error:  # h5py raises the latter where the disk is full
        raise OutputError(f"{output}: cannot be written; check the folder and the disk") from error
    finally:
        temporary.unlink(missing_ok=True)


def load(generator: keras.Model, source: Path) -> None:
    """Gives a generator the weights of a Keras file. Of a .keras file nothing else is read, so nothing in it is run.

    Args:
        generator: the model, of the build that the file is of.
        source: .keras, or .weights.h5.

    Raises:
        ModelError: if the file is missing or damaged, or its tensors do not fit the generator.
    """
    known = _places(generator)
    shapes = {variable.path: tuple(variable.shape) for variable in generator.weights}
    size = sum(4 * math.prod(shape) for shape in shapes.values())
    tensors = {}
    try:
        with h5py.File(_weights_in(source, size), "r") as file:
            for place, dataset in _datasets(file).items():
                name = known.get(place, place)
                if dataset.dtype.kind != "f" or dataset.external is not None or dataset.is_virtual:
                    raise ModelError(f"{source}: {name} is no plain array of numbers; export the network again")
                if dataset.shape == shapes.get(name):
                    tensors[name] = dataset[()].astype(np.float32)
                else:  # its shape alone, which can be told without reading it
                    tensors[name] = np.broadcast_to(np.float32(0), dataset.shape)
    except (OSError, RuntimeError, KeyError, ValueError, zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise ModelError(
            f"{source}: damaged, or no {KERAS_SUFFIX} or {WEIGHTS_SUFFIX} file; export it again"
        ) from error
    assign(generator, {path: path for path in shapes}, tensors, source)


def _weights_in(source: Path, size: int) -> Path | io.BytesIO:
    if not source.name.endswith(KERAS_SUFFIX):
        return source
    with zipfile.ZipFile(source) as archive:
        found = archive.getinfo(_WEIGHTS_IN_KERAS)
        if found.file_size > _LARGEST_SHARE * size + _LARGEST_REST:
            raise ModelError(
                f"{source}: holds {found.file_size / 2**20:.0f} MB of weights, far more than this network's "
                f"{size / 2**20:.1f} MB; choose the recipe that fits them"
            )
        return io.BytesIO(archive.read(found))  # checks the CRC


def _datasets(file: h5py.File) -> dict[str, h5py.Dataset]:
    """All tensors in the file itself; links to other files are not followed."""
    found: dict[str, h5py.Dataset] = {}

    def keep(place: str, item: h5py.Group | h5py.Dataset) -> None:
        if isinstance(item, h5py.Dataset) and not place.startswith(_NOT_THE_MODELS):
            found[place] = item

    file.visititems(keep)
    return found


def _places(generator: keras.Model) -> dict[str, str]:
    """Where Keras puts the generator's variables in a file, to their paths ("conv_first/kernel").

    Keras alone knows how it numbers layers, so it is asked: with a copy whose variables hold their own numbers.
    """
    copy = keras.models.clone_model(generator)
    for number, variable in enumerate(copy.weights):
        variable.assign(np.full(variable.shape, number, np.float32))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"numbers{WEIGHTS_SUFFIX}"
        copy.save_weights(path)
        with h5py.File(path, "r") as file:
            return {place: generator.weights[int(item[()].flat[0])].path for place, item in _datasets(file).items()}
