"""Running a function over slabs of a volume so that the result is that of one run over the whole.

A slab is a piece of the volume along one axis with a halo on both sides. Where the halo is at least as wide as the
function sees, what it makes of the inner part is what it would make there with the whole volume before it. At the
volume's own border there is no halo: the function pads there as it does without tiling. One axis of 10 voxels, pieces
of 4 with a halo of 2; the slabs are all equally long, the last is moved inwards::

    voxel     0 1 2 3 4 5 6 7 8 9
    piece 0  [. . . .]. . . .              slab 0-7
    piece 1       . .[. . . .]. .          slab 2-9
    piece 2       . . . . . .[. .]         slab 2-9
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import tensorflow as tf

# For each of x, y, z: the first voxel of a volume of which the result is wanted, and how many are.
Kept = tuple[tuple[tf.Tensor, tf.Tensor], ...]
# A function that gives the result of some voxels of a volume alone.
KeptFunction = Callable[[tf.Tensor, Kept], tf.Tensor]


def whole(volume: tf.Tensor) -> Kept:
    """All voxels of a volume (x, y, z, channel)."""
    return tuple((tf.constant(0), size) for size in tf.unstack(tf.shape(volume)[:3]))


def crop(volume: tf.Tensor, kept: Kept, scale: Sequence[int] = (1, 1, 1)) -> tf.Tensor:
    """The kept part of a volume (x, y, z, channel) that has ``scale`` voxels for each one that ``kept`` counts."""
    return volume[tuple(slice(first, first + size) for first, size in finer(kept, scale))]


def widened(kept: Kept, radius: Sequence[int], volume: tf.Tensor) -> Kept:
    """Those voxels and ``radius`` more to each side, as far as the volume (x, y, z, channel) goes."""
    wider = []
    for (first, size), r, end in zip(kept, radius, tf.unstack(tf.shape(volume)[:3]), strict=True):
        start = tf.maximum(first - r, 0)
        wider.append((start, tf.minimum(first + size + r, end) - start))
    return tuple(wider)


def within(kept: Kept, part: Kept) -> Kept:
    """``kept`` counted from where ``part`` begins."""
    return tuple((first - begin, size) for (first, size), (begin, _) in zip(kept, part, strict=True))


def finer(kept: Kept, scale: Sequence[int]) -> Kept:
    """``kept`` on a grid of ``scale`` voxels for each one."""
    return tuple((first * s, size * s) for (first, size), s in zip(kept, scale, strict=True))


def tile(function: KeptFunction, *, axis: int, radius: int, piece: tf.Tensor | int) -> KeptFunction:
    """``function`` by slabs along one axis.

    Args:
        function: from (x, y, z, channel) to (sx x, sy y, sz z, channel), shift-invariant; gives the kept part alone, so
            that it can leave out early what is needed of the halo no more.
        axis: 0 for x, 1 for y, 2 for z.
        radius: how many input voxels to each side an output voxel sees along the axis.
        piece: at most this many input voxels of result per slab, 1 or more. A piece as long as the axis is one run.

    Returns:
        A function of the same kind; it can be tiled again along another axis.
    """

    def tiled(volume: tf.Tensor, kept: Kept) -> tf.Tensor:
        size = tf.shape(volume)[axis]
        begin, wanted = kept[axis]
        count = -(-wanted // tf.cast(piece, tf.int32))
        # Even pieces: the last one is not a sliver with a full halo.
        length = -(-wanted // count)
        window = tf.minimum(size, length + 2 * radius)

        def step(i: tf.Tensor, pieces: tf.TensorArray) -> tuple[tf.Tensor, tf.TensorArray]:
            start = begin + i * length
            stop = tf.minimum(start + length, begin + wanted)
            first = tf.clip_by_value(start - radius, 0, size - window)
            inner = (*kept[:axis], (start - first, stop - start), *kept[axis + 1 :])
            result = function(_slice(volume, axis, first, window), inner)
            return i + 1, pieces.write(i, _swap_to_front(result, axis))

        pieces = tf.TensorArray(tf.float32, size=count, infer_shape=False, element_shape=(None,) * 4)
        _, pieces = tf.while_loop(lambda i, _: i < count, step, (tf.constant(0), pieces), parallel_iterations=1)
        return _swap_to_front(pieces.concat(), axis)

    return tiled


def _slice(volume: tf.Tensor, axis: int, start: tf.Tensor, length: tf.Tensor) -> tf.Tensor:
    index = [slice(None)] * axis + [slice(start, start + length)]
    return volume[tuple(index)]


def _swap_to_front(volume: tf.Tensor, axis: int) -> tf.Tensor:
    """Exchanges ``axis`` with axis 0, along which a TensorArray joins its pieces; twice is the identity."""
    if axis == 0:
        return volume
    order = [0, 1, 2, 3]
    order[0], order[axis] = order[axis], order[0]
    return tf.transpose(volume, order)


def plan(shape: tf.Tensor, radius: tuple[int, int, int], bytes_per_voxel: int, budget: tf.Tensor) -> tf.Tensor:
    """The longest pieces (x, y, z) whose slabs, halos included, need at most ``budget`` bytes; int32 (3,).

    The volume is cut along x alone, along x and y, or along all axes, whichever fits and spends least on halos. With
    too small a budget the pieces are as small as is sensible and the budget is exceeded.

    Args:
        shape: int tensor (3,), voxels.
        radius: reach of the function along each axis.
        bytes_per_voxel: memory at the function's peak, per voxel of its input.
        budget: int64 scalar, bytes.
    """
    sizes = tf.unstack(tf.cast(shape, tf.int64))
    x, y, z = (tf.maximum(size, 1) for size in sizes)
    voxels = tf.maximum(tf.cast(budget, tf.int64), 0) // bytes_per_voxel
    square = _root(voxels // z, 2)
    cube = _root(voxels, 3)
    candidates = [(voxels // (y * z), y, z), (square, square, z), (cube, cube, cube)]

    lengths, costs = [], []
    for windows in candidates:
        pieces = [_piece(w, n, r) for w, n, r in zip(windows, (x, y, z), radius, strict=True)]
        slabs = [tf.minimum(p + 2 * r, n) for p, n, r in zip(pieces, (x, y, z), radius, strict=True)]
        taken = slabs[0] * slabs[1] * slabs[2]
        # Work per voxel of result; what does not fit counts by its size, far above all that fits.
        work = taken / (pieces[0] * pieces[1] * pieces[2])
        lengths.append(tf.stack(pieces))
        costs.append(tf.where(taken <= voxels, work, 1e9 + tf.cast(taken, tf.float64)))
    return tf.cast(tf.gather(tf.stack(lengths), tf.argmin(tf.stack(costs))), tf.int32)


def _root(number: tf.Tensor, degree: int) -> tf.Tensor:
    return tf.cast(tf.pow(tf.cast(number, tf.float64), 1 / degree), tf.int64)


def _piece(window: tf.Tensor, size: tf.Tensor, reach: int) -> tf.Tensor:
    """The piece inside a slab of ``window`` voxels; the whole axis where a slab would span it anyway."""
    smallest = tf.minimum(size, max(2 * reach, 4))
    length = tf.clip_by_value(window - 2 * reach, smallest, size)
    return tf.where(length + 2 * reach >= size, size, length)
