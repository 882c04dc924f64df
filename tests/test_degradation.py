import numpy as np
import pytest
from scipy import ndimage

from tests import golden, scans
from tf_mrsr import baselines
from tf_mrsr.degradation import KINDS, BlockAverage, GaussianDecimation, GaussianZoom, SliceProfile
from tf_mrsr.errors import RecipeError
from tf_mrsr.geometry import GridMap

RAMP = np.arange(8.0).reshape(1, 1, 8) * np.ones((4, 4, 1))


def test_block_average_of_a_ramp():
    low = BlockAverage((2, 2, 4))(RAMP)
    np.testing.assert_allclose(low[0, 0], [1.5, 5.5])
    assert low.shape == (2, 2, 2)


def test_a_last_block_that_is_not_full_repeats_its_last_voxel():
    low = BlockAverage((1, 1, 3))(RAMP)
    np.testing.assert_allclose(low[0, 0], [1, 4, (6 + 7 + 7) / 3])


def test_box_profile_as_thick_as_the_factor_is_the_block_average():
    data = np.random.default_rng(0).normal(size=(4, 5, 12))
    np.testing.assert_allclose(SliceProfile((1, 1, 3), thickness=3)(data), BlockAverage((1, 1, 3))(data), atol=1e-12)


def test_box_profile_with_a_gap_leaves_voxels_out():
    # Slices 2 voxels thick every 4: the middle two of each four.
    low = SliceProfile((1, 1, 4), thickness=2)(RAMP)
    np.testing.assert_allclose(low[0, 0], [1.5, 5.5])
    impulse = np.zeros((1, 1, 8))
    impulse[0, 0, 0] = 1
    assert not SliceProfile((1, 1, 4), thickness=2)(impulse).any()


def test_gaussian_profile_has_its_full_width_at_half_maximum():
    weights = SliceProfile((1, 1, 50), thickness=20, profile="gaussian").operator(101, 2)[1]  # centred on 74.5
    assert weights[65:85].sum() == pytest.approx(0.7610, abs=1e-3)  # 76.1 % of a Gaussian within its FWHM
    assert weights[84] / weights.max() == pytest.approx(0.5, abs=0.05)


def test_gaussian_decimation_is_scipys_filter_and_every_second_voxel():
    data = np.random.default_rng(1).normal(size=(13, 10, 9))
    expected = ndimage.gaussian_filter(data, 1.0)[::2, ::2, ::2]
    np.testing.assert_allclose(GaussianDecimation((2, 2, 2))(data), expected, atol=1e-12)


@pytest.mark.parametrize("order", [0, 3])
def test_gaussian_zoom_is_scipys_filter_and_zoom(order):
    data = np.random.default_rng(2).normal(size=(16, 12, 20))
    expected = ndimage.zoom(ndimage.gaussian_filter(data, 1.0), 0.5, order=order, prefilter=False)
    np.testing.assert_allclose(GaussianZoom((2, 2, 2), order=order)(data), expected, atol=1e-12)


def test_single_precision_stays_single_and_close():
    data = np.random.default_rng(3).normal(size=(16, 16, 16)).astype(np.float32)
    low = GaussianDecimation((2, 2, 2))(data)
    assert low.dtype == np.float32
    np.testing.assert_allclose(low, GaussianDecimation((2, 2, 2))(data.astype(np.float64)), atol=1e-5)


EXAMPLES = [
    GaussianDecimation((2, 2, 2)),
    GaussianDecimation((4, 4, 4)),
    GaussianZoom((2, 2, 2), order=3),
    BlockAverage((2, 2, 2)),
    BlockAverage((1, 3, 1)),
    SliceProfile((1, 1, 3), thickness=2.5),
    SliceProfile((3, 1, 1), thickness=3, profile="gaussian"),
]


@pytest.mark.parametrize("degradation", EXAMPLES, ids=str)
def test_every_weight_row_sums_to_one(degradation):
    for axis, size in enumerate((16, 18, 21)):
        np.testing.assert_allclose(degradation.operator(size, axis).sum(axis=1), 1, atol=1e-9)


