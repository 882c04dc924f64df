import numpy as np
import pytest

from tests import scans
from tf_mrsr import recipe
from tf_mrsr.augmentation import augment, degrade
from tf_mrsr.cohort import Scan
from tf_mrsr.degradation import GaussianDecimation
from tf_mrsr.errors import RecipeError
from tf_mrsr.inference import models
from tf_mrsr.pipeline import PatchPairs

CUBE = np.arange(27, dtype=np.float32).reshape(3, 3, 3)


def _variants(count, **options):
    return [augment(CUBE, np.random.default_rng(i), **options) for i in range(count)]


def test_nothing_asked_nothing_done():
    assert augment(CUBE, np.random.default_rng(0)) is CUBE


@pytest.mark.parametrize(
    ("options", "count"), [({"flips": True}, 8), ({"turns": True}, 6), ({"flips": True, "turns": True}, 48)]
)
def test_all_symmetries_are_drawn_and_nothing_else(options, count):
    drawn = {variant.tobytes() for variant in _variants(1000, **options)}
    assert len(drawn) == count
    assert all(sorted(np.frombuffer(variant, np.float32)) == list(range(27)) for variant in drawn)


def test_gamma_keeps_zero_and_maximum_and_the_order():
    ramp = np.linspace(-1, 1, 8, dtype=np.float32).reshape(2, 2, 2)
    for seed in range(20):
        varied = augment(ramp, np.random.default_rng(seed), gamma=(0.5, 2)).ravel()
        assert (varied[0], varied[-1]) == (-1, 1)
        assert np.all(np.diff(varied) > 0)
        half = 0.5 * (varied[4] + 1)
        assert (4 / 7) ** 2 <= half <= (4 / 7) ** 0.5


def test_scale_keeps_zero():
    drawn = [augment(np.array([-1.0, 0, 1]), np.random.default_rng(seed), scale=(0.4, 1)) for seed in range(20)]
    for black, grey, white in drawn:
        assert black == -1
        assert 0.4 <= (white + 1) / 2 <= 1
        np.testing.assert_allclose(grey + 1, (white + 1) / 2)
    assert len({white for *_, white in drawn}) == 20


def test_blurs_are_drawn_between_the_bounds():
    """The variance that a blur adds to a single bright voxel is the square of its sigma."""
    point = np.zeros((33, 33, 33))
    point[16, 16, 16] = 1
    places = np.arange(33) - 16
    drawn = set()
    for seed in range(20):
        blurred = degrade(point, GaussianDecimation((1, 1, 2)), np.random.default_rng(seed), sigma=(0.8, 1.6))
        profile = blurred.sum(axis=(1, 2))
        sigma = np.sqrt((profile * places**2).sum() / profile.sum())
        assert 0.78 < sigma < 1.61
        drawn.add(round(sigma, 6))
    assert len(drawn) == 20


def test_noise_is_that_of_a_magnitude_image():
    """In the air its mean is sigma sqrt(pi / 2), its mean square 2 sigma squared (Gudbjartsson, Patz 1995)."""
    air = np.full((40, 40, 40), -1.0)
    noisy = (degrade(air, GaussianDecimation((1, 1, 2)), np.random.default_rng(0), noise=(0.02, 0.02)) + 1) / 2
    assert noisy.min() >= 0
    np.testing.assert_allclose(noisy.mean(), 0.02 * np.sqrt(np.pi / 2), rtol=0.01)
    np.testing.assert_allclose(np.mean(noisy**2), 2 * 0.02**2, rtol=0.02)
    clean = degrade(air, GaussianDecimation((1, 1, 2)), np.random.default_rng(0), noise=(0, 0))
    np.testing.assert_allclose(clean, air[..., ::2])


def test_varied_patches_are_degraded_afterwards(tmp_path):
    """The low-resolution patch is the degraded high-resolution patch, whichever variant was drawn."""
    path = scans.save(tmp_path / "a.nii.gz", scans.blobs((24, 24, 24), np.eye(4)))
    fixed = ["augmentation.sigma=null", "augmentation.noise=null"]
    small = ["patches.shape=[12,12,12]", "patches.per_volume=8", *fixed]
    chosen = recipe.load("sanchez2018_srgan3d_x2_robust_pretrained", small)
    pairs = PatchPairs([Scan(path)], chosen, seed=3)
    low_res, high_res = pairs.batch(0)
    again = PatchPairs([Scan(path)], chosen, seed=3).batch(0)
    plain = recipe.load("sanchez2018_srgan3d_x2_robust_pretrained", [*small, "augmentation=null"])
    assert not np.array_equal(high_res, PatchPairs([Scan(path)], plain, seed=3).batch(0)[1])
    np.testing.assert_array_equal(high_res, again[1])
    np.testing.assert_allclose(low_res[..., 0], chosen.training_degradation().batch(high_res[..., 0]), atol=1e-6)


def test_degradations_vary_from_patch_to_patch_and_are_drawn_again_alike(tmp_path):
    path = scans.save(tmp_path / "a.nii.gz", scans.blobs((24, 24, 24), np.eye(4)))
    small = ["patches.shape=[12,12,12]", "patches.per_volume=8"]
    chosen = recipe.load("sanchez2018_srgan3d_x2_robust_pretrained", small)
    low_res, high_res = PatchPairs([Scan(path)], chosen, seed=3).batch(0)
    fixed = recipe.load("sanchez2018_srgan3d_x2_robust_pretrained", [*small, "augmentation.sigma=null"])
    np.testing.assert_array_equal(PatchPairs([Scan(path)], fixed, seed=3).batch(0)[1], high_res)
    sharp = chosen.training_degradation().batch(high_res[..., 0])
    assert all(not np.allclose(own, plain, atol=1e-3) for own, plain in zip(low_res[..., 0], sharp, strict=True))
    np.testing.assert_array_equal(PatchPairs([Scan(path)], chosen, seed=3).batch(0)[0], low_res)


@pytest.mark.parametrize(
    ("name", "kind", "place"),
    [
        ("sanchez2018_srgan3d_x2_robust_pretrained", "block_average", "on high-resolution voxel r j"),
        ("sanchez2018_srgan3d_x2_robust_pretrained", "gaussian_zoom", "on high-resolution voxel r j"),
        ("li2017_3dsrcnn_r3_pretrained", "gaussian_decimation", "in the middle of its voxels"),
    ],
)
def test_a_residual_needs_voxels_that_lie_where_it_takes_them_from(name, kind, place):
    """The interpolation inside the network would be shifted by a part of a voxel."""
    chosen = recipe.load(name, [f"degradation={{kind: {kind}, factor: 2}}", "augmentation=null"])
    with pytest.raises(RecipeError, match=f"needs low-resolution voxel j {place}"):
        models.build_generator(chosen)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("patches.degrade=volume", "needs patches.degrade 'patch'"),
        ("patches.shape=[48,48,32]", "cubic patches"),
        ("intensity.kind=standard", "half_max"),
        ("augmentation.gamma=[0,1]", "over 0"),
        ("augmentation.gamma=[2,1]", "in order"),
        ("augmentation.sigma=[1,200]", "sigma must be over 0 and up to 100 voxels, got 200"),
        ("augmentation.sigma=[0,1]", "sigma must be two finite numbers over 0"),
        ("augmentation.noise=[0,1]", "from 0 to under 1"),
        ("degradation={kind: block_average, factor: 2}", "needs degradation.kind 'gaussian_decimation'"),
    ],
)
def test_what_does_not_fit_is_refused(override, words):
    with pytest.raises(RecipeError, match=words):
        recipe.load("sanchez2018_srgan3d_x2_robust_pretrained", [override])
