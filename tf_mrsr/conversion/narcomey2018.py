"""The generator of the narcomey2018 program (narcomey/mri-superresolution): ``.npz`` files of TensorLayer."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np

from tf_mrsr import pickled_arrays
from tf_mrsr.conversion.tensors import assign, translate
from tf_mrsr.errors import ModelError

# Our layers to the program's, which counts residual blocks from 0.
LAYERS = {
    r"conv_first": "n64s1/c",
    r"block(?P<n>\d+)_conv(?P<i>\d)": "n64s1/c{i}/{before}",
    r"block(?P<n>\d+)_conv(?P<i>\d)_bn": "n64s1/b{i}/{before}",
    r"conv_trunk": "n64s1/c/m",
    r"conv_trunk_bn": "n64s1/b/m",
    r"conv_last": "n256s1/1",
}
SCOPE = "SRGAN_g"
KEY = "params"
# TensorLayer's order of what a layer has.
_ATTRIBUTES = ("kernel", "bias", "beta", "gamma", "moving_mean", "moving_variance")


def load(generator: keras.Model, source: Path) -> None:
    """Gives a generator of ``tf_mrsr.networks.narcomey2018`` the weights of a TensorLayer file.

    The file has no names: the tensors are in the order in which the program makes its layers.

    Args:
        generator: the model, of the build that the file is of.
        source: the ``.npz`` file.

    Raises:
        ModelError: if the file is missing or damaged, holds anything but arrays, or they do not fit the generator.
    """
    names = _names(generator)
    tensors = [_turn(tensor) for tensor in read_npz(source)]
    labels = [*names.values(), *(f"tensor {i + 1}" for i in range(len(names), len(tensors)))]
    assign(generator, names, dict(zip(labels, tensors, strict=False)), source)


def read_npz(source: Path) -> list[np.ndarray]:
    """The tensors of a TensorLayer file in their order; see ``load``."""
    content = pickled_arrays.read(source)
    value = content.get(KEY)
    if set(content) != {KEY} or not isinstance(value, list):
        raise ModelError(
            f"{source}: holds {', '.join(map(repr, content))}; expected a TensorLayer file with a list of arrays under "
            f"{KEY!r} alone"
        )
    try:
        return [pickled_arrays.numbers(item) for item in value]
    except ModelError as error:
        raise ModelError(f"{source}: {error}") from error


def _names(generator: keras.Model) -> dict[str, str]:
    """In TensorLayer's order."""
    names = {}
    for layer in generator.layers:
        paths = sorted((v.path for v in layer.weights), key=lambda path: _ATTRIBUTES.index(path.split("/")[1]))
        for path in paths:
            attribute = path.split("/")[1]
            names[path] = f"{SCOPE}/{translate(LAYERS, layer.name)}/{attribute}"
    return names


def _turn(tensor: np.ndarray) -> np.ndarray:
    """A kernel (row, column, in, out) as (x, y, in, out): a DICOM image's rows lie one below the other, along y."""
    return np.swapaxes(tensor, 0, 1) if tensor.ndim == 4 else tensor
