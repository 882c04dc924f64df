"""What a graph refuses of its input, so that a server answers INVALID_ARGUMENT with a reason, and never nonsense."""

from __future__ import annotations

import tensorflow as tf

from tf_mrsr.cohort import MIN_VOXELS

_FLATTEST = 1e-6  # as tf_mrsr.geometry.check_affine


def checked_volume(volume: tf.Tensor, axes: tf.Tensor) -> tf.Tensor:
    """The volume as it is, once it is found to be usable.

    Args:
        volume: float32 (x, y, z).
        axes: int32, those that the network spans.

    Raises:
        tf.errors.InvalidArgumentError: in the graph, if the volume is empty, too small along ``axes``, or holds NaN or
            infinite voxels. No voxel is in the message.
    """
    shape = tf.shape(volume)
    long_enough = tf.logical_and(tf.reduce_all(tf.gather(shape, axes) >= MIN_VOXELS), tf.size(volume) > 0)
    checks = [
        tf.debugging.Assert(
            long_enough,
            [f"the volume must have {MIN_VOXELS} voxels or more along the axes", axes, "(from 0), it has", shape],
        ),
        tf.debugging.Assert(
            tf.reduce_all(tf.math.is_finite(volume)),
            ["the volume holds NaN or infinite voxels; set them to a number first"],
        ),
    ]
    with tf.control_dependencies(checks):
        return tf.identity(volume)


def checked_stride(stride: tf.Tensor, patch: int) -> tf.Tensor:
    """The way from one patch to the next as it is, once it is found to be 1 to ``patch`` voxels.

    Raises:
        tf.errors.InvalidArgumentError: in the graph, if it is not.
    """
    usable = tf.logical_and(stride >= 1, stride <= patch)
    check = tf.debugging.Assert(usable, [f"the stride must be 1 to {patch} voxels, a whole patch, got", stride])
    with tf.control_dependencies([check]):
        return tf.identity(stride)


def checked_affine(affine: tf.Tensor) -> tf.Tensor:
    """The affine as it is, once it is found to be usable.

    Args:
        affine: float64 of any shape; a server does not hold requests to the shape that a signature states.

    Raises:
        tf.errors.InvalidArgumentError: in the graph, if it is not 4 x 4, not finite, singular, or its last row is not
            0 0 0 1.
    """
    affine = tf.ensure_shape(affine, (4, 4))
    with tf.control_dependencies(_affine_checks(affine)):
        return tf.identity(affine)


def _affine_checks(affine: tf.Tensor) -> list[tf.Operation]:
    spacing = tf.norm(affine[:3, :3], axis=0)
    volume_of_voxel = tf.abs(tf.linalg.det(affine[:3, :3]))
    last_row = tf.constant([0, 0, 0, 1], tf.float64)
    return [
        tf.debugging.Assert(tf.reduce_all(tf.math.is_finite(affine)), ["the affine holds NaN or infinite numbers"]),
        tf.debugging.Assert(
            tf.reduce_all(tf.abs(affine[3] - last_row) < 1e-8), ["the last row of the affine must be 0 0 0 1"]
        ),
        tf.debugging.Assert(
            tf.logical_and(tf.reduce_all(spacing > 0), volume_of_voxel >= _FLATTEST * tf.reduce_prod(spacing)),
            ["the affine is singular, so voxels have no volume"],
        ),
    ]
