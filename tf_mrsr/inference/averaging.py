"""Running a function over overlapping patches of a volume and averaging what they say of each voxel.

The patches of one axis begin every ``stride`` voxels and the last is moved inwards; along one axis of 10 voxels,
patches of 4 and a stride of 3::

    voxel      0 1 2 3 4 5 6 7 8 9
    patch 0   [. . . .]
    patch 1         [. . . .]
    patch 2               [. . . .]
    average of 1 1 1 2 1 1 2 1 1 1    patches
"""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

TensorFunction = Callable[[tf.Tensor], tf.Tensor]


def average_patches(
    function: TensorFunction, volume: tf.Tensor, *, patch: int, stride: tf.Tensor | int, batch: tf.Tensor | int
) -> tf.Tensor:
    """``function`` over all patches, averaged where they overlap.

    Patches of nothing but background, the volume's smallest value, are all the same; they are computed once.

    Args:
        function: float32 (n, x, y, z) -> (n, x, y, z), each of the n patches by itself.
        volume: float32 (x, y, z).
        patch: voxels of a patch along each axis; shorter where the volume is.
        stride: voxels from one patch to the next along each axis, 1 to ``patch``.
        batch: at most this many patches at a time.

    Returns:
        float32 (x, y, z).
    """
    shape = tf.shape(volume)
    windows = tf.minimum(shape, patch)
    background = tf.reduce_min(volume)
    blank = function(tf.fill(tf.concat([[1], windows], 0), background))

    def strip(slab: tf.Tensor) -> tf.Tensor:
        """(wx, wy, z) -> the same, averaged along z."""
        places = _origins(shape[2], windows[2], stride)[:, None] + tf.range(windows[2])
        patches = tf.transpose(tf.gather(slab, places, axis=2), (2, 0, 1, 3))
        wanted = tf.where(tf.reduce_any(patches != background, axis=(1, 2, 3)))
        results = tf.repeat(blank, tf.shape(patches)[0], axis=0)
        seen = _in_batches(function, tf.gather(patches, wanted[:, 0]), batch)
        results = tf.tensor_scatter_nd_update(results, wanted, seen)
        by_voxel = tf.reshape(tf.transpose(results, (0, 3, 1, 2)), (-1, windows[0], windows[1]))
        mean = tf.math.unsorted_segment_mean(by_voxel, tf.reshape(places, (-1,)), shape[2])
        return tf.transpose(mean, (1, 2, 0))

    def slab(part: tf.Tensor) -> tf.Tensor:
        return _average_along(1, strip, part, windows[1], stride)

    return _average_along(0, slab, volume, windows[0], stride)


def _average_along(
    axis: int, function: TensorFunction, volume: tf.Tensor, window: tf.Tensor, stride: tf.Tensor | int
) -> tf.Tensor:
    size = tf.shape(volume)[axis]
    origins = _origins(size, window, stride)

    def step(i: tf.Tensor, total: tf.Tensor, count: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        first = origins[i]
        part = tf.gather(volume, tf.range(first, first + window), axis=axis)
        around = [first, size - window - first]
        total += tf.pad(function(part), [around if a == axis else [0, 0] for a in range(3)])
        return i + 1, total, count + tf.pad(tf.ones((window,)), [around])

    start = (tf.constant(0), tf.zeros_like(volume), tf.zeros((size,)))
    shapes = (tf.TensorShape(()), tf.TensorShape((None,) * 3), tf.TensorShape((None,)))
    _, total, count = tf.while_loop(
        lambda i, *_: i < tf.size(origins), step, start, shape_invariants=shapes, parallel_iterations=1
    )
    return total / tf.reshape(count, [-1 if a == axis else 1 for a in range(3)])


def _origins(size: tf.Tensor, window: tf.Tensor, stride: tf.Tensor | int) -> tf.Tensor:
    last = size - window
    return tf.minimum(tf.range(-(-last // stride) + 1) * stride, last)


def _in_batches(function: TensorFunction, patches: tf.Tensor, batch: tf.Tensor | int) -> tf.Tensor:
    count = tf.shape(patches)[0]
    steps = -(-count // batch)

    def step(i: tf.Tensor, results: tf.TensorArray) -> tuple[tf.Tensor, tf.TensorArray]:
        # Even shares, so that no batch is a single left-over patch.
        return i + 1, results.write(i, function(patches[i * count // steps : (i + 1) * count // steps]))

    results = tf.TensorArray(tf.float32, size=steps, infer_shape=False, element_shape=(None,) * 4)
    _, results = tf.while_loop(lambda i, _: i < steps, step, (tf.constant(0), results), parallel_iterations=1)
    return tf.cond(steps > 0, results.concat, lambda: patches)
