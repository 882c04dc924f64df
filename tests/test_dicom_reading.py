"""DICOM series become volumes: values, places, kinds of files, and choosing among series."""

import warnings
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    JPEGLSNearLossless,
    MediaStorageDirectoryStorage,
    RLELossless,
    SecondaryCaptureImageStorage,
    generate_uid,
)

from tests import dicom_series as made
from tf_mrsr import recipe, run_folder
from tf_mrsr.cohort import Scan, find_scans
from tf_mrsr.dicom import reading
from tf_mrsr.errors import DataError, VolumeError, VolumeWarning
from tf_mrsr.evaluation import prepare_case
from tf_mrsr.geometry import GridMap
from tf_mrsr.volume import read_volume


def check(volume, data, affine=made.AFFINE):
    np.testing.assert_array_equal(volume.data, data)
    np.testing.assert_allclose(volume.affine, affine, atol=1e-6)


SYNTAXES = {
    "implicit": ImplicitVRLittleEndian,
    "big endian": ExplicitVRBigEndian,
    "deflated": DeflatedExplicitVRLittleEndian,
    "RLE": RLELossless,
    "JPEG 2000": JPEG2000Lossless,
    "JPEG-LS": JPEGLSLossless,
}
NEEDS = {JPEG2000Lossless: "openjpeg", JPEGLSLossless: "jpeg_ls", JPEGLSNearLossless: "jpeg_ls"}


def skip_without_codec(syntax):
    if syntax in NEEDS:
        pytest.importorskip(NEEDS[syntax], reason="the codecs extra is not installed")


def test_slices_are_put_where_they_belong(tmp_path):
    data = made.voxels()
    volume = read_volume(made.save(tmp_path, made.slices(data)))
    check(volume, data)
    assert volume.data.dtype == np.float32
    assert (volume.header.sform_code, volume.header.qform_code) == (1, 1)


@pytest.mark.parametrize("flip", [(-1, 1, 1), (1, -1, 1), (1, 1, -1)])
def test_the_order_of_places_follows_the_normal(tmp_path, flip):
    """Whichever way the files run, index 2 runs along row x column, and every voxel keeps its place."""
    affine, data = made.AFFINE @ np.diag([*flip, 1]), made.voxels()
    volume = read_volume(made.save(tmp_path, made.slices(data, affine)))
    assert np.linalg.det(volume.affine) > 0
    index = [3, 4, 5, 1]
    place = nib.affines.apply_affine(np.linalg.inv(volume.affine), (affine @ index)[:3])
    assert volume.data[tuple(np.rint(place).astype(int))] == data[3, 4, 5]
    np.testing.assert_allclose(place, np.rint(place), atol=1e-5)


@pytest.mark.parametrize("name", SYNTAXES)
def test_transfer_syntaxes(tmp_path, name):
    skip_without_codec(SYNTAXES[name])
    data = made.voxels()
    check(read_volume(made.save(tmp_path, made.slices(data), SYNTAXES[name])), data)


@pytest.mark.parametrize("name", ["deflated", "RLE", "JPEG 2000", "JPEG-LS"])
def test_enhanced_files(tmp_path, name):
    """Slope 2 and intercept k of every frame stand in the functional groups."""
    skip_without_codec(SYNTAXES[name])
    data = made.voxels()
    made.save(tmp_path, [made.enhanced(data)], SYNTAXES[name])
    expected = 2 * data + np.arange(data.shape[2])
    check(read_volume(tmp_path), expected)
    check(read_volume(tmp_path / "IM000"), expected)


@pytest.mark.parametrize("name", ["implicit", "RLE", "JPEG 2000", "JPEG-LS"])
def test_signed_values(tmp_path, name):
    skip_without_codec(SYNTAXES[name])
    data = made.voxels() - 200
    check(read_volume(made.save(tmp_path, made.slices(data, signed=True), SYNTAXES[name])), data)


def test_near_lossless_is_marked_as_lossy(tmp_path):
    skip_without_codec(JPEGLSNearLossless)
    data = made.voxels()
    volume = read_volume(made.save(tmp_path, made.slices(data), JPEGLSNearLossless, jls_error=2))
    difference = np.abs(volume.data - data).max()
    assert 0 < difference <= 2
    assert volume.source.header.LossyImageCompression == "01"


