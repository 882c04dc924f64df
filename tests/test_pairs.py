from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from tests import dicom_series, scans
from tf_mrsr import baselines, recipe
from tf_mrsr.cohort import Scan, find_pairs, find_scans
from tf_mrsr.degradation import BlockAverage
from tf_mrsr.errors import DataError, VolumeError, VolumeWarning
from tf_mrsr.evaluation import prepare_case
from tf_mrsr.geometry import GridMap
from tf_mrsr.pairs import read_pair

THIN = scans.OBLIQUE @ np.diag([1, 1, 0.5, 1])
SHAPE = (20, 18, 24)
BY_THREE = BlockAverage((1, 1, 3))


def pair(tmp_path, thick_affine, thick_data):
    thin = scans.save(tmp_path / "thin.nii.gz", scans.blobs(SHAPE, THIN) + 50, THIN)
    return Scan(thin, scans.save(tmp_path / "thick.nii.gz", thick_data.astype(np.float32), thick_affine))


def read(scan):
    return read_pair(scan, BY_THREE, nan="refuse", axes="stored")


def test_a_thick_scan_on_the_expected_grid_is_taken_as_it_is_but_for_its_scale(tmp_path):
    """What would have been measured on the thin scan's scale: a thick slice has less contrast than thin ones."""
    thick = BY_THREE(scans.blobs(SHAPE, THIN) + 50)
    scan = pair(tmp_path, BY_THREE.grid_map(SHAPE).apply_to_affine(THIN), 7 * thick + 100)
    high_res, low_res = read(scan)
    np.testing.assert_allclose(low_res.data, thick, rtol=1e-4)
    np.testing.assert_allclose(low_res.affine, BY_THREE.grid_map(SHAPE).apply_to_affine(THIN), atol=1e-5)
    assert high_res.shape == SHAPE


def test_a_thick_scan_on_another_grid_is_resampled_in_world_space(tmp_path):
    """A linear function of space, scanned on a grid that is shifted, flipped and longer, is found at its places."""
    shift = GridMap((1, 1, 1), (-1.4, -0.7, -0.6)).apply_to_affine(BY_THREE.grid_map(SHAPE).apply_to_affine(THIN))
    flip = shift @ np.array([[-1, 0, 0, 22], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])
    shape = (23, 20, 10)
    places = nib.affines.apply_affine(flip, np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1))
    scan = pair(tmp_path, flip, places[..., 2] + 500)
    _, low_res = read(scan)
    index = np.stack(np.meshgrid(*map(np.arange, low_res.shape), indexing="ij"), -1)
    z = nib.affines.apply_affine(low_res.affine, index)[..., 2]
    np.testing.assert_allclose(np.corrcoef(low_res.data.ravel(), z.ravel())[0, 1], 1, atol=1e-5)


@pytest.mark.parametrize("order", [(2, 0, 1), (1, 0, 2), (0, 2, 1)])
def test_a_thick_scan_may_be_stored_in_another_order_of_axes(tmp_path, order):
    thick = BY_THREE(scans.blobs(SHAPE, THIN) + 50)
    affine = BY_THREE.grid_map(SHAPE).apply_to_affine(THIN)
    plain = read(pair(tmp_path, affine, thick))
    turned = pair(tmp_path, affine[:, [*order, 3]], thick.transpose(order))
    for found, expected in zip(read(turned), plain, strict=True):
        np.testing.assert_allclose(found.data, expected.data, rtol=1e-5)
        np.testing.assert_allclose(found.affine, expected.affine, atol=1e-5)


@pytest.mark.parametrize("thick_axis", [0, 1, 2])
def test_of_cubes_the_thick_scan_tells_where_the_slices_are(tmp_path, thick_axis):
    """A sagittal or coronal stack beside an isotropic scan, slices last; it must not pass for an axial one."""
    image = scans.blobs((30, 27, 24), np.eye(4)) + 50
    cube = scans.save(tmp_path / "cube.nii", image, np.eye(4))
    degradation = BlockAverage(tuple(3 if axis == thick_axis else 1 for axis in range(3)))
    affine = degradation.grid_map(image.shape).apply_to_affine(np.eye(4))
    stack = scans.save(tmp_path / "stack.nii", degradation(image), affine)
    high_res, low_res = read_pair(Scan(cube, stack), BY_THREE, nan="refuse", axes="slices_last")
    order = [axis for axis in range(3) if axis != thick_axis] + [thick_axis]
    np.testing.assert_array_equal(high_res.data, image.transpose(order))
    np.testing.assert_array_equal(high_res.affine, np.eye(4)[:, [*order, 3]])
    np.testing.assert_allclose(low_res.data, degradation(image).transpose(order), rtol=1e-4)
    np.testing.assert_allclose(low_res.affine, affine[:, [*order, 3]], atol=1e-5)
    chosen = recipe.load("li2017_3dsrcnn_r3")
    mask = np.zeros(image.shape, np.uint8)
    mask[3:20, 4:9, 5:7] = 1
    (tmp_path / "masks").mkdir()
    scans.save(tmp_path / "masks" / "cube.nii", mask, np.eye(4))
    case = prepare_case(Scan(cube, stack), chosen, mask_source=tmp_path / "masks")
    np.testing.assert_array_equal(case.mask, mask.transpose(order) != 0)


