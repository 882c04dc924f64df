"""The features of VGG19 by which narcomey2018 compares slices; the trained weights are a file that the user gives.

K. Simonyan, A. Zisserman: Very deep convolutional networks for large-scale image recognition, ICLR 2015.
"""

from __future__ import annotations

import math
from pathlib import Path

import h5py
import keras
import numpy as np
from keras import layers

from tf_mrsr import pickled_arrays
from tf_mrsr.errors import ModelError
from tf_mrsr.layers import ResizeFromCorner2D

# Configuration E of table 1 up to its fourth max pooling: filters and convolutions of each block.
BLOCKS = ((64, 2), (128, 2), (256, 4), (512, 4))
INPUT_SIZE = 224
WHERE = (
    "https://storage.googleapis.com/tensorflow/keras-applications/vgg19/"
    "vgg19_weights_tf_dim_ordering_tf_kernels_notop.h5 (Keras), or vgg19.npy (github.com/machrisaa/tensorflow-vgg)"
)
_INPUTS = (3, *(filters for filters, _ in BLOCKS))
# Shapes of kernel and bias by a convolution's name: conv1_1, conv1_2, conv2_1, ...
_SHAPES = {
    f"conv{block}_{i}": [(3, 3, _INPUTS[block - 1] if i == 1 else filters, filters), (filters,)]
    for block, (filters, convolutions) in enumerate(BLOCKS, start=1)
    for i in range(1, convolutions + 1)
}
_LARGEST = max(math.prod(kernel) for kernel, _ in _SHAPES.values())


def features(channels: int = 1) -> keras.Model:
    """The network up to its fourth max pooling: (batch, x, y, channels) -> (batch, 14, 14, 512), any x, y.

    As the narcomey2018 program has it, an image is resized to 224 x 224 and goes in as (image + 1) / 2, whatever its
    range is; no mean is subtracted. All is float32 whatever the policy, because features of raw intensities are large
    and their differences count. The weights are not trainable.

    Args:
        channels: 1 for a slice; 3 for neighbouring slices in place of colours.
    """
    image = keras.Input((None, None, channels), name="image", dtype="float32")
    x = ResizeFromCorner2D((INPUT_SIZE, INPUT_SIZE), name="resize", dtype="float32")(image)
    x = layers.Rescaling(0.5, 0.5, name="rescale", dtype="float32")(x)
    for block, (filters, convolutions) in enumerate(BLOCKS, start=1):
        for i in range(1, convolutions + 1):
            name = f"conv{block}_{i}"
            x = layers.Conv2D(filters, 3, padding="same", activation="relu", name=name, dtype="float32")(x)
        x = layers.MaxPooling2D(2, name=f"pool{block}", dtype="float32")(x)
    model = keras.Model(image, x, name="vgg19_features")
    model.trainable = False
    return model


def load_features(path: Path | None, channels: int = 1) -> keras.Model:
    """``features`` with trained weights.

    The kernels are turned to this package's axes, (x, y): an image's rows, along which VGG19 was trained from top to
    bottom, are its second axis here. For one channel, the first kernel is averaged over the colours, as in the program.

    Args:
        path: Keras' .h5 file, with or without its top; or .npy or .npz with kernels and biases by layer ("conv1_1":
            [kernel, bias]) or, under the key "params" as TensorLayer writes them, in the layers' order.
        channels: as for ``features``.

    Raises:
        ModelError: if there is no such file, it is damaged, or tensors are missing or of another shape.
    """
    weights = read_weights(path)
    model = features(channels)
    for name, (kernel, bias) in weights.items():
        kernel = np.swapaxes(kernel, 0, 1)
        if name == "conv1_1" and channels == 1:
            kernel = kernel.mean(axis=2, keepdims=True)
        model.get_layer(name).set_weights([kernel, bias])
    return model


def read_weights(path: Path | None) -> dict[str, list[np.ndarray]]:
    """Kernel (row, column, in, out) and bias (out,) of every convolution that ``features`` has, by its name.

    Raises:
        ModelError: see ``load_features``.
    """
    if path is None:
        raise ModelError(f"the feature loss needs the trained weights of VGG19; give their file. It comes from {WHERE}")
    if not path.is_file():
        raise ModelError(f"{path}: no such file; VGG19's weights come from {WHERE}")
    found = _read_keras(path) if h5py.is_hdf5(path) else _read_numpy(path)
    wrong = [f"{name} is missing" for name in _SHAPES if name not in found]
    for name, arrays in found.items():
        shapes = [array.shape for array in arrays]
        if shapes != _SHAPES[name]:
            wrong.append(f"{name} has the shapes {shapes} instead of {_SHAPES[name]}")
    if wrong:
        raise ModelError(f"{path}: not the weights of VGG19: {'; '.join(wrong)}. They come from {WHERE}")
    return found


def _read_keras(path: Path) -> dict[str, list[np.ndarray]]:
    """Keras' older format of weights: a group per layer, "block1_conv1", with the arrays somewhere in it."""
    found = {}
    try:
        with h5py.File(path, "r") as file:
            for name in _SHAPES:
                group = file.get(name.replace("conv", "block").replace("_", "_conv"))
                if isinstance(group, h5py.Group):
                    found[name] = sorted(_arrays_in(group), key=lambda array: -array.ndim)
    except (OSError, RuntimeError, KeyError, ValueError) as error:
        raise ModelError(f"{path}: damaged; fetch it again from {WHERE}") from error
    return found


def _arrays_in(group: h5py.Group) -> list[np.ndarray]:
    arrays: list[np.ndarray] = []

    def keep(_: str, item: h5py.Group | h5py.Dataset) -> None:
        if isinstance(item, h5py.Dataset) and item.size <= _LARGEST:
            arrays.append(item[()])

    group.visititems(keep)
    return arrays


def _read_numpy(path: Path) -> dict[str, list[np.ndarray]]:
    content = pickled_arrays.read(path)
    value = content.get("", content.get("params"))
    if isinstance(value, list):  # kernel, bias, kernel, bias, ... of all layers
        value = {name: value[2 * i : 2 * i + 2] for i, name in enumerate(_SHAPES)}
    if not isinstance(value, dict):
        raise ModelError(f"{path}: has neither 'params' nor layers by name, but {', '.join(content)}; see {WHERE}")
    try:
        return {
            name: [pickled_arrays.numbers(item) for item in value[name]]
            for name in _SHAPES
            if isinstance(value.get(name), list) and value[name]
        }
    except ModelError as error:
        raise ModelError(f"{path}: not the weights of VGG19: {error}; they come from {WHERE}") from error
