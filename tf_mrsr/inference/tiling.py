"""Running a function over slabs of a volume so that the result is that of one run over the whole.

A slab is a piece of the volume along one axis with a halo on both sides. Where the halo is at least as wide as the
function sees, what it makes of the inner part is what it would make there with the whole volume before it. At the
volume's own border there is no halo: the function pads there as it does without tiling, and the piece is larger by
that. All slabs are equally long; the last is moved inwards. One axis of 10 voxels, slabs of 5, halos of 1::

    voxel     0 1 2 3 4 5 6 7 8 9
    piece 0  [. . . .].                    slab 0-4
    piece 1         .[. . .].              slab 3-7
    piece 2             . .[. . .]         slab 5-9
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


def tile(function: KeptFunction, *, axis: int, radius: int, slab: tf.Tensor | int) -> KeptFunction:
    """``function`` by slabs along one axis.

    Args:
        function: from (x, y, z, channel) to (sx x, sy y, sz z, channel), shift-invariant; gives the kept part alone, so
            that it can leave out early what is needed of the halo no more.
        axis: 0 for x, 1 for y, 2 for z.
        radius: how many input voxels to each side an output voxel sees along the axis.
        slab: at most this many input voxels at a time, halos included; more than ``2 * radius``. A slab as long as the
            axis is one run.

    Returns:
        A function of the same kind; it can be tiled again along another axis.
    """

    def tiled(volume: tf.Tensor, kept: Kept) -> tf.Tensor:
        begin, wanted = kept[axis]
        end = begin + wanted
        seen = tf.maximum(begin - radius, 0)
        seen_end = tf.minimum(end + radius, tf.shape(volume)[axis])
        count, length = even_slabs(seen_end - seen, radius, tf.cast(slab, tf.int32))

        def step(i: tf.Tensor, pieces: tf.TensorArray) -> tuple[tf.Tensor, tf.TensorArray]:
            advance = length - 2 * radius
            start = tf.where(i == 0, begin, seen + i * advance + radius)
            stop = tf.where(i == count - 1, end, seen + (i + 1) * advance + radius)
            first = tf.minimum(seen + i * advance, seen_end - length)
            inner = (*kept[:axis], (start - first, stop - start), *kept[axis + 1 :])
            result = function(_slice(volume, axis, first, length), inner)
            return i + 1, pieces.write(i, _swap_to_front(result, axis))

        pieces = tf.TensorArray(tf.float32, size=count, infer_shape=False, element_shape=(None,) * 4)
        _, pieces = tf.while_loop(lambda i, _: i < count, step, (tf.constant(0), pieces), parallel_iterations=1)
        return _swap_to_front(pieces.concat(), axis)

    return tiled


def even_slabs(size: tf.Tensor, radius: int, longest: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """How many slabs of at most ``longest`` voxels cover an axis, and the least length with which so many do.

    Args:
        size: of the axis, integer.
        radius: of the halo.
        longest: of the same type as ``size``, any shape; ``2 * radius + 1`` at least is taken.

    Returns:
        Count and length, shaped as ``longest``.
    """
    new = _between_halos(size, radius)
    advance = -(-new // -(-new // tf.maximum(longest - 2 * radius, 1)))
    return -(-new // advance), tf.minimum(size, advance + 2 * radius)


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


def _between_halos(size: tf.Tensor, radius: int) -> tf.Tensor:
    """What slabs have to add, one after the other, to the halos at the two ends of an axis."""
    return tf.maximum(size - 2 * radius, 1)


def plan(shape: tf.Tensor, radius: tuple[int, int, int], bytes_per_voxel: int, budget: tf.Tensor) -> tf.Tensor:
    """The slabs (x, y, z), halos included, that need at most ``budget`` bytes and compute least twice; int32 (3,).

    With too small a budget the slabs are as small as is sensible and the budget is exceeded.

    Args:
        shape: int tensor (3,), voxels.
        radius: reach of the function along each axis.
        bytes_per_voxel: memory at the function's peak, per voxel of its input.
        budget: int64 scalar, bytes.
    """
    sizes = [tf.maximum(size, 1) for size in tf.unstack(tf.cast(shape, tf.int64))]
    voxels = tf.maximum(tf.cast(budget, tf.int64), 0) // bytes_per_voxel
    # Every sensible cut of x with every one of y, and the fewest cuts of z that then fit.
    x, y = (_cuts(size, r) for size, r in zip(sizes[:2], radius[:2], strict=True))
    x, y = x[:, None], y[None, :]
    room = tf.maximum(voxels // (x * y), 2 * radius[2] + _least_advance(radius[2]))
    counts, slabs = zip(*map(even_slabs, sizes, radius, (x, y, room)), strict=True)
    taken = slabs[0] * slabs[1] * slabs[2]
    # What does not fit counts by its size, far above all that fits.
    work = tf.cast(taken * counts[0] * counts[1] * counts[2], tf.float64)
    cost = tf.where(taken <= voxels, work, 1e18 + tf.cast(taken, tf.float64))
    best = tf.argmin(tf.reshape(cost, (-1,)))
    return tf.stack([tf.cast(tf.reshape(tf.broadcast_to(s, tf.shape(taken)), (-1,))[best], tf.int32) for s in slabs])


def _cuts(size: tf.Tensor, radius: int) -> tf.Tensor:
    """The lengths of slabs with which an axis is one slab, two, and so on; int64 (n,)."""
    new = _between_halos(size, radius)
    counts = tf.range(1, 1 - (-new // _least_advance(radius)))
    return tf.minimum(size, -(-new // counts) + 2 * radius)


def _least_advance(radius: int) -> int:
    """A slab that adds less than its halos have is mostly computed twice."""
    return max(2 * radius, 4)