def test_where_the_network_range_begins_at_zero_air_stays_zero(tmp_path):
    """As in prediction; of other kinds of intensity an offset does not reach the network."""
    thick = BY_THREE(scans.blobs(SHAPE, THIN) + 50)
    scan = pair(tmp_path, BY_THREE.grid_map(SHAPE).apply_to_affine(THIN), (thick / 100) ** 1.3)
    _, low_res = read_pair(scan, BY_THREE, nan="refuse", axes="stored", intensity_kind="half_max")
    np.testing.assert_allclose(
        low_res.data / (thick / 100) ** 1.3, low_res.data[0, 0, 0] / (thick[0, 0, 0] / 100) ** 1.3, rtol=1e-5
    )
    assert low_res.data.std() == pytest.approx(thick.std(), rel=1e-5)


def test_scans_that_are_turned_far_are_refused(tmp_path):
    turn = np.eye(4)
    turn[:3, :3] -= 2 / 3  # two axes lie closest to the same one
    cube = scans.save(tmp_path / "cube.nii", scans.blobs((24, 24, 24), np.eye(4)) + 50, np.eye(4))
    stack = scans.save(tmp_path / "stack.nii", scans.blobs((24, 24, 8), turn) + 50, turn @ np.diag([1, 1, 3, 1]))
    with pytest.raises(DataError, match="turned by about 45 degrees"):
        read_pair(Scan(cube, stack), BY_THREE, nan="refuse", axes="stored")


def test_scans_too_thin_for_a_programs_degradation_are_refused_by_their_path(tmp_path):
    thin = scans.save(tmp_path / "thin.nii", scans.blobs((24, 24, 2), np.eye(4)) + 50, np.eye(4))
    degradation = recipe.load("sanchez2018_srgan3d_x2_subpixel_code").testing_degradation()
    with pytest.raises(VolumeError, match=r"thin\.nii: 24x24x2 voxels are too few"):
        read_pair(Scan(thin), degradation, nan="refuse", axes="stored")


def test_other_spacing_is_refused(tmp_path):
    affine = GridMap.block_average((1, 1, 2)).apply_to_affine(THIN)
    with pytest.raises(DataError, match=r"thick\.nii\.gz: voxels of 0\.90 x 1\.10 x 2\.00 mm.*asks for .* 3\.00 mm"):
        read(pair(tmp_path, affine, np.random.default_rng(0).uniform(1, 2, (20, 18, 12))))


def test_other_space_is_refused_with_the_overlap(tmp_path):
    affine = GridMap((1, 1, 1), (10, 0, 0)).apply_to_affine(BY_THREE.grid_map(SHAPE).apply_to_affine(THIN))
    with pytest.raises(DataError, match="covers 50% of the space"):
        read(pair(tmp_path, affine, np.random.default_rng(0).uniform(1, 2, (20, 18, 8))))


def test_masks_and_labels_in_a_folder_are_no_scans(tmp_path):
    """As folders of BIDS derivatives hold them beside the scans."""
    for name in ("sub-1_T1w", "sub-1_desc-brain_mask", "sub-1_dseg", "sub-1_label-GM_probseg"):
        scans.save(tmp_path / f"{name}.nii.gz", np.ones((4, 4, 4), np.uint8))
    with pytest.warns(
        VolumeWarning, match=r"3 NIfTI files left out, .* masks or labels \(the first sub-1_desc-brain_mask"
    ):
        assert find_scans([str(tmp_path)]) == [tmp_path / "sub-1_T1w.nii.gz"]
    given = str(tmp_path / "sub-1_dseg.nii.gz")  # by name it is what the user wants
    assert find_scans([given]) == [Path(given)]
    (tmp_path / "sub-1_T1w.nii.gz").unlink()
    with pytest.warns(VolumeWarning), pytest.raises(DataError, match="no NIfTI file"):
        find_scans([str(tmp_path)])
    (tmp_path / "series").mkdir()
    dicom_series.save(tmp_path / "series", dicom_series.slices())
    with pytest.warns(VolumeWarning):
        assert find_scans([str(tmp_path)]) == [tmp_path]


