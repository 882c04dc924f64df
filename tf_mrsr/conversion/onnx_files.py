"""Generators as ONNX files, checked against the generator before they are published."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import keras
import numpy as np

from tf_mrsr.errors import ModelError, OutputError
from tf_mrsr.layers import LargeKernelConv3D

MOST_DIFFERENCE = 1e-4  # of the largest value
_SIDES = ((12, 11, 10), (9, 14, 13))  # of two inputs that the file is tried on


def save(generator: keras.Model, output: Path) -> None:
    """Writes the network under a temporary name, runs it with onnxruntime, and renames it where the results agree.

    The only input has the name of the generator's and is float32 (batch, x, y, z, 1), without z for networks of slices,
    all but the last of any size, in network range; so is the only output.

    Args:
        generator: the model.
        output: a name that ends in .onnx.

    Raises:
        OutputError: if it cannot be written.
        ModelError: if it cannot be converted or its results differ from the generator's by more than 1e-4.
    """
    plain = _without_fourier(generator)
    inputs = [_try_out(generator, sides) for sides in _SIDES]
    plain(inputs[0])  # Keras exports only what was called
    temporary = output.with_name(f".{output.name}.partial.onnx")
    try:
        _convert(plain, temporary, output)
        _check(generator, inputs, temporary, output)
        os.replace(temporary, output)
    except OSError as error:
        raise OutputError(f"{output}: cannot be written; check the folder and the disk") from error
    finally:
        temporary.unlink(missing_ok=True)


def _convert(generator: keras.Model, file: Path, output: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the converter about itself
        try:
            generator.export(file, format="onnx", verbose=False)
        except OSError:
            raise
        except Exception as error:  # the converter has no common class of its errors
            raise ModelError(
                f"{output}: the network cannot be converted to ONNX ({type(error).__name__}); use --format keras"
            ) from error


def _without_fourier(generator: keras.Model) -> keras.Model:
    """ONNX has no three-dimensional Fourier transform; the plain convolution gives the same."""

    def clone(layer: keras.layers.Layer) -> keras.layers.Layer:
        kind = keras.layers.Conv3D if isinstance(layer, LargeKernelConv3D) else type(layer)
        return kind.from_config(layer.get_config())

    copy = keras.models.clone_model(generator, clone_function=clone)
    copy.set_weights(generator.get_weights())
    return copy


def _try_out(generator: keras.Model, sides: tuple[int, int, int]) -> np.ndarray:
    shape = (2, *sides[: len(generator.input_shape) - 2], 1)
    return np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)


def _check(generator: keras.Model, inputs: list[np.ndarray], file: Path, output: Path) -> None:
    import onnxruntime

    try:
        session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
        results = [session.run(None, {session.get_inputs()[0].name: batch})[0] for batch in inputs]
    except Exception as error:  # onnxruntime has no common class of its errors
        raise ModelError(f"{output}: onnxruntime cannot run the converted network ({type(error).__name__})") from error
    for batch, result in zip(inputs, results, strict=True):
        expected = generator(batch, training=False).numpy()
        most = MOST_DIFFERENCE * np.abs(expected).max()
        if result.shape != expected.shape or not np.abs(result - expected).max() <= most:
            raise ModelError(f"{output}: the converted network does not give what the generator gives; not written")