def test_slope_and_intercept_of_every_slice(tmp_path):
    data = made.voxels()
    datasets = made.slices(data, ct=True)
    for k, dataset in enumerate(datasets):
        dataset.RescaleSlope, dataset.RescaleIntercept = f"{1 + k / 4}", f"{-1000 + k}"
    check(read_volume(made.save(tmp_path, datasets)), data * (1 + np.arange(10) / 4) - 1000 + np.arange(10))


def test_overlays_in_unused_bits_are_cut_off(tmp_path):
    data = made.voxels()
    check(read_volume(made.save(tmp_path, made.slices(data + 0x8000))), data)


def test_eight_bits(tmp_path):
    data = made.voxels() % 200
    datasets = made.slices(data)
    for k, dataset in enumerate(datasets):
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 8, 8, 7
        dataset.PixelData = data[:, :, k].T.astype("u1").tobytes()
    check(read_volume(made.save(tmp_path, datasets)), data)


def test_what_others_put_where_siemens_counts_slices_is_no_mosaic(tmp_path):
    datasets = made.slices()
    for dataset in datasets:
        del dataset[0x0019, 0x0010]
        dataset.private_block(0x0019, "PHILIPS MR/PART", create=True).add_new(0x0A, "US", 1)
        assert (0x0019, 0x100A) in dataset
    check(read_volume(made.save(tmp_path / "in", datasets)), made.voxels())


def test_a_folder_may_hold_anything_else(tmp_path):
    data = made.voxels()
    made.save(tmp_path / "export" / "b", made.slices(data))
    localizer = made.slices(data[:, :, :3])
    for dataset in localizer:
        dataset.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    made.save(tmp_path / "export" / "a", localizer)
    planes = made.slices(data[:, :, :1]) + made.slices(data[:, :, :1], made.AFFINE[:, [1, 2, 0, 3]])
    for dataset in planes:
        dataset.SeriesInstanceUID = planes[0].SeriesInstanceUID
    made.save(tmp_path / "export" / "c", planes)
    picture = made.slices(data[:, :, :1])
    picture[0].SOPClassUID = SecondaryCaptureImageStorage
    made.save(tmp_path / "export" / "d", picture)
    report = Dataset()
    report.SOPClassUID, report.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.88.11", generate_uid()
    made.save(tmp_path / "report", [report])
    directory = Dataset()
    directory.SOPClassUID, directory.SOPInstanceUID = MediaStorageDirectoryStorage, generate_uid()
    directory.DirectoryRecordSequence = [Dataset()]
    (made.save(tmp_path / "disc", [directory]) / "IM000").rename(tmp_path / "DICOMDIR")
    (tmp_path / "notes.txt").write_text("nothing")
    (tmp_path / ".hidden.dcm").write_text("nothing")
    made.save(tmp_path / ".series.old", made.slices(data + 1))
    check(read_volume(tmp_path), data)
    assert find_scans([tmp_path / "export" / "b"]) == [tmp_path / "export" / "b"]


def test_empty_files_beside_a_series_are_told(tmp_path):
    """What a copy onto a full disk leaves; a slice at the end of the stack would be missed by nobody."""
    made.save(tmp_path / "in", made.slices())
    (tmp_path / "in" / "IM999").touch()
    with pytest.warns(VolumeWarning, match=r"in: 1 empty file left out, the first IM999; if slices"):
        check(read_volume(tmp_path / "in"), made.voxels())


def test_a_file_that_cannot_be_read_is_no_slice_less(tmp_path, monkeypatch):
    made.save(tmp_path / "in", made.slices())
    open_, closed = Path.open, max((tmp_path / "in").iterdir())

    def open_but_one(path, *arguments, **options):
        if path == closed:
            raise PermissionError(13, "Permission denied")
        return open_(path, *arguments, **options)

    monkeypatch.setattr(Path, "open", open_but_one)
    for scan, said in ((tmp_path / "in", tmp_path / "in"), (closed, tmp_path / "in")):
        with pytest.raises(VolumeError, match=rf"^{said}: {closed.name} cannot be read \(Permission denied\)"):
            read_volume(scan)
    with pytest.raises(VolumeError, match="cannot be read"):
        find_scans([str(closed)])


