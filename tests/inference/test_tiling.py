"""The tiling engine, with functions that have nothing to do with networks."""

import functools

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tf_mrsr.inference.tiling import crop, even_slabs, plan, tile, whole, widened, within

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
@pytest.mark.parametrize("slab", [1, 2, 3, 4, 5, 100])
@pytest.mark.parametrize(("name", "function"), [("plus one", lambda x: x + 1), ("times two", lambda x: 2 * x)])
def test_pointwise_functions(axis, slab, name, function):
    tiled = tile(keeping(function, (1, 1, 1)), axis=axis, radius=0, slab=slab)
    np.testing.assert_array_equal(tiled(VOLUME, whole(VOLUME)), function(VOLUME), err_msg=name)


@pytest.mark.parametrize(("slab", "slabs"), [(5, 7), (6, 4), (7, 3), (9, 2), (11, 1), (30, 1)])
def test_a_function_that_sees_its_neighbours(slab, slabs):
    function, shapes = counted(neighbours)
    tiled = tile(tile(keeping(function, (1, 1, 1)), axis=1, radius=2, slab=7), axis=0, radius=2, slab=slab)
    np.testing.assert_allclose(tiled(VOLUME, whole(VOLUME)), neighbours(VOLUME), atol=1e-5)
    assert len(shapes) == slabs * 2  # 11 voxels along x by hand; 9 along y are 2 slabs of 7
    assert len(set(shapes)) == 1  # all slabs alike, so that nothing is compiled or planned twice


def test_too_small_a_halo_shows():
    """The test above could not pass by chance: one voxel less of halo and the result is wrong."""
    tiled = tile(keeping(neighbours, (1, 1, 1)), axis=0, radius=1, slab=5)
    assert np.abs(tiled(VOLUME, whole(VOLUME)) - neighbours(VOLUME)).max() > 0.1


@pytest.mark.parametrize("kept", [((0, 11), (0, 9), (0, 7)), ((3, 5), (0, 4), (2, 5)), ((10, 1), (8, 1), (6, 1))])
@pytest.mark.parametrize("slab", [5, 7, 20])
def test_a_part_alone(kept, slab):
    """Only the kept part is computed, and is what the whole volume gives there."""
    function, shapes = counted(neighbours)
    tiled = tile(keeping(function, (1, 1, 1)), axis=0, radius=2, slab=slab)
    np.testing.assert_allclose(tiled(VOLUME, kept), crop(neighbours(VOLUME), kept), atol=1e-5)
    first, size = kept[0]
    needed = min(first + size + 2, 11) - max(first - 2, 0)
    assert sum(shape[0] for shape in shapes) <= needed + 5 * (len(shapes) - 1)
    assert max(shape[0] for shape in shapes) <= slab


@settings(max_examples=200)
@given(st.integers(1, 600), st.integers(0, 20), st.integers(1, 200))
def test_even_slabs_cover_an_axis_with_no_more_than_it_takes(size, radius, advance):
    longest = 2 * radius + advance
    count, length = (int(n) for n in even_slabs(tf.constant(size), radius, tf.constant(longest)))
    assert length <= min(size, longest)
    if length == size:
        assert count == 1
    else:
        covered = [length + i * (length - 2 * radius) for i in range(count)]
        assert covered[-2] < size <= covered[-1]  # so many, and no slab that adds nothing
        assert covered[-1] - size < count  # none is longer than that takes


def test_two_functions_in_a_row_with_their_own_halos():
    """The first needs the reach of both; of its result the second gets what it sees itself."""
    kept = ((4, 3), (0, 9), (5, 2))

    def both(volume, kept):
        needed = widened(kept, (2, 2, 0), volume)
        assert [(int(first), int(size)) for first, size in needed] == [(2, 7), (0, 9), (5, 2)]
        return crop(neighbours(crop(neighbours(volume), needed)), within(kept, needed))

    expected = crop(neighbours(neighbours(VOLUME)), kept)
    np.testing.assert_allclose(both(VOLUME, kept), expected, atol=1e-4)
    tiled = tile(lambda slab, kept: crop(neighbours(neighbours(slab)), kept), axis=0, radius=4, slab=9)
    np.testing.assert_allclose(tiled(VOLUME, kept), expected, atol=1e-4)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_function_that_enlarges(axis):
    def nearest(slab):
        return tf.repeat(slab, 3, axis=axis)

    tiled = tile(keeping(nearest, [3 if a == axis else 1 for a in range(3)]), axis=axis, radius=0, slab=2)
    np.testing.assert_array_equal(tiled(VOLUME, whole(VOLUME)), nearest(VOLUME))


BUDGETS = [2**22, 2**24, 2**26, 2**28]


@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("shape", [(112, 112, 76), (20, 300, 40), (40, 40, 512), (512, 512, 400), (7, 7, 7)])
def test_plan_stays_within_the_budget_where_it_can(shape, budget):
    slabs = planned(shape, (3, 3, 3), 1000, budget)
    assert 1000 * np.prod(slabs) <= budget
    assert all(1 <= slab <= n for slab, n in zip(slabs, shape, strict=True))


@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("radius", [(3, 3, 3), (5, 5, 0)])
def test_no_plan_computes_less_twice(radius, budget):
    """Against every sensible cut of a small volume."""
    shape = (48, 30, 26)

    def cuts(lengths):
        """Voxels of a slab and of all slabs, for every combination of lengths along x, y, z."""
        even = [even_slabs(*map(tf.constant, (n, r, s))) for n, r, s in zip(shape, radius, lengths, strict=True)]
        slabs = functools.reduce(np.multiply.outer, [length.numpy() for _, length in even])
        return slabs, slabs * functools.reduce(np.multiply.outer, [count.numpy() for count, _ in even])

    slabs, works = cuts(
        [np.arange(min(n, 2 * r + max(2 * r, 4)), n + 1, dtype=np.int32) for n, r in zip(shape, radius, strict=True)]
    )
    slab, work = cuts([np.int32(n) for n in planned(shape, radius, 1000, budget)])
    assert 1000 * slab <= budget
    assert work == works[1000 * slabs <= budget].min()


def test_plan_takes_the_whole_where_it_fits():
    assert planned((112, 112, 76), (17, 17, 17), 1000, 2**40) == [112, 112, 76]


def test_plan_with_too_small_a_budget_cuts_as_small_as_is_sensible():
    assert planned((112, 112, 76), (5, 5, 5), 1000, 1) == [20, 20, 20]


def planned(shape, radius, bytes_per_voxel, budget):
    return plan(tf.constant(shape), radius, bytes_per_voxel, tf.constant(budget, tf.int64)).numpy().tolist()
