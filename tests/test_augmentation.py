import numpy as np
import pytest

from tests import scans
from tf_mrsr import recipe
from tf_mrsr.augmentation import augment
from tf_mrsr.cohort import Scan
from tf_mrsr.errors import RecipeError
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


def test_varied_patches_are_degraded_afterwards(tmp_path):
    """The low-resolution patch is the degraded high-resolution patch, whichever variant was drawn."""
    path = scans.save(tmp_path / "a.nii.gz", scans.blobs((24, 24, 24), np.eye(4)))
    small = ["patches.shape=[12,12,12]", "patches.per_volume=8"]
    chosen = recipe.load("sanchez2018_srgan3d_x2_pretrained", small)
    pairs = PatchPairs([Scan(path)], chosen, seed=3)
    low_res, high_res = pairs.batch(0)
    again = PatchPairs([Scan(path)], chosen, seed=3).batch(0)
    plain = recipe.load("sanchez2018_srgan3d_x2_pretrained", [*small, "augmentation=null"])
    assert not np.array_equal(high_res, PatchPairs([Scan(path)], plain, seed=3).batch(0)[1])
    np.testing.assert_array_equal(high_res, again[1])
    np.testing.assert_allclose(low_res[..., 0], chosen.training_degradation().batch(high_res[..., 0]), atol=1e-6)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("patches.degrade=volume", "needs patches.degrade 'patch'"),
        ("patches.shape=[48,48,32]", "cubic patches"),
        ("intensity.kind=standard", "half_max"),
        ("augmentation.gamma=[0,1]", "over 0"),
        ("augmentation.gamma=[2,1]", "in order"),
    ],
)
def test_what_does_not_fit_is_refused(override, words):
    with pytest.raises(RecipeError, match=words):
        recipe.load("sanchez2018_srgan3d_x2_pretrained", [override])