def test_positions_rounded_to_hundredths(tmp_path):
    """Thin slices along an oblique normal have distances that differ by more than 1 %."""
    affine = made.AFFINE @ np.diag([1, 1, 0.2, 1])
    datasets = made.slices(affine=affine)
    for dataset in datasets:
        dataset.ImagePositionPatient = [f"{float(v):.2f}" for v in dataset.ImagePositionPatient]
    volume = read_volume(made.save(tmp_path / "in", datasets))
    np.testing.assert_allclose(volume.affine, affine, atol=0.006)
    positions = np.array([dataset.ImagePositionPatient for dataset in datasets], float)
    distances = np.linalg.norm(np.diff(positions, axis=0), axis=1)
    assert np.abs(distances / np.median(distances) - 1).max() > 0.01


def test_what_can_be_no_volume_needs_no_choice(tmp_path):
    """Colour maps and pictures of one place, as scanners export them beside the scan."""
    made.save(tmp_path / "t1", made.slices())
    for name in ("colour", "one place"):
        datasets = made.slices()
        uid = generate_uid()
        for dataset in datasets:
            dataset.SeriesInstanceUID = uid
            if name == "colour":
                dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 3, "RGB"
            else:
                dataset.ImagePositionPatient = datasets[0].ImagePositionPatient
        made.save(tmp_path / name, datasets)
    check(read_volume(tmp_path), made.voxels())


def test_series_are_listed_and_chosen(tmp_path):
    first, second = made.slices(), made.slices(made.voxels() + 1)
    made.save(tmp_path / "a", first)
    made.save(tmp_path / "b", second)
    with pytest.raises(VolumeError, match="holds 2 series; choose one with --series-uid") as caught:
        read_volume(tmp_path)
    assert first[0].SeriesInstanceUID in str(caught.value)
    check(read_volume(tmp_path, series_uid=second[0].SeriesInstanceUID), made.voxels() + 1)
    with pytest.raises(VolumeError, match=r"no series 1\.2\.3 in it"):
        read_volume(tmp_path, series_uid="1.2.3")
    lines = reading.list_series(tmp_path)
    assert len(lines) == 2
    assert "36 x 34 x 10, 0.9 x 1.1 x 2 mm  T1 axial" in lines[0]
    assert made.CANARY not in "".join(lines)


def test_identical_copies_are_dropped_with_a_warning(tmp_path):
    data = made.voxels()
    datasets = made.slices(data)
    made.save(tmp_path / "a", datasets)
    made.save(tmp_path / "b", datasets[3:5])
    with pytest.warns(VolumeWarning, match="2 slices are there twice"):
        check(read_volume(tmp_path), data)


def padded(*, signed=False, ct=False, stored, **stated):
    """A series with a corner of ``stored`` padding in each slice, its values elsewhere, and where the corner is."""
    data = made.voxels() + (1024 if ct else 5)
    corner = np.zeros(data.shape, bool)
    corner[:6, :9] = True
    data[corner] = np.resize(stored, np.count_nonzero(corner))
    datasets = made.slices(data, signed=signed, ct=ct)
    for dataset in datasets:
        for keyword, (representation, value) in stated.items():
            dataset.add_new(keyword, representation, value)
    return datasets, data, corner


@pytest.mark.parametrize(
    ("signed", "stored", "stated"),
    [
        (True, [-2000], {"PixelPaddingValue": ("SS", -2000)}),
        (True, [-2000], {"PixelPaddingValue": ("US", 63536)}),
        (False, [63536], {"PixelPaddingValue": ("US", 63536)}),
        (False, [63536], {"PixelPaddingValue": ("SS", -2000)}),
        (False, [65535, 65530], {"PixelPaddingValue": ("US", 65535), "PixelPaddingRangeLimit": ("US", 65529)}),
        (True, [-9, -5], {"PixelPaddingValue": ("SS", -9), "PixelPaddingRangeLimit": ("SS", -5)}),
    ],
)
def test_padding_is_no_intensity(tmp_path, signed, stored, stated):
    """As files state it, rightly and wrongly: 0 in MR; twice the same slice stays the same slice."""
    datasets, data, corner = padded(signed=signed, stored=stored, **stated)
    made.save(tmp_path / "a", datasets)
    made.save(tmp_path / "b", datasets[2:3])
    with pytest.warns(VolumeWarning) as caught:
        volume = read_volume(tmp_path)
    check(volume, np.where(corner, 0, data))
    assert "1 slices are there twice" in str(caught[0].message)
    assert f"{np.count_nonzero(corner)} voxels are padding" in str(caught[1].message)
    assert "read as intensity 0" in str(caught[1].message)


