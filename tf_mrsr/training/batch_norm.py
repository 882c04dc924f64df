"""Batch-norm statistics measured anew.

The moving averages of training lag behind the weights, which shows as an intensity error of the inference-mode
network. Averaging the statistics of some batches with the weights held still removes the lag. No paper does it, so
recipes that use it list it as a departure.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import keras
import numpy as np
import tensorflow as tf

BATCHES = 32


@contextmanager
def re_estimated(generator: keras.Model, low_res_batches: Iterable[tf.Tensor]) -> Iterator[None]:
    """Within the context the generator's batch norms, if it has any, hold the mean of the batches' statistics.

    Args:
        generator: the model, whose moving statistics are put back at the end.
        low_res_batches: as the generator takes them, (batch, x, y, z, channels) or (batch, x, y, channels), network
            range.
    """
    norms = [layer for layer in generator.layers if isinstance(layer, keras.layers.BatchNormalization)]
    if not norms:
        yield
        return
    variables = [variable for norm in norms for variable in (norm.moving_mean, norm.moving_variance)]
    saved, momenta = [variable.numpy() for variable in variables], [norm.momentum for norm in norms]
    sums, count = [np.zeros_like(value, dtype=np.float64) for value in saved], 0
    try:
        for norm in norms:
            norm.momentum = 0.0
        forward = tf.function(lambda batch: generator(batch, training=True), autograph=False)
        for batch in low_res_batches:
            forward(batch)
            count += 1
            for total, variable in zip(sums, variables, strict=True):
                total += variable.numpy()
        for variable, total in zip(variables, sums, strict=True):
            variable.assign(total / count)
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        for variable, value in zip(variables, saved, strict=True):
            variable.assign(value)
