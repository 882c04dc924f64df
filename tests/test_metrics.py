import numpy as np
import pytest
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from tests import golden
from tf_mrsr import baselines, metrics
from tf_mrsr.errors import DataError
from tf_mrsr.geometry import GridMap

RNG = np.random.default_rng(0)
TRUTH = RNG.uniform(0, 100, (12, 11, 10)).astype(np.float32)
ESTIMATE = TRUTH + RNG.normal(0, 5, TRUTH.shape).astype(np.float32)


def test_by_hand():
    truth, estimate = np.array([0.0, 10, 20]), np.array([1.0, 10, 18])
    assert metrics.mse(truth, estimate) == pytest.approx(5 / 3)
    assert metrics.mae(truth, estimate) == pytest.approx(1)
    assert metrics.psnr(truth, estimate, 20) == pytest.approx(10 * np.log10(400 / (5 / 3)))
    assert metrics.psnr(truth, truth, 20) == np.inf


def test_mean_over_rows_by_hand():
    truth = np.zeros((3, 2))  # three columns, two rows
    assert metrics.mse_over_rows(truth, truth + 2) == 6 * 4 / 2


@golden.needs_golden
def test_errors_of_the_narcomey2018_program():
    for model, measure in (("data_m1", metrics.mse_over_rows), ("data_m2", metrics.mse)):
        for size, recorded in zip((6, 10), golden.case(model, golden.NARCOMEY)["mse"], strict=True):
            channels = 1 if model == "data_m1" else 3
            estimate = golden.volume((size, size, channels))
            truth = golden.volume2((size, size, channels), np.float64)
            assert measure(truth, estimate) == pytest.approx(recorded["mse"], rel=1e-6)
            assert metrics.mse(truth, estimate) == pytest.approx(recorded["plain_mean_squared_error"], rel=1e-6)


def test_against_scikit_image():
    data_range = float(TRUTH.max() - TRUTH.min())
    everywhere = np.ones(TRUTH.shape, bool)
    values = metrics.PROTOCOLS["masked"].compare(TRUTH, ESTIMATE, everywhere)
    assert values["psnr"] == pytest.approx(peak_signal_noise_ratio(TRUTH, ESTIMATE, data_range=data_range))
    full = structural_similarity(TRUTH, ESTIMATE, data_range=data_range, full=True)[1]
    assert values["ssim"] == pytest.approx(full.mean(), rel=1e-5)


def test_masked_looks_inside_only():
    mask = np.zeros(TRUTH.shape, bool)
    mask[3:8, 3:8, 3:8] = True
    spoiled = np.where(mask, ESTIMATE, 1e6).astype(np.float32)
    for name in ("psnr", "mae", "mse"):
        inside = metrics.PROTOCOLS["masked"].compare(TRUTH, ESTIMATE, mask)[name]
        assert metrics.PROTOCOLS["masked"].compare(TRUTH, spoiled, mask)[name] == inside


def test_sanchez2018_protocol_by_hand():
    truth, estimate = np.zeros((8, 8, 8), np.float32), np.zeros((8, 8, 8), np.float32)
    truth[0, 0, 0], estimate[0, 0, 0], estimate[7, 7, 7] = 10, 6, 40
    mask = np.ones(truth.shape, bool)
    mask[7, 7, 7] = False  # does not count, but widens the range to 40
    values = metrics.PROTOCOLS["sanchez2018"].compare(truth, estimate, mask)
    assert values["mse"] == pytest.approx(16 / 512)
    assert values["psnr"] == pytest.approx(10 * np.log10(1600 / (16 / 512)))


def test_li2017_protocol_by_hand():
    """On 0 ... 255 whatever the scan's own scale."""
    truth = np.linspace(100, 300, 512).reshape(8, 8, 8).astype(np.float32)
    values = metrics.PROTOCOLS["li2017"].compare(truth, truth + 20, np.zeros(truth.shape, bool))
    assert values["mse"] == pytest.approx((20 * 255 / 200) ** 2, rel=1e-5)
    assert values["psnr"] == pytest.approx(20 * np.log10(10), rel=1e-5)


def test_the_peak_of_taloma2020_is_the_largest_voxel_of_both():
    truth = np.zeros((8, 8, 8), np.float32)
    truth[::2] = 10  # mean 5, standard deviation 5
    estimate = truth.copy()
    estimate[0, 0, 0] = 20  # 3 standard deviations above the mean, 2 above the truth
    values = metrics.PROTOCOLS["taloma2020_peak"].compare(truth, estimate, np.ones(truth.shape, bool))
    assert values["mse"] == pytest.approx(4 / 512)
    assert values["psnr"] == pytest.approx(10 * np.log10(3**2 / (4 / 512)))
    plain = metrics.PROTOCOLS["taloma2020"].compare(truth, estimate, np.ones(truth.shape, bool))
    assert plain["psnr"] == pytest.approx(10 * np.log10(2**2 / (4 / 512)))
    assert {**values, "psnr": 0} == {**plain, "psnr": 0}
    assert metrics.PROTOCOLS["taloma2020_peak"].compare(truth, truth, truth > 0)["psnr"] == float("inf")


@pytest.mark.parametrize("planes", [7, 24, 25, 27, 30, 49])
def test_ssim_by_slabs_is_that_of_the_whole(planes):
    rng = np.random.default_rng(planes)
    truth, noise = rng.normal(size=(2, planes, 9, 10)).astype(np.float32)
    mask = rng.random(truth.shape) > 0.5
    pair = [data.astype(np.float64) for data in (truth, truth + noise)]
    mean, similarity = structural_similarity(*pair, data_range=5, full=True)
    assert metrics.ssim(truth, truth + noise, 5) == pytest.approx(mean, rel=1e-12)
    assert metrics.ssim(truth, truth + noise, 5, mask) == pytest.approx(similarity[mask].mean(), rel=1e-12)


