"""The whole way of a scan through a trained generator, as one graph."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import keras
import tensorflow as tf

from tf_mrsr import intensity
from tf_mrsr.geometry import THICK_RATIO, GridMap
from tf_mrsr.inference.input_checks import checked_affine, checked_volume
from tf_mrsr.inference.tiling import (
    Kept,
    KeptFunction,
    crop,
    finer,
    plan,
    tile,
    whole,
    widened,
    within,
)
from tf_mrsr.layers import FewFiltersConv3D
from tf_mrsr.networks.structure import POINTWISE, Reach, assign_folded, enlargement, fold_batch_norm, reach, split

VOLUME = tf.TensorSpec((None, None, None), tf.float32, "volume")
# 4 x 4. Stated open, because a server does not hold requests to a shape and the graph then would not check it either.
AFFINE = tf.TensorSpec((None, None), tf.float64, "affine")
MEMORY = tf.TensorSpec((), tf.int64, "memory_bytes")
# (n, x, y, z, 1), its last axis open for the same reason.
PATCHES = tf.TensorSpec((None, None, None, None, None), tf.float32, "patches")
# A name that ends in _bytes is sent as base64 where the server is asked by REST.
BYTES = tf.TensorSpec((), tf.string, "volume_bytes")


class _Part(NamedTuple):
    """A part of a generator, see ``tf_mrsr.networks.structure.split``.

    Attributes:
        run: the part on a batch, (n, x, y, z, channel) to the same, finer; of slices (n, x, y, channel).
        reach: how far it sees.
        bytes_per_voxel: bytes that it takes, per voxel of its input.
    """

    run: Callable[[tf.Tensor], tf.Tensor]
    reach: Reach
    bytes_per_voxel: int

    @classmethod
    def of(cls, network: keras.Model) -> _Part:
        reaches = reach(network)
        # What follows needs about as much again as the features that it works on.
        kept = 2 * math.prod(reaches.scale) * _bytes(network.output)
        # One graph, whatever calls it: making it is most of what starting and saving take.
        signature = [tf.TensorSpec(network.input.shape, network.input.dtype)]
        run = tf.function(lambda batch: network(batch), signature, autograph=False)
        return cls(run, reaches, max(peak_bytes_per_voxel(network), kept))

    def __call__(self, volume: tf.Tensor) -> tf.Tensor:
        """(x, y, z, channel) to the same, finer."""
        return self.run(volume[None])[0]


class _Networks:
    """Keras models out of the sight of tf.Module's tracking."""

    def __init__(self, folded: keras.Model) -> None:
        self.folded, self.parts = folded, [_Part.of(network) for network in split(folded)]

    def __call__(self, batch: tf.Tensor) -> tf.Tensor:
        """The whole network: (n, x, y, z, channel) to the same, finer; of slices (n, x, y, channel)."""
        for part in self.parts:
            batch = part.run(batch)
        return batch


