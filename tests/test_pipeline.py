import threading

import numpy as np
import pytest
import tensorflow as tf

from tests import scans
from tf_mrsr import recipe
from tf_mrsr.cohort import Scan
from tf_mrsr.degradation import GaussianDecimation
from tf_mrsr.errors import DataError, VolumeError
from tf_mrsr.pipeline import PatchPairs

SHAPE = (24, 22, 20)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cohort")
    return [Scan(scans.save(folder / f"sub-{i}.nii.gz", scans.blobs(SHAPE, np.eye(4), seed=i) + 1)) for i in range(3)]


def grid_recipe(*overrides):
    return recipe.load("sanchez2018_srgan3d_x2_resize", ["patches.shape=[12,12,8]", "patches.step=[8,8,8]", *overrides])


def random_recipe(*overrides):
    return recipe.load(
        "sanchez2018_srgan3d_x2_quick", ["patches.shape=[8,8,8]", "patches.per_volume=10", "batch_size=5", *overrides]
    )


def test_pairs_are_cut_from_whole_volumes_at_the_same_place(cohort):
    pairs = PatchPairs(cohort[:1], grid_recipe("patches.shuffle=false"), seed=0)
    image = scans.blobs(SHAPE, np.eye(4), seed=0) + 1
    low = GaussianDecimation((2, 2, 2))(image)
    half = low.max() / 2
    low_res, high_res = pairs.batch(0)
    assert low_res.shape == (2, 6, 6, 4, 1)
    assert high_res.shape == (2, 12, 12, 8, 1)
    # Origins along z: 0, 8, 12; the batch holds the first two.
    np.testing.assert_allclose(high_res[1, ..., 0], image[:12, :12, 8:16] / half - 1, atol=1e-5)
    np.testing.assert_allclose(low_res[1, ..., 0], low[:6, :6, 4:8] / half - 1, atol=1e-5)


def test_the_programs_order_is_patch_measure_degrade(cohort):
    overrides = ["patches.shape=[12,12,8]", "patches.step=[8,8,8]"]
    twin = recipe.load("sanchez2018_srgan3d_x2_resize_code", overrides)
    low_res, high_res = PatchPairs(cohort, twin, seed=0).batch(1)
    np.testing.assert_allclose(high_res.max(axis=(1, 2, 3, 4)), 1, atol=1e-6)  # each patch by its own maximum
    expected = twin.training_degradation().batch(high_res[..., 0])
    np.testing.assert_allclose(low_res[..., 0], expected, atol=1e-6)


def test_whole_axes_are_as_long_as_the_shortest_scan(cohort, tmp_path):
    short = Scan(scans.save(tmp_path / "short.nii.gz", scans.blobs((24, 22, 16), np.eye(4)) + 1))
    chosen = recipe.load("li2017_3dsrcnn_r3", ["patches.shape=[12,12,0]", "patches.step=[12,12,0]", "batch_size=1"])
    pairs = PatchPairs([*cohort, short], chosen, seed=0)
    assert pairs.patch_shape == (12, 12, 15)
    low_res, high_res = pairs.batch(0)
    assert (low_res.shape, high_res.shape) == ((1, 12, 12, 5, 1), (1, 12, 12, 15, 1))
    # Two by two in plane; along the slices 15 of 20 take two patches, of 16 one.
    assert pairs.steps_per_epoch == 4 * (2 + 2 + 2 + 1)


def test_an_epoch_has_every_patch_once(cohort):
    pairs = PatchPairs(cohort, grid_recipe("batch_size=1"), seed=3)
    first, second = (
        [pairs.batch(step)[1].tobytes() for step in range(e * pairs.steps_per_epoch, (e + 1) * pairs.steps_per_epoch)]
        for e in (0, 1)
    )
    assert len(set(first)) == len(first) == pairs.steps_per_epoch == 3 * 3 * 3 * 3
    assert set(first) == set(second)
    assert first != second


def test_in_order_what_does_not_fill_a_batch_has_its_turn(cohort):
    """Of 81 patches in batches of 4 an epoch takes 80; the next one begins with the one that is left."""
    pairs = PatchPairs(cohort, grid_recipe("patches.shuffle=false", "batch_size=4"), seed=0)
    whole = PatchPairs(cohort, grid_recipe("patches.shuffle=false", "batch_size=1"), seed=0)
    assert (pairs.steps_per_epoch, whole.steps_per_epoch) == (20, 81)
    for step, patches in ((0, (0, 1, 2, 3)), (19, (76, 77, 78, 79)), (20, (80, 0, 1, 2)), (21, (3, 4, 5, 6))):
        expected = np.concatenate([whole.batch(patch)[1] for patch in patches])
        np.testing.assert_array_equal(pairs.batch(step)[1], expected)


@pytest.mark.parametrize("make", [grid_recipe, random_recipe])
def test_batches_depend_on_seed_and_step_alone(cohort, make):
    one, other = PatchPairs(cohort, make(), seed=5), PatchPairs(cohort, make(), seed=5)
    for step in (7, 0, 3):
        for a, b in zip(one.batch(step), other.batch(step), strict=True):
            np.testing.assert_array_equal(a, b)
    different = PatchPairs(cohort, make(), seed=6)
    assert any(not np.array_equal(one.batch(s)[0], different.batch(s)[0]) for s in range(3))