@pytest.mark.parametrize("degradation", EXAMPLES, ids=str)
@pytest.mark.parametrize("shape", [(34, 31, 29), (27, 36, 32)])
def test_a_linear_function_of_space_stays_at_its_place(degradation, shape):
    """Far from the border, value = place in mm before and after, so the grid map is right to a hundredth of a mm."""
    grid_map = degradation.grid_map(shape)
    low_shape = degradation.low_shape(shape)
    far = _far_from_border(grid_map, low_shape, shape)
    assert far.any()
    for world_axis in range(3):
        low = degradation(_coordinate(shape, scans.OBLIQUE, world_axis))
        expected = _coordinate(low_shape, grid_map.apply_to_affine(scans.OBLIQUE), world_axis)
        np.testing.assert_allclose(low[far], expected[far], atol=0.01)


def _far_from_border(grid_map, low_shape, high_shape, margin=7):
    inside = [
        (scale * np.arange(m) + offset >= margin) & (scale * np.arange(m) + offset <= n - 1 - margin)
        for scale, offset, m, n in zip(grid_map.scale, grid_map.offset, low_shape, high_shape, strict=True)
    ]
    return inside[0][:, None, None] & inside[1][None, :, None] & inside[2][None, None, :]


@pytest.mark.parametrize("degradation", EXAMPLES, ids=str)
def test_interpolating_back_finds_a_smooth_image_in_world_space(degradation):
    """A smooth function of space, degraded, then interpolated through the inverse grid map, agrees in world space."""
    shape = (37, 42, 45)
    image = scans.blobs(shape, scans.OBLIQUE)
    low = degradation(image)
    back = baselines.interpolate(low, degradation.grid_map(shape).inverse(), shape, "linear")
    right = np.abs(back - image)[6:-6, 6:-6, 6:-6].mean()
    # The same with every voxel half a low-resolution voxel off is much worse, so the agreement says something.
    off = GridMap(
        degradation.grid_map(shape).inverse().scale,
        tuple(o + 0.5 for o in degradation.grid_map(shape).inverse().offset),
    )
    wrong = np.abs(baselines.interpolate(low, off, shape, "linear") - image)[6:-6, 6:-6, 6:-6].mean()
    assert right < 0.03 * image.max()
    assert right < 0.6 * wrong


def _coordinate(shape, affine, world_axis):
    index = np.stack([*np.meshgrid(*map(np.arange, shape), indexing="ij"), np.ones(shape)], axis=-1)
    return (index @ affine.T)[..., world_axis]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("factors", ["without effect", (0, 2, 2), (2, 2), (2.5, 2, 2)])
def test_factors_that_are_none(kind, factors):
    if factors == "without effect":
        factors = (1, 1, 2) if kind in ("other_contrast", "matched_slices") else (1, 1, 1)
    with pytest.raises(RecipeError, match="factors"):
        KINDS[kind](factors)


@golden.needs_golden
class TestAgainstTheProgram:
    """Numbers of the sanchez2018 program, in double precision."""

    def raw(self):
        shape = (2, 16, 12, 20)
        return np.maximum(0, 100 + 300 * golden.volume(shape, np.float64))

    def normalised(self):
        return np.stack([p / (p.max() / 2) - 1 for p in self.raw()])

    @pytest.mark.parametrize("factor", [2, 4])
    def test_training(self, factor):
        degradation = GaussianZoom((factor,) * 3, order=0, blur_across_batch=True)
        expected = np.load(golden.GOLDEN / "data" / f"deg_train_x{factor}.npy")[..., 0]
        np.testing.assert_allclose(degradation.batch(self.normalised()), expected, atol=1e-12)

    @pytest.mark.parametrize("factor", [2, 4])
    def test_testing(self, factor):
        degradation = GaussianZoom((factor,) * 3, order=3)
        expected = np.load(golden.GOLDEN / "data" / f"deg_eval_x{factor}.npy")[..., 0]
        np.testing.assert_allclose(degradation(self.normalised()[0]), expected, atol=1e-12)

    def test_normalisation(self):
        expected = np.load(golden.GOLDEN / "data" / "deg_normalised.npy")[..., 0]
        np.testing.assert_allclose(self.normalised(), expected, atol=1e-12)

    def test_nearest_voxels_that_zoom_takes(self):
        table = golden.case("data")["degradation"]["order0_sample_index"]
        for key, indices in table.items():
            size, factor = map(int, key.split("/"))
            operator = GaussianZoom((factor,) * 3, sigma=1e-9, order=0).operator(size, 0)
            np.testing.assert_array_equal(operator.argmax(axis=1), indices)
