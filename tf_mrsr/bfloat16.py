"""How fast this machine computes in bfloat16. Processors without instructions for it imitate it, many times slower than
float32, and nothing but trying tells for every device.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import tensorflow as tf

_VOXELS, _FILTERS = 24, 32


def speed() -> float:
    """The speed of a 3D convolution of 32 filters in bfloat16, as a multiple of its speed in float32.

    The least of some times of each, taken in turn, so that other work slows both.
    """
    convolutions = [_convolution(dtype) for dtype in (tf.float32, tf.bfloat16)]
    times = [[_seconds(convolution) for convolution in convolutions] for _ in range(4)]
    float32, bfloat16 = (min(of_type) for of_type in zip(*times[1:], strict=True))  # the first call traces
    return float32 / bfloat16


def _convolution(dtype: tf.DType) -> Callable[[], tf.Tensor]:
    volume = tf.cast(tf.random.stateless_normal((1, *(_VOXELS,) * 3, _FILTERS), (1, 2)), dtype)
    kernel = tf.cast(tf.random.stateless_normal((3, 3, 3, _FILTERS, _FILTERS), (3, 4)), dtype)
    return tf.function(lambda: tf.reduce_sum(tf.nn.conv3d(volume, kernel, [1] * 5, "SAME")))


def _seconds(computation: Callable[[], tf.Tensor]) -> float:
    start = time.perf_counter()
    computation().numpy()
    return time.perf_counter() - start