class SuperResolver(tf.Module):
    """Takes a raw volume and its affine, returns the super-resolved volume and its affine.

    Checks, normalisation, slabs, network, inverse normalisation and geometry are all inside, so that prediction in
    Python and an exported SavedModel are the same graph. Batch norms are folded into the convolutions.

    The low-resolution trunk of the generator is cheap in memory and wide in reach, what enlarges is the opposite. So
    the trunk runs over the whole volume and only the other parts by slabs; where the trunk does not fit either, it runs
    by slabs whose halo is the reach of all, of which the next part gets what it and those behind it see, and so on.

    Args:
        generator: functional model, (batch, x, y, z, 1) -> the same at the higher resolution. What it computes in,
            float32 or bfloat16, the resolver computes in; result and intensities are float32.
        grid_map: from output index to input index.
        intensity_kind: a key of ``tf_mrsr.intensity.KINDS``.
        slices_last: brings the slice axis last before the network and back after it, as
            ``tf_mrsr.geometry.slices_last`` finds it.
        target_window: brings the result from network range to scan intensities; None for the input's own window.
    """

    def __init__(
        self,
        generator: keras.Model,
        grid_map: GridMap,
        intensity_kind: str,
        *,
        slices_last: bool = False,
        target_window: intensity.Window | None = None,
    ) -> None:
        super().__init__(name="super_resolver")
        # A variable, so that it can be read of a loaded SavedModel.
        self.target_window = None if target_window is None else tf.Variable(target_window, False, dtype=tf.float32)
        folded = fold_batch_norm(generator)
        # Tracked as plain variables; the Keras models themselves would put everything into a SavedModel twice.
        self.network_variables = [variable.value for variable in folded.weights]
        self._networks = _Networks(folded)
        self._output_bytes = 4 * math.prod(reach(folded).scale)
        self._grid_matrix = grid_map.matrix()
        self._intensity_kind = intensity_kind
        self._slices_last = slices_last

    def update(self, generator: keras.Model) -> None:
        """Takes over the weights of a generator of the same build, which may compute in another precision."""
        assign_folded(generator, self._networks.folded)

    @property
    def signatures(self) -> dict[str, Callable[..., dict[str, tf.Tensor]]]:
        """What an exported SavedModel can be asked: the whole way, the network alone, the whole way as bytes."""
        return {"serving_default": self.__call__, "patches": self.resolve_batch, "bytes": self.resolve_bytes}

    @tf.function(input_signature=[VOLUME, AFFINE, MEMORY], autograph=False)
    def __call__(self, volume: tf.Tensor, affine: tf.Tensor, memory_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        """Super-resolves one volume.

        Args:
            volume: float32 (x, y, z), scan intensities.
            affine: float64 (4, 4), voxel index to mm.
            memory_bytes: what the computation may take; ``tf_mrsr.limits.UNLIMITED`` for one run over the whole.

        Returns:
            "volume", float32 (x, y, z) on the finer grid in scan intensities, and "affine", its float64 (4, 4).

        Raises:
            tf.errors.InvalidArgumentError: see ``tf_mrsr.inference.input_checks``.
        """
        return self._resolve(volume, affine, lambda scaled: self._network(scaled, memory_bytes))

    @tf.function(input_signature=[PATCHES], autograph=False)
    def resolve_batch(self, patches: tf.Tensor) -> dict[str, tf.Tensor]:
        """The network alone, on a batch that fits into memory.

        Args:
            patches: float32 (n, x, y, z, 1), in network range, slices last where the network wants them so.

        Returns:
            "patches", float32 (n, x, y, z, 1) on the finer grid, in network range.

        Raises:
            tf.errors.InvalidArgumentError: in the graph, if the patches have several channels.
        """
        return {"patches": self._networks(tf.ensure_shape(patches, (None, None, None, None, 1)))}

    @tf.function(input_signature=[BYTES, AFFINE, MEMORY], autograph=False)
    def resolve_bytes(
        self, volume_bytes: tf.Tensor, affine: tf.Tensor, memory_bytes: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        """``__call__`` on a serialised TensorProto (see ``tf.io.serialize_tensor``), which travels most cheaply.

        Returns:
            "volume_bytes", the serialised result, and "affine".

        Raises:
            tf.errors.InvalidArgumentError: as ``__call__``, or if the bytes are not a float32 tensor of rank 3.
        """
        volume = tf.ensure_shape(tf.io.parse_tensor(volume_bytes, tf.float32), VOLUME.shape)
        result = self._by_default(volume, affine, memory_bytes)
        return {"volume_bytes": tf.io.serialize_tensor(result["volume"]), "affine": result["affine"]}

    def _by_default(self, volume: tf.Tensor, affine: tf.Tensor, memory_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        return self(volume, affine, memory_bytes)

    def _resolve(
        self, volume: tf.Tensor, affine: tf.Tensor, network: Callable[[tf.Tensor], tf.Tensor]
    ) -> dict[str, tf.Tensor]:
        """All but the network itself, which takes and gives (x, y, z, 1) in network range."""
        affine = checked_affine(affine)
        order = self._order(affine)
        volume = checked_volume(volume, self._network_axes(order))
        volume = tf.transpose(volume, order)
        centre, width = intensity.KINDS[self._intensity_kind](lambda name: getattr(tf.math, f"reduce_{name}")(volume))
        window = intensity.Window(centre, tf.where(width == 0, tf.ones_like(width), width))  # as intensity.measure
        scaled = window.to_network(volume)[..., None]
        if self.target_window is not None:
            window = intensity.Window(self.target_window[0], self.target_window[1])
        result = window.to_scan(network(scaled)[..., 0])
        # Columns of the affine belong to array axes: there and back like the volume.
        columns = tf.concat([order, [3]], axis=0)
        fine = tf.gather(affine, columns, axis=1) @ tf.constant(self._grid_matrix, tf.float64)
        return {
            "volume": tf.transpose(result, tf.math.invert_permutation(order)),
            "affine": tf.gather(fine, tf.math.invert_permutation(columns), axis=1),
        }

    def _order(self, affine: tf.Tensor) -> tf.Tensor:
        """Array axes in the order in which the network takes them; int32 (3,)."""
        return slice_order(affine) if self._slices_last else tf.range(3)

    def _network_axes(self, order: tf.Tensor) -> tf.Tensor:
        """Those of the array axes that the network spans, int32; each must be long enough for it."""
        return order

    def _network(self, volume: tf.Tensor, memory_bytes: tf.Tensor) -> tf.Tensor:
        shape = tf.shape(volume)[:3]
        voxels = tf.reduce_prod(tf.cast(shape, tf.int64))
        # Input, scaled input, joined pieces and result are there all the time.
        budget = memory_bytes - voxels * (2 * 4 + 2 * self._output_bytes)
        return _by_slabs(self._networks.parts, shape, budget)(volume, whole(volume))


def _by_slabs(parts: Sequence[_Part], shape: tf.Tensor, budget: tf.Tensor) -> KeptFunction:
    """The parts in a row, each by slabs of what the one before gives for one of its slabs.

    Args:
        parts: one or more.
        shape: int tensor (3,), voxels that the first part gets.
        budget: int64 scalar, bytes that all of them may take.
    """
    first, *others = parts
    seen = _radius_behind(parts)

    def run(slab: tf.Tensor, kept: Kept) -> tf.Tensor:
        if not others:
            return crop(first(slab), kept, first.reach.scale)
        # Most of the halo is used up: the parts behind, which work on a finer grid, get what they see alone.
        needed = widened(kept, seen, slab)
        features = crop(first(slab), needed, first.reach.scale)
        held = tf.size(features, tf.int64) * features.dtype.size
        wanted = finer(within(kept, needed), first.reach.scale)
        return _by_slabs(others, tf.shape(features)[:3], budget - held)(features, wanted)

    radius = tuple(a + b for a, b in zip(first.reach.radius, seen, strict=True))
    slabs = plan(shape, radius, first.bytes_per_voxel, budget)
    for axis in (2, 1, 0):
        run = tile(run, axis=axis, radius=radius[axis], slab=slabs[axis])
    return run


def _radius_behind(parts: Sequence[_Part]) -> tuple[int, ...]:
    """How far all parts but the first see, in voxels that the first one gets."""
    first, *others = parts
    if not others:
        return (0,) * len(first.reach.radius)
    behind = zip(others[0].reach.radius, _radius_behind(others), first.reach.scale, strict=True)
    return tuple(-(-(a + b) // scale) for a, b, scale in behind)


def slice_order(affine: tf.Tensor, *, keep_in_plane: bool = False) -> tf.Tensor:
    """``tf_mrsr.geometry.slices_last`` inside a graph: int32 (3,) of an affine (4, 4)."""
    spacing = tf.norm(affine[:3, :3], axis=0)
    directions = tf.abs(affine[:3, :3] / spacing)
    ascending = tf.sort(spacing)
    decides = tf.where(ascending[2] > THICK_RATIO * ascending[1], spacing, directions[2])
    slice_axis = tf.argmax(decides, output_type=tf.int32)
    in_plane = tf.boolean_mask(tf.range(3), tf.range(3) != slice_axis)
    if not keep_in_plane:
        turned = directions[0, in_plane[1]] > directions[0, in_plane[0]]
        in_plane = tf.where(turned, in_plane[::-1], in_plane)
    return tf.concat([in_plane, [slice_axis]], axis=0)


# Over what a layer reads and writes; measured as 1.05 to 1.15 with oneDNN.
_SCRATCH = 1.25


def peak_bytes_per_voxel(model: keras.Model) -> int:
    """Memory at the model's peak, per input voxel: what its greediest layer reads and writes, and what waits.

    Activations and the like work in place. Features that a skip connection needs later are held meanwhile; the
    networks here have at most two such connections open at a time.
    """
    scales = {id(model.input): 1}
    peak = skip = 0
    for operation in model.operations:
        for node in operation._inbound_nodes:
            if any(id(t) not in scales for t in node.input_tensors) or id(node.outputs[0]) in scales:
                continue
            scale = scales[id(node.input_tensors[0])] * enlargement(operation)
            scales[id(node.outputs[0])] = scale
            written = scale * _bytes(node.outputs[0])
            if len(node.input_tensors) > 1:
                skip = max(skip, written)
            elif not isinstance(operation, POINTWISE):
                if isinstance(operation, FewFiltersConv3D):  # its taps, as they come and moved to their places
                    written *= 1 + 2 * math.prod(operation.kernel_size[:2])
                peak = max(peak, scales[id(node.input_tensors[0])] * _bytes(node.input_tensors[0]) + written)
    return int(_SCRATCH * (peak + 2 * skip))


def _bytes(tensor: keras.KerasTensor) -> int:
    """Per voxel."""
    return tensor.shape[-1] * tf.as_dtype(tensor.dtype).size
