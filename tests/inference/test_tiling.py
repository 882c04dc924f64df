"""The tiling engine, with functions that have nothing to do with networks."""

import numpy as np
import pytest
import tensorflow as tf

from tf_mrsr.inference.tiling import crop, plan, tile, whole, widened, within

VOLUME = np.random.default_rng(0).normal(size=(11, 9, 7, 2)).astype(np.float32)


def counted(function):
    """The function, and the list of slab shapes that it was given."""
    shapes = []

    def wrapped(slab):
        shapes.append(tuple(slab.shape))
        return function(slab)

    return wrapped, shapes


def keeping(function, scale):
    """The function, of whose result the kept part is cut out."""
    return lambda volume, kept: crop(function(volume), kept, scale)


def neighbours(slab):
    """Sum of a voxel and two to each side along x and y, zero beyond the border: the reach is 2."""
    kernel = tf.reshape(tf.eye(2), (1, 1, 1, 2, 2)) * tf.ones((5, 5, 1, 1, 1))
    return tf.nn.conv3d(slab[None], kernel, (1, 1, 1, 1, 1), "SAME")[0]


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("piece", [1, 2, 3, 4, 5, 100])
@pytest.mark.parametrize(("name", "function"), [("plus one", lambda x: x + 1), ("times two", lambda x: 2 * x)])
def test_pointwise_functions(axis, piece, name, function):
    tiled = tile(keeping(function, (1, 1, 1)), axis=axis, radius=0, piece=piece)
    np.testing.assert_array_equal(tiled(VOLUME, whole(VOLUME)), function(VOLUME), err_msg=name)


@pytest.mark.parametrize("piece", [1, 3, 4, 10])
def test_a_function_that_sees_its_neighbours(piece):
    function, shapes = counted(neighbours)
    tiled = tile(tile(keeping(function, (1, 1, 1)), axis=1, radius=2, piece=4), axis=0, radius=2, piece=piece)
    np.testing.assert_allclose(tiled(VOLUME, whole(VOLUME)), neighbours(VOLUME), atol=1e-5)
    assert len(shapes) == -(-11 // piece) * 3
    assert len(set(shapes)) == 1  # all slabs alike, so that nothing is compiled or planned twice


def test_too_small_a_halo_shows():
    """The test above could not pass by chance: one voxel less of halo and the result is wrong."""
    tiled = tile(keeping(neighbours, (1, 1, 1)), axis=0, radius=1, piece=3)
    assert np.abs(tiled(VOLUME, whole(VOLUME)) - neighbours(VOLUME)).max() > 0.1


@pytest.mark.parametrize("kept", [((0, 11), (0, 9), (0, 7)), ((3, 5), (0, 4), (2, 5)), ((10, 1), (8, 1), (6, 1))])
@pytest.mark.parametrize("piece", [1, 3, 20])
def test_a_part_alone(kept, piece):
    """Only the kept part is computed, and is what the whole volume gives there."""
    function, shapes = counted(neighbours)
    tiled = tile(keeping(function, (1, 1, 1)), axis=0, radius=2, piece=piece)
    np.testing.assert_allclose(tiled(VOLUME, kept), crop(neighbours(VOLUME), kept), atol=1e-5)
    assert len(shapes) == -(-kept[0][1] // piece)


def test_two_functions_in_a_row_with_their_own_halos():
    """The first needs the reach of both; of its result the second gets what it sees itself."""
    kept = ((4, 3), (0, 9), (5, 2))

    def both(volume, kept):
        needed = widened(kept, (2, 2, 0), volume)
        assert [(int(first), int(size)) for first, size in needed] == [(2, 7), (0, 9), (5, 2)]
        return crop(neighbours(crop(neighbours(volume), needed)), within(kept, needed))

    expected = crop(neighbours(neighbours(VOLUME)), kept)
    np.testing.assert_allclose(both(VOLUME, kept), expected, atol=1e-4)
    tiled = tile(lambda slab, kept: crop(neighbours(neighbours(slab)), kept), axis=0, radius=4, piece=1)
    np.testing.assert_allclose(tiled(VOLUME, kept), expected, atol=1e-4)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_function_that_enlarges(axis):
    def nearest(slab):
        return tf.repeat(slab, 3, axis=axis)

    tiled = tile(keeping(nearest, [3 if a == axis else 1 for a in range(3)]), axis=axis, radius=0, piece=2)
    np.testing.assert_array_equal(tiled(VOLUME, whole(VOLUME)), nearest(VOLUME))


def peak(shape, radius, bytes_per_voxel, pieces):
    return bytes_per_voxel * int(np.prod(windows(shape, radius, pieces)))


def windows(shape, radius, pieces):
    return [min(n, int(p) + 2 * r) for n, p, r in zip(shape, pieces, radius, strict=True)]


@pytest.mark.parametrize("budget", [2**22, 2**24, 2**26, 2**28])
@pytest.mark.parametrize("shape", [(112, 112, 76), (20, 300, 40), (40, 40, 512), (512, 512, 400), (7, 7, 7)])
def test_plan_stays_within_the_budget_where_it_can(shape, budget):
    radius, bytes_per_voxel = (3, 3, 3), 1000
    pieces = plan(tf.constant(shape), radius, bytes_per_voxel, tf.constant(budget, tf.int64))
    assert peak(shape, radius, bytes_per_voxel, pieces) <= budget
    assert all(1 <= int(p) <= n for p, n in zip(pieces, shape, strict=True))
    # A piece whose slab would span the axis anyway is the whole axis, so nothing is computed twice for nothing.
    for piece, window, n in zip(pieces, windows(shape, radius, pieces), shape, strict=True):
        assert int(piece) == n or window < n


def test_plan_takes_the_whole_where_it_fits():
    pieces = plan(tf.constant((112, 112, 76)), (17, 17, 17), 1000, tf.constant(2**40, tf.int64))
    assert [int(p) for p in pieces] == [112, 112, 76]


def test_plan_with_too_small_a_budget_cuts_as_small_as_is_sensible():
    pieces = plan(tf.constant((112, 112, 76)), (5, 5, 5), 1000, tf.constant(1, tf.int64))
    assert [int(p) for p in pieces] == [10, 10, 10]
