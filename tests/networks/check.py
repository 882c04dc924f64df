"""What is checked of every network."""

from __future__ import annotations

import keras
import numpy as np


def randomize(model, seed=0):
    """Weights and batch-norm averages as after some training, so that nothing is 0 or 1 by default."""
    generator = np.random.default_rng(seed)
    for variable in model.weights:
        noise = generator.uniform(-1, 1, variable.shape)
        if variable.path.endswith("kernel"):
            variable.assign(noise * (3 / np.prod(variable.shape[:-1])) ** 0.5)
        elif variable.path.endswith(("gamma", "variance")):
            variable.assign(1 + 0.5 * noise)
        else:
            variable.assign(0.2 * noise)


def patch(model, shape, seed=1):
    """A batch of two of standard normal voxels."""
    normal = np.random.default_rng(seed).normal(size=(2, *shape, model.input.shape[-1]))
    return normal.astype(np.float32)


def assert_survives_serialisation(model, shape):
    randomize(model)
    copy = keras.Model.from_config(model.get_config())
    copy.set_weights(model.get_weights())
    volume = patch(model, shape)
    assert [layer.name for layer in copy.layers] == [layer.name for layer in model.layers]
    np.testing.assert_allclose(copy(volume, training=False), model(volume, training=False), rtol=1e-5, atol=1e-6)


def convolutions(model):
    return [layer for layer in model.layers if "Conv" in type(layer).__name__]