@pytest.mark.parametrize("protocol", ["masked", "sanchez2018", "li2017", "taloma2020", "taloma2020_peak"])
def test_extreme_scales_overflow_nowhere(protocol):
    values = [
        metrics.PROTOCOLS[protocol].compare(TRUTH * s, ESTIMATE * s, np.ones(TRUTH.shape, bool))
        for s in (np.float32(1), np.float32(1e36), np.float32(1e-30))
    ]
    for name in ("psnr", "ssim"):
        assert values[0][name] == pytest.approx(values[1][name], rel=1e-4) == pytest.approx(values[2][name], rel=1e-4)


@golden.needs_golden
@pytest.mark.parametrize("number", [0, 1])
def test_sanchez2018_protocol_against_the_program(number):
    """The program's own scores of two volumes that formulae give."""
    case = golden.case("data")["metrics"][number]
    first, second = (f(case["shape"], np.float64)[..., 0] for f in (golden.volume, golden.volume2))
    truth = np.maximum(0, 100 + 300 * first)
    estimate = np.maximum(0, 90 + 290 * (0.9 * first + 0.1 * second)) - 20
    values = metrics.PROTOCOLS["sanchez2018"].compare(truth, estimate, second > -0.5)
    assert values["psnr"] == pytest.approx(case["psnr"], rel=1e-6)
    assert values["ssim"] == pytest.approx(case["ssim"], rel=1e-6)


def test_foreground_of_a_stripped_scan_is_what_is_not_zero_with_holes_filled():
    data = np.zeros((20, 20, 20), np.float32)
    data[4:16, 4:16, 4:16] = 50
    data[9, 9, 9] = 0
    data[0, 0, 0] = 50
    mask = metrics.foreground_mask(data)
    assert mask.sum() == 12**3
    assert mask[9, 9, 9]


def test_foreground_of_a_scan_with_noise_around_the_head():
    data = RNG.uniform(1, 10, (20, 20, 20)).astype(np.float32)
    data[4:16, 4:16, 4:16] += 100
    assert metrics.foreground_mask(data).sum() == 12**3


def test_constant_truth_has_no_range():
    with pytest.raises(DataError, match="constant"):
        metrics.PROTOCOLS["masked"].compare(np.ones((8, 8, 8)), np.ones((8, 8, 8)), np.ones((8, 8, 8), bool))


@pytest.mark.parametrize("method", baselines.ORDERS)
def test_interpolation_at_the_voxels_themselves_returns_them(method):
    np.testing.assert_allclose(baselines.interpolate(TRUTH, GridMap.identity(), TRUTH.shape, method), TRUTH, atol=1e-3)


def test_linear_interpolation_by_hand():
    data = np.array([0.0, 10, 20, 30], np.float32).reshape(1, 1, 4)
    doubled = baselines.interpolate(data, GridMap.block_average((1, 1, 2)).inverse(), (1, 1, 8), "linear")
    np.testing.assert_allclose(doubled[0, 0], [0, 2.5, 7.5, 12.5, 17.5, 22.5, 27.5, 30])
    decimated = baselines.interpolate(data, GridMap.decimation((1, 1, 2)).inverse(), (1, 1, 8), "linear")
    np.testing.assert_allclose(decimated[0, 0], [0, 5, 10, 15, 20, 25, 30, 30])


def test_cubic_spline_reproduces_a_cubic_polynomial():
    place = np.arange(40.0)
    data = (0.001 * place**3 - 0.05 * place**2 + place).astype(np.float32).reshape(1, 1, 40)
    doubled = baselines.interpolate(data, GridMap.decimation((1, 1, 2)).inverse(), (1, 1, 80), "cubic")
    fine = np.arange(80) / 2
    expected = 0.001 * fine**3 - 0.05 * fine**2 + fine
    np.testing.assert_allclose(doubled[0, 0, 20:60], expected[20:60], atol=1e-3)


def test_slices_are_measured_one_by_one():
    rng = np.random.default_rng(0)
    truth = rng.uniform(10, 500, (12, 9, 4)).astype(np.float32)
    estimate = truth + rng.normal(0, 20, truth.shape).astype(np.float32)
    data_range, nowhere = float(np.ptp(truth)), np.zeros(truth.shape, bool)
    scores = {n: metrics.PROTOCOLS[f"narcomey2018_model{n}"].compare(truth, estimate, nowhere) for n in (1, 2)}
    of_slices = [structural_similarity(truth[..., i], estimate[..., i], data_range=data_range) for i in range(4)]
    error = np.square(truth.astype(np.float64) - estimate).mean()
    assert scores[1]["ssim"] == scores[2]["ssim"] == pytest.approx(np.mean(of_slices), rel=1e-5)
    assert (scores[1]["mse"], scores[2]["mse"]) == pytest.approx((12 * error, error), rel=1e-6)
    assert scores[1]["psnr"] == pytest.approx(10 * np.log10(data_range**2 / error), rel=1e-6)
    with pytest.raises(DataError, match=r"7 pixels or more along both axes of a slice, got \(6, 9\)"):
        metrics.PROTOCOLS["narcomey2018_model1"].compare(truth[:6], estimate[:6], nowhere[:6])
