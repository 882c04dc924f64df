"""Networks of slices: each slice of a volume through the network by itself (narcomey2018)."""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from tf_mrsr.inference.super_resolver import SuperResolver, slice_order

# (n, x, y, 1). The last axis is open, because a server does not hold requests to a shape and the graph checks it.
SLICES = tf.TensorSpec((None, None, None, None), tf.float32, "slices")


class SliceResolver(SuperResolver):
    """A ``SuperResolver`` whose network takes slices, (batch, x, y, 1) -> (batch, x, y, channel).

    The slices are a batch of the network, as many at a time as the memory allows. The channels of a result are
    neighbouring slices in order, so slice i of the volume becomes slices i c ... i c + c - 1 for c channels. The slice
    axis is found as ``tf_mrsr.geometry.slices_last`` does it; the in-plane axes keep their order.
    """

    @property
    def signatures(self) -> dict[str, Callable[..., dict[str, tf.Tensor]]]:
        return {"serving_default": self.__call__, "slices": self.resolve_batch, "bytes": self.resolve_bytes}

    @tf.function(input_signature=[SLICES], autograph=False)
    def resolve_batch(self, slices: tf.Tensor) -> dict[str, tf.Tensor]:
        """The network alone, on a batch that fits into memory.

        Args:
            slices: float32 (n, x, y, 1), in network range.

        Returns:
            "slices", float32 (n, x, y, channel), in network range.

        Raises:
            tf.errors.InvalidArgumentError: in the graph, if the slices have several channels.
        """
        return {"slices": self._networks(tf.ensure_shape(slices, (None, None, None, 1)))}

    def _order(self, affine: tf.Tensor) -> tf.Tensor:
        return slice_order(affine, keep_in_plane=True)

    def _network_axes(self, order: tf.Tensor) -> tf.Tensor:
        return order[:2]

    def _network(self, volume: tf.Tensor, memory_bytes: tf.Tensor) -> tf.Tensor:
        channels = self._networks.folded.output_shape[-1]
        slices = tf.transpose(volume, (2, 0, 1, 3))
        count, columns, rows = tf.unstack(tf.shape(slices)[:3])
        pixels = tf.cast(columns * rows, tf.int64)
        # Input, scaled input, slices, joined results and result are there all the time.
        budget = memory_bytes - 4 * pixels * tf.cast(count, tf.int64) * (3 + 2 * channels)
        of_slice = pixels * max(part.bytes_per_voxel for part in self._networks.parts)
        at_once = tf.cast(tf.clip_by_value(budget // of_slice, 1, tf.cast(count, tf.int64)), tf.int32)

        def step(i: tf.Tensor, results: tf.TensorArray) -> tuple[tf.Tensor, tf.TensorArray]:
            return i + 1, results.write(i, self._networks(slices[i * at_once : (i + 1) * at_once]))

        batches = -(-count // at_once)
        results = tf.TensorArray(tf.float32, batches, infer_shape=False, element_shape=(None, None, None, channels))
        _, results = tf.while_loop(lambda i, _: i < batches, step, (0, results), parallel_iterations=1)
        return tf.reshape(tf.transpose(results.concat(), (1, 2, 0, 3)), (columns, rows, count * channels, 1))
