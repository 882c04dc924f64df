import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tf_mrsr.errors import GeometryError
from tf_mrsr.geometry import GridMap, check_affine, slices_last, voxel_spacing_mm
from tf_mrsr.volume import Volume

SPACING_5MM = np.diag([1.0, 1.0, 5.0, 1.0])


def test_block_average_puts_the_new_voxel_in_the_middle_of_its_block():
    # Two voxels of 5 mm, centres at 0 and 5, become one of 10 mm with its centre at 2.5.
    affine = GridMap.block_average((1, 1, 2)).apply_to_affine(SPACING_5MM)
    np.testing.assert_array_equal(affine, [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 10, 2.5], [0, 0, 0, 1]])


def test_undoing_a_block_average_by_three_shifts_outwards_by_a_third():
    # A slice of 6 mm centred at 0 becomes three of 2 mm centred at -2, 0 and 2.
    affine = GridMap.block_average((1, 1, 3)).inverse().apply_to_affine(np.diag([1.0, 1.0, 6.0, 1.0]))
    np.testing.assert_allclose(affine @ [0, 0, 0, 1], [0, 0, -2, 1])
    np.testing.assert_allclose(affine @ [0, 0, 2, 1], [0, 0, 2, 1])


def test_decimation_shifts_nothing():
    affine = GridMap.decimation((2, 2, 2)).apply_to_affine(SPACING_5MM)
    np.testing.assert_array_equal(affine, np.diag([2, 2, 10, 1]))


def test_corner_alignment_stretches():
    # 10 voxels to 4: the corners coincide, so the new voxels are 9 / 3 apart.
    assert GridMap.corner_aligned((10, 10, 10), (4, 10, 5)) == GridMap((3, 1, 9 / 4), (0, 0, 0))


triples = st.tuples(*[st.floats(0.1, 8)] * 3)
offsets = st.tuples(*[st.floats(-20, 20)] * 3)


@given(triples, offsets)
def test_inverse_undoes(scale, offset):
    grid_map = GridMap(scale, offset)
    np.testing.assert_allclose(grid_map.matrix() @ grid_map.inverse().matrix(), np.eye(4), atol=1e-9)


@given(triples, offsets, st.integers(0, 2**32 - 1))
def test_law_of_affines(scale, offset, seed):
    """A voxel of the output and the input voxel that the map names are at the same place in mm."""
    rng = np.random.default_rng(seed)
    affine = check_affine(
        np.vstack([np.hstack([_rotation(rng) * rng.uniform(0.3, 6, 3), rng.normal(0, 50, (3, 1))]), [0, 0, 0, 1]])
    )
    grid_map = GridMap(scale, offset)
    index = rng.uniform(-10, 100, 3)
    place = grid_map.apply_to_affine(affine) @ [*index, 1]
    np.testing.assert_allclose(place, affine @ [*(np.array(scale) * index + offset), 1], atol=1e-6)


def _rotation(rng):
    rotation, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    return rotation  # with or without a flip


@pytest.mark.parametrize(
    ("affine", "word"),
    [
        (np.eye(3), "4 x 4"),
        (np.full((4, 4), np.nan), "NaN"),
        (np.diag([1.0, 0, 1, 1]), "singular"),
        (np.array([[1.0, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]), "singular"),
        (np.ones((4, 4)), "last row"),
    ],
)
def test_affines_that_are_none(affine, word):
    with pytest.raises(GeometryError, match=word):
        check_affine(affine)


def test_a_small_spacing_is_not_singular():
    assert voxel_spacing_mm(check_affine(np.diag([1e-3, 1e-3, 1e-3, 1]))) == (1e-3, 1e-3, 1e-3)


@pytest.mark.parametrize(
    ("affine", "order"),
    [
        (np.diag([1.0, 1, 3, 1]), (0, 1, 2)),
        (np.diag([3.0, 1, 1, 1]), (1, 2, 0)),
        (np.diag([-1.0, 1, 1, 1]), (0, 1, 2)),  # cubes: the axis closest to superior-inferior
        (np.array([[0, 0, 1.0, 0], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]]), (2, 0, 1)),
        (np.array([[0, 0, 1.0, 0], [1.02, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]]), (2, 0, 1)),  # 2 % is no thick axis
        (np.array([[0, 1.0, 0, 0], [1, 0, 0, 0], [0, 0, 6, 0], [0, 0, 0, 1]]), (1, 0, 2)),
    ],
)
def test_slices_last(affine, order):
    assert slices_last(affine) == order


@given(st.integers(0, 2**32 - 1), st.lists(st.sampled_from([0.8, 1.0, 3.0]), min_size=3, max_size=3))
def test_reordered_axes_name_the_same_places(seed, spacing):
    rng = np.random.default_rng(seed)
    affine = np.eye(4)
    affine[:3, :3] = _rotation(rng) * spacing
    affine[:3, 3] = rng.normal(0, 50, 3)
    volume = Volume(rng.normal(size=(2, 3, 4)), affine)
    turned = volume.with_axes(slices_last(affine))
    assert slices_last(turned.affine) == (0, 1, 2)
    index = np.array([1, 2, 3])
    moved = index[list(slices_last(affine))]
    assert volume.data[tuple(index)] == turned.data[tuple(moved)]
    np.testing.assert_allclose(turned.affine @ [*moved, 1], affine @ [*index, 1], atol=1e-9)


@pytest.mark.parametrize("arguments", [((0, 1, 1), (0, 0, 0)), ((1, 1), (0, 0, 0)), ((1, 1, 1), (0, np.nan, 0))])
def test_grid_maps_that_are_none(arguments):
    with pytest.raises(GeometryError):
        GridMap(*arguments)