def test_lists_of_pairs(tmp_path):
    for name in ("a.nii", "b.nii"):
        scans.save(tmp_path / name, np.ones((4, 4, 4), np.float32))
    (tmp_path / "pairs.csv").write_text("low_res,high_res,age\na.nii,b.nii,3\n")
    assert find_pairs([tmp_path / "pairs.csv"]) == [Scan(tmp_path / "b.nii", tmp_path / "a.nii")]
    with pytest.raises(DataError, match="where single scans are expected"):
        find_scans([tmp_path / "pairs.csv"])
    (tmp_path / "half.csv").write_text("low_res,high_res\na.nii,\n")
    with pytest.raises(DataError, match=r"row 1 names no NIfTI file .* 'high_res'"):
        find_pairs([tmp_path / "half.csv"])


@pytest.mark.parametrize(
    "header", ["path,path", "path,low_res,high_res", "low_res,high_res,source", "source,target,source"]
)
def test_a_list_that_can_be_read_in_two_ways_is_refused(tmp_path, header):
    (tmp_path / "list.csv").write_text(f"{header}\n{','.join('abcd'[: header.count(',') + 1])}\n")
    with pytest.raises(DataError, match="a column twice, or columns of more than one kind"):
        find_pairs([tmp_path / "list.csv"])


def test_columns_without_a_name_do_not_count(tmp_path):
    """As spreadsheets leave them at the end of every line."""
    scans.save(tmp_path / "a.nii", np.ones((4, 4, 4), np.uint8))
    (tmp_path / "list.csv").write_text("path,,\na.nii,,\n")
    assert find_scans([tmp_path / "list.csv"]) == [tmp_path / "a.nii"]


def test_no_pair_of_a_list_is_lost(tmp_path):
    for name in ("thin.nii", "thick1.nii", "thick2.nii"):
        scans.save(tmp_path / name, np.ones((4, 4, 4), np.float32))
    listed = tmp_path / "pairs.csv"
    listed.write_text("low_res,high_res\nthick1.nii,thin.nii\nthick2.nii,thin.nii\nthick1.nii,thin.nii\n")
    expected = [Scan(tmp_path / "thin.nii", tmp_path / f"thick{i}.nii") for i in (1, 2)]
    assert find_pairs([listed]) == expected
    for sources in ([listed, tmp_path / "thin.nii"], [tmp_path, listed]):
        with pytest.raises(DataError, match=r"thin.nii: is given alone and as one of a pair"):
            find_pairs(sources)
    listed.write_text("low_res,high_res\nthick1.nii,./thick1.nii\n")
    with pytest.raises(DataError, match="row 1 names one file twice"):
        find_pairs([listed])


@pytest.mark.parametrize("find", [find_pairs, find_scans])
def test_an_empty_text_is_not_the_current_folder(find, tmp_path, monkeypatch):
    scans.save(tmp_path / "a.nii", np.ones((4, 4, 4), np.float32))
    monkeypatch.chdir(tmp_path)
    assert len(find(["."])) == 1
    with pytest.raises(DataError, match="an empty text"):
        find([""])


def test_interpolating_a_pair_back_is_better_than_not_aligning_it(tmp_path):
    """The whole way: a thick scan of the same head on a shifted grid, brought to the thin one, then interpolated."""
    shift = GridMap((1, 1, 1), (0, 0, -0.5)).apply_to_affine(BY_THREE.grid_map(SHAPE).apply_to_affine(THIN))
    fine = GridMap((1, 1, 1 / 3), (0, 0, -1 / 3)).apply_to_affine(shift)
    thick = BY_THREE(scans.blobs((20, 18, 27), fine)) + 50
    high_res, low_res = read(pair(tmp_path, shift, thick))
    back = GridMap.block_average((1, 1, 3)).inverse()
    right = baselines.interpolate(low_res.data, back, SHAPE, "linear")
    wrong = baselines.interpolate(thick[..., :8], back, SHAPE, "linear")
    errors = [np.abs(estimate - high_res.data)[..., 4:-4].mean() for estimate in (right, wrong)]
    assert errors[0] < 0.7 * errors[1]


def test_a_scan_without_contrast_where_the_other_one_lies_is_refused(tmp_path):
    affine = BY_THREE.grid_map(SHAPE).apply_to_affine(THIN)
    thick = np.full((24, 18, 8), 7.0)
    thick[22:] = 9  # beyond the thin scan
    with pytest.raises(DataError, match="has a single value where"):
        read(pair(tmp_path, affine, thick))