def test_random_patches_are_new_in_every_epoch(cohort):
    pairs = PatchPairs(cohort, random_recipe(), seed=0)
    epochs = [
        {pairs.batch(e * pairs.steps_per_epoch + s)[1].tobytes() for s in range(pairs.steps_per_epoch)} for e in (0, 1)
    ]
    assert not epochs[0] & epochs[1]


def test_dataset_goes_on_where_it_is_told(cohort):
    pairs = PatchPairs(cohort, grid_recipe(), seed=1)
    whole = [low.numpy() for low, _ in pairs.dataset(0, 9)]
    rest = [low.numpy() for low, _ in pairs.dataset(4, 9)]
    np.testing.assert_array_equal(whole[4:], rest)
    np.testing.assert_array_equal(whole[2], pairs.batch(2)[0])


def test_a_cache_too_small_for_the_cohort_changes_no_patch(cohort):
    recipe_ = grid_recipe("batch_size=1")
    ample, tight = PatchPairs(cohort, recipe_, seed=0), PatchPairs(cohort, recipe_, seed=0, cache_bytes=60_000)
    for step in range(0, ample.steps_per_epoch, 10):
        np.testing.assert_array_equal(ample.batch(step)[0], tight.batch(step)[0])
    assert sum(pair.nbytes for pair in tight._cache.values()) <= 60_000 < sum(p.nbytes for p in ample._cache.values())


def test_batches_from_many_threads(cohort):
    pairs = PatchPairs(cohort, grid_recipe(), seed=0, cache_bytes=60_000)
    expected = [pairs.batch(step)[1] for step in range(8)]
    results = [None] * 8
    threads = [threading.Thread(target=lambda s=s: results.__setitem__(s, pairs.batch(s)[1])) for s in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    np.testing.assert_array_equal(results, expected)


def test_bad_scans(cohort, tmp_path):
    broken = tmp_path / "broken.nii.gz"
    broken.write_bytes(cohort[0].high_res.read_bytes()[:500])
    broken = Scan(broken)
    flat = Scan(scans.save(tmp_path / "flat.nii.gz", np.full(SHAPE, 3, np.float32)))
    small = scans.save(tmp_path / "small.nii.gz", np.ones((4, 4, 4), np.float32) + np.arange(4, dtype=np.float32))
    small = Scan(small)
    with pytest.raises(VolumeError, match=r"broken\.nii\.gz"):
        PatchPairs([cohort[0], broken], grid_recipe(), seed=0)
    errors = []
    pairs = PatchPairs([broken, cohort[0], flat, small], grid_recipe(), seed=0, on_bad_scan=errors.append)
    assert pairs.scans == [cohort[0]]
    assert [word in str(e) for word, e in zip(("damaged", "all voxels", "smaller patch"), errors, strict=True)] == [
        True
    ] * 3
    with pytest.raises(DataError, match="none of the scans"):
        PatchPairs([broken], grid_recipe(), seed=0, on_bad_scan=errors.append)
    with pytest.raises(DataError, match="lower batch_size"):
        PatchPairs(cohort[:1], grid_recipe("batch_size=500"), seed=0)


def test_a_scan_that_goes_bad_during_training_is_reported_as_itself(tmp_path):
    path = scans.save(tmp_path / "a.nii.gz", scans.blobs(SHAPE, np.eye(4)) + 1)
    other = scans.save(tmp_path / "b.nii.gz", scans.blobs(SHAPE, np.eye(4), seed=1) + 1)
    pairs = PatchPairs(
        [Scan(path), Scan(other)], grid_recipe("batch_size=1", "patches.shuffle=false"), seed=0, cache_bytes=1
    )
    path.write_bytes(b"gone bad")
    with pytest.raises(tf.errors.OpError):
        list(pairs.dataset(0, 3))
    assert isinstance(pairs.error, VolumeError)
    assert "a.nii.gz" in str(pairs.error)


def test_a_scan_that_is_replaced_by_one_of_another_size_during_training(tmp_path):
    path = scans.save(tmp_path / "a.nii.gz", scans.blobs(SHAPE, np.eye(4)) + 1)
    other = scans.save(tmp_path / "b.nii.gz", scans.blobs(SHAPE, np.eye(4), seed=1) + 1)
    pairs = PatchPairs([Scan(path), Scan(other)], grid_recipe("patches.shuffle=false"), seed=0, cache_bytes=1)
    scans.save(path, scans.blobs((20, 22, 20), np.eye(4)) + 1)
    with pytest.raises(DataError, match=r"a\.nii\.gz: has 20x22x20 voxels now and had 24x22x20"):
        pairs.batch(0)


def test_a_scan_with_too_few_slices_for_a_whole_axis(tmp_path):
    thin = Scan(scans.save(tmp_path / "thin.nii.gz", scans.blobs((24, 22, 5), np.eye(4)) + 1))
    chosen = recipe.load("li2017_3dsrcnn_r3", ["patches.shape=[12,12,0]", "patches.step=[12,12,0]"])
    with pytest.raises(DataError, match=r"thin\.nii\.gz.*fewer than a patch of 12x12x6"):
        PatchPairs([thin], chosen, seed=0)