def test_padding_of_ct_is_the_lowest_of_the_others(tmp_path):
    datasets, data, corner = padded(signed=True, ct=True, stored=[-2000], PixelPaddingValue=("SS", -2000))
    with pytest.warns(VolumeWarning, match="read as the lowest intensity of the others"):
        volume = read_volume(made.save(tmp_path, datasets))
    check(volume, np.where(corner, data[~corner].min(), data) - 1024)


def test_padding_of_no_intensity_is_left(tmp_path):
    """MR whose background is 0 and called padding needs no change, and so no warning."""
    datasets, data, _ = padded(stored=[0], PixelPaddingValue=("US", 0))
    made.save(tmp_path, datasets)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check(read_volume(tmp_path), data)


def test_folders_of_scans_and_folders_of_series(tmp_path):
    """Sub-folders of one study are one scan; sub-folders of several studies are several."""
    for person in ("p1", "p2"):
        datasets = [made.slices(), made.slices()]
        for number, series in enumerate(datasets):
            for dataset in series:
                dataset.StudyInstanceUID = datasets[0][0].StudyInstanceUID
            made.save(tmp_path / person / f"series{number}", series)
    assert find_scans([tmp_path]) == [tmp_path / "p1", tmp_path / "p2"]
    assert find_scans([tmp_path / "p1"]) == [tmp_path / "p1"]
    (tmp_path / "list.csv").write_text("path\np1/series1\n")
    assert find_scans([tmp_path / "list.csv"]) == [tmp_path / "p1" / "series1"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"no NIfTI file .* and no DICOM"):
        find_scans([tmp_path / "empty"])


def test_hidden_folders_and_links_among_scans(tmp_path):
    """As DataLad leaves them: what was not fetched is a scan that cannot be read."""
    made.save(tmp_path / "p1", made.slices())
    made.save(tmp_path / ".git" / "annex", made.slices())
    made.save(tmp_path / ".series.old", made.slices())
    assert find_scans([tmp_path]) == [tmp_path]
    (tmp_path / "p2").mkdir()
    (tmp_path / "p2" / "IM1.dcm").symlink_to(tmp_path / ".git" / "annex" / "lost")
    made.save(tmp_path / "p3", made.slices())
    assert find_scans([tmp_path]) == [tmp_path / name for name in ("p1", "p2", "p3")]
    with pytest.raises(VolumeError, match=r"p2: IM1\.dcm is a link to a file that is not there"):
        read_volume(tmp_path / "p2")
    (tmp_path / "unfetched").mkdir()
    (tmp_path / "unfetched" / "IM1").symlink_to(tmp_path / "lost")
    with pytest.raises(DataError, match=r"IM1: a link to a file that is not there"):
        find_scans([tmp_path / "unfetched"])


def test_training_and_evaluation_read_series(tmp_path):
    folder = made.save(tmp_path / "sub-1.t1", made.slices(made.voxels((36, 34, 24))))
    case = prepare_case(Scan(folder), recipe.load("sanchez2018_srgan3d_x2_quick"), mask_source="none")
    assert case.name == "sub-1.t1"
    np.testing.assert_array_equal(case.truth.data, read_volume(folder).data)
    assert case.low_res.shape == (18, 17, 12)
    before = run_folder.fingerprint([Scan(folder)])
    (folder / ".DS_Store").write_bytes(b"left by a file manager")
    assert run_folder.fingerprint([Scan(folder)]) == before
    (folder / "IM000").write_bytes(b"")
    assert run_folder.fingerprint([Scan(folder)]) != before


def test_grid_maps_keep_the_source(tmp_path):
    volume = read_volume(made.save(tmp_path, made.slices()))
    finer = volume.resampled(volume.data, GridMap.identity()).with_axes((0, 1, 2))
    assert finer.source is volume.source
