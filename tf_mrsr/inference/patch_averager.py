"""The protocol of taloma2020's section V: overlapping patches, each through the network, averaged."""

from __future__ import annotations

import math
from typing import Any

import keras
import tensorflow as tf

from tf_mrsr.inference.averaging import average_patches
from tf_mrsr.inference.input_checks import checked_stride
from tf_mrsr.inference.super_resolver import AFFINE, MEMORY, VOLUME, SuperResolver
from tf_mrsr.layers import LargeKernelConv3D

MAX_BATCH = 16


class PatchAverager(SuperResolver):
    """A ``SuperResolver`` that runs the network on overlapping patches instead of slabs, and averages.

    Each patch sees its own border, zero padding included, and the average depends on patch and stride: this is the
    published protocol, not an approximation of one run over the whole volume.

    Args:
        generator: functional model that keeps the shape, (batch, x, y, z, 1) -> the same.
        patch: voxels of a patch along each axis.
        stride: voxels from one patch to the next where a caller does not say.
        arguments: the others of ``SuperResolver``.
    """

    def __init__(self, generator: keras.Model, patch: int, stride: int, **arguments: Any) -> None:
        super().__init__(generator, **arguments)
        self._patch, self._stride = patch, stride
        self._patch_bytes = patch**3 * self._networks.parts[0].bytes_per_voxel
        self._kernel_bytes = sum(_kernel_bytes(layer, patch) for layer in generator.layers)

    @tf.function(input_signature=[VOLUME, AFFINE, MEMORY, tf.TensorSpec((), tf.int32, "stride")], autograph=False)
    def __call__(
        self, volume: tf.Tensor, affine: tf.Tensor, memory_bytes: tf.Tensor, stride: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        """As ``SuperResolver``; ``stride`` is the way in voxels from one patch to the next, 1 up to the patch."""

        def network(scaled: tf.Tensor) -> tf.Tensor:
            # Input, result, and the sum and count that become it are there all the time.
            budget = memory_bytes - tf.size(volume, tf.int64) * 4 * 6 - self._kernel_bytes
            batch = tf.clip_by_value(budget // self._patch_bytes, 1, MAX_BATCH)
            return average_patches(
                lambda patches: self._networks(patches[..., None])[..., 0],
                scaled[..., 0],
                patch=self._patch,
                stride=checked_stride(stride, self._patch),
                batch=tf.cast(batch, tf.int32),
            )[..., None]

        return self._resolve(volume, affine, network)

    def _by_default(self, volume: tf.Tensor, affine: tf.Tensor, memory_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        return self(volume, affine, memory_bytes, self._stride)


def _kernel_bytes(layer: keras.layers.Layer, patch: int) -> int:
    """What the spectrum of a large kernel takes: once as it comes out of the transform, once in the order used."""
    if not isinstance(layer, LargeKernelConv3D):
        return 0
    dilation, half = layer.dilation_rate[0], layer.kernel_size[0] // 2
    return 2 * 4 * (-(-patch // dilation) + half) ** 3 * math.prod(layer.kernel.shape[-2:])
