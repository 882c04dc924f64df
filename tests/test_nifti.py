import gzip
import os
import tracemalloc

import nibabel as nib
import numpy as np
import pytest

from tests import scans
from tf_mrsr import nifti
from tf_mrsr.errors import OutputError, VolumeError
from tf_mrsr.volume import HeaderFacts, Volume, read_volume, write_volume

DATA = np.arange(5 * 6 * 7, dtype=np.float32).reshape(5, 6, 7)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_round_trip(tmp_path, suffix):
    path = tmp_path / f"scan{suffix}"
    write_volume(Volume(DATA, scans.OBLIQUE, HeaderFacts(sform_code=4, qform_code=1)), path)
    volume = read_volume(path)
    np.testing.assert_array_equal(volume.data, DATA)
    np.testing.assert_allclose(volume.affine, scans.OBLIQUE, atol=1e-5)
    assert volume.header == HeaderFacts(4, 1)
    image = nib.load(path)
    assert image.get_data_dtype() == np.float32
    assert image.header.get_xyzt_units()[0] == "mm"
    np.testing.assert_allclose(image.get_qform(), scans.OBLIQUE, atol=1e-4)
    assert os.listdir(tmp_path) == [path.name]


def test_slope_and_intercept_are_applied(tmp_path):
    image = nib.Nifti1Image(DATA.astype(np.int16), np.eye(4))
    image.header.set_slope_inter(0.5, 10)
    nib.save(image, tmp_path / "scan.nii")
    raw = np.asarray(nib.load(tmp_path / "scan.nii").dataobj)
    np.testing.assert_allclose(read_volume(tmp_path / "scan.nii").data, raw)


@pytest.mark.parametrize("dtype", ["u1", "<i2", ">i2", ">f4", "<f8"])
@pytest.mark.parametrize("image_class", [nib.Nifti1Image, nib.Nifti2Image])
def test_types_and_byte_orders(tmp_path, dtype, image_class):
    data = (DATA % 200).astype(dtype)
    header = image_class.header_class(endianness=np.dtype(dtype).byteorder.replace("|", "<"))
    header.set_data_dtype(dtype)
    nib.save(image_class(data, scans.OBLIQUE, header), tmp_path / "scan.nii.gz")
    volume = read_volume(tmp_path / "scan.nii.gz")
    np.testing.assert_array_equal(volume.data, data.astype(np.float32))
    np.testing.assert_allclose(volume.affine, scans.OBLIQUE, atol=1e-5)


def test_single_frame_of_a_series_is_squeezed(tmp_path):
    assert read_volume(scans.save(tmp_path / "scan.nii.gz", DATA[..., None])).shape == DATA.shape


@pytest.mark.parametrize(("unit", "millimetres"), [("meter", 1000), ("mm", 1), ("micron", 0.001), ("unknown", 1)])
def test_units_become_millimetres(tmp_path, unit, millimetres):
    image = nib.Nifti1Image(DATA, np.diag([2.0, 3, 4, 1]))
    image.header.set_xyzt_units(unit)
    nib.save(image, tmp_path / "scan.nii")
    np.testing.assert_allclose(read_volume(tmp_path / "scan.nii").spacing_mm, np.array([2, 3, 4]) * millimetres)


def test_qform_is_used_without_sform_and_its_code_is_kept(tmp_path):
    image = nib.Nifti1Image(DATA, None)
    image.set_sform(None, 0)
    image.set_qform(scans.OBLIQUE, 1)
    nib.save(image, tmp_path / "scan.nii")
    volume = read_volume(tmp_path / "scan.nii")
    np.testing.assert_allclose(volume.affine, scans.OBLIQUE, atol=1e-4)
    assert volume.header == HeaderFacts(1, 1)


def test_a_file_without_orientation_gets_none(tmp_path):
    image = nib.Nifti1Image(DATA, None)
    image.header.set_zooms((2, 3, 4))
    nib.save(image, tmp_path / "scan.nii")
    volume = read_volume(tmp_path / "scan.nii")
    assert volume.header == HeaderFacts(0, 0)
    write_volume(volume, tmp_path / "out.nii")
    assert nib.load(tmp_path / "out.nii").header["sform_code"] == 0


def test_a_small_file_with_something_behind_it(tmp_path):
    path = scans.save(tmp_path / "scan.nii", np.arange(27, dtype=np.uint8).reshape(3, 3, 3))
    path.write_bytes(path.read_bytes() + bytes(400))
    assert read_volume(path).data.max() == 26


def test_a_qform_that_says_something_else_is_not_claimed_for_the_sform(tmp_path):
    image = nib.Nifti1Image(DATA, None)
    image.set_sform(scans.OBLIQUE, 4)
    image.set_qform(np.diag([2.0, 2, 2, 1]), 1)
    nib.save(image, tmp_path / "scan.nii")
    assert read_volume(tmp_path / "scan.nii").header == HeaderFacts(4, 0)


@pytest.mark.parametrize("change", [{"quatern_b": 3.0}, {"pixdim": [2, 1, 1, 1, 0, 0, 0, 0]}])
def test_a_qform_that_cannot_be_read_leaves_the_sform(tmp_path, change):
    image = nib.Nifti1Image(DATA, None)
    image.set_sform(scans.OBLIQUE, 4)
    image.set_qform(scans.OBLIQUE, 1)
    nib.save(image, tmp_path / "good.nii")
    path = tmp_path / "scan.nii"
    path.write_bytes(_header(**change)((tmp_path / "good.nii").read_bytes()))
    volume = read_volume(path)
    assert volume.header == HeaderFacts(4, 0)
    np.testing.assert_allclose(volume.affine, scans.OBLIQUE, atol=1e-5)


@pytest.mark.parametrize("sform_code", [0, 2])
def test_a_qfac_of_zero_stands_for_one(tmp_path, sform_code):
    image = nib.Nifti1Image(DATA, None)
    image.set_sform(np.diag([2.0, 3, 4, 1]), sform_code)
    image.set_qform(np.diag([2.0, 3, 4, 1]), 1)
    nib.save(image, tmp_path / "good.nii")
    path = tmp_path / "scan.nii"
    path.write_bytes(_header(pixdim=[0, 2, 3, 4, 0, 0, 0, 0])((tmp_path / "good.nii").read_bytes()))
    volume = read_volume(path)
    assert volume.header == HeaderFacts(sform_code or 1, 1)
    np.testing.assert_allclose(volume.affine, np.diag([2.0, 3, 4, 1]))


def test_sheared_affine_is_written_without_a_qform(tmp_path):
    sheared = np.eye(4)
    sheared[0, 1] = 0.2
    write_volume(Volume(DATA, sheared), tmp_path / "scan.nii")
    image = nib.load(tmp_path / "scan.nii")
    np.testing.assert_allclose(image.affine, sheared, atol=1e-6)
    assert image.header["qform_code"] == 0


def test_a_little_shear_leaves_the_qform_that_others_need(tmp_path):
    """As of a series whose orientation has three decimals; programs built on ITK refuse a file without a qform."""
    sheared = np.diag([1.0, 1, 2, 1])
    sheared[0, 1] = 5e-4
    write_volume(Volume(np.ones((100, 120, 30), np.float32), sheared, HeaderFacts(1, 1)), tmp_path / "scan.nii")
    for name in ("scan.nii", "again.nii"):
        image = nib.load(tmp_path / name)
        assert image.header["qform_code"] == 1
        np.testing.assert_allclose(image.affine, sheared, atol=1e-6)
        far = [100, 120, 30, 1]
        assert 1e-3 < np.linalg.norm(image.get_qform() @ far - sheared @ far) < 0.1
        if name == "scan.nii":
            write_volume(read_volume(tmp_path / name), tmp_path / "again.nii")
    image.set_qform(sheared + np.eye(4)[:, [3, 0, 1, 2]].T * 0.05, 1)  # a twentieth of a millimetre off
    nib.save(image, tmp_path / "other.nii")
    assert read_volume(tmp_path / "other.nii").header == HeaderFacts(1, 0)


def test_a_replaced_file_keeps_who_may_read_it(tmp_path):
    path = scans.save(tmp_path / "scan.nii", DATA)
    path.chmod(0o600)
    write_volume(Volume(DATA, np.eye(4)), path, overwrite=True)
    assert path.stat().st_mode & 0o777 == 0o600


def test_nothing_private_is_carried_over(tmp_path):
    image = nib.Nifti1Image(DATA, np.eye(4))
    for field, size in (("descrip", 80), ("db_name", 18), ("aux_file", 24), ("intent_name", 16)):
        image.header[field] = b"CanaryName"[:size]
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"CanaryName"))
    nib.save(image, tmp_path / "scan.nii")
    write_volume(read_volume(tmp_path / "scan.nii"), tmp_path / "out.nii")
    assert b"CanaryName" in (tmp_path / "scan.nii").read_bytes()
    assert b"CanaryName" not in (tmp_path / "out.nii").read_bytes()


def test_nan(tmp_path):
    data = DATA.copy()
    data[1, 2, 3], data[0, 0, 0] = np.nan, -np.inf
    path = scans.save(tmp_path / "scan.nii.gz", data)
    with pytest.raises(VolumeError, match=r"scan\.nii\.gz: 2 voxels are NaN.*--nan zero"):
        read_volume(path)
    zeroed = read_volume(path, nan="zero").data
    assert zeroed[1, 2, 3] == zeroed[0, 0, 0] == 0
    assert zeroed[4, 5, 6] == DATA[4, 5, 6]


def _damaged(tmp_path, name, change):
    """The bytes of a good file, changed, under ``name``."""
    good = scans.save(tmp_path / "good.nii", DATA).read_bytes()
    path = tmp_path / name
    path.write_bytes(change(good))
    return path


def _flip(content, position):
    content = bytearray(content)
    content[position] ^= 0x10
    return bytes(content)


def _header(**fields):
    def change(content):
        header = nib.Nifti1Header(content[:348], check=False)
        for name, value in fields.items():
            header[name] = value
        return header.binaryblock + content[348:]

    return change


BAD = {
    "empty.nii": (lambda c: b"", "empty"),
    "text.nii.gz": (lambda c: b"this is no image at all" * 40, "no NIfTI header"),
    "short.nii": (lambda c: c[:100], "no NIfTI header"),
    "truncated.nii": (lambda c: c[:-10], "truncated"),
    "truncated.nii.gz": (lambda c: gzip.compress(c)[:-20], "damaged gzip"),
    "inner.nii.gz": (lambda c: gzip.compress(c[:-10]), "truncated"),
    "flipped.nii.gz": (lambda c: _flip(gzip.compress(c), 200), "damaged gzip"),
    "crc.nii.gz": (lambda c: _flip(gzip.compress(c), -6), "damaged gzip"),
    "trailing.nii.gz": (lambda c: gzip.compress(c + bytes(2**21)), "far more data"),
    "promises.nii": (_header(dim=[3, 1290, 1290, 1290, 1, 1, 1, 1]), "truncated"),
    "promises.nii.gz": (
        lambda c: gzip.compress(_header(dim=[3, 1290, 1290, 1290, 1, 1, 1, 1])(c)),
        "truncated, at most",
    ),
    "absurd.nii": (_header(dim=[3, 32767, 32767, 32767, 1, 1, 1, 1]), "promises"),
    "negative.nii": (_header(dim=[3, -5, 6, 7, 1, 1, 1, 1]), "dimensions"),
    "ndim.nii": (_header(dim=[9, 5, 6, 7, 1, 1, 1, 1]), "dimensions"),
    "flat.nii": (_header(dim=[2, 5, 6, 1, 1, 1, 1, 1]), "dimensions"),
    "series.nii": (_header(dim=[4, 5, 6, 7, 3, 1, 1, 1]), "several volumes"),
    "zero_pixdim.nii": (_header(pixdim=[1, 0, 1, 1, 0, 0, 0, 0]), "pixdim"),
    "nan_pixdim.nii": (_header(pixdim=[1, np.nan, 1, 1, 0, 0, 0, 0]), "pixdim"),
    "rgb.nii": (_header(datatype=128, bitpix=24), "RGB"),
    "complex.nii": (_header(datatype=32, bitpix=64), "complex"),
    "unknown_type.nii": (_header(datatype=9999), "voxel type"),
    "offset.nii": (_header(vox_offset=1e9), "vox_offset"),
    "nan_affine.nii": (_header(srow_x=[np.nan, 0, 0, 0]), "affine"),
    "singular.nii": (_header(srow_x=[0, 0, 0, 0]), "singular"),
    "no_type.nii": (_header(datatype=0), "of no type"),
    "unit.nii": (_header(xyzt_units=5), "unknown unit"),
    "code.nii": (_header(sform_code=99), "unknown sform_code 99"),
    "huge_slope.nii": (_header(scl_slope=1e38), "beyond float32"),
    "pair.nii": (_header(magic=b"ni1"), "single-file"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_refused_by_name_with_the_fault(tmp_path, name):
    change, word = BAD[name]
    path = _damaged(tmp_path, name, change)
    with pytest.raises(VolumeError, match=word) as caught:
        read_volume(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_header_that_promises_too_much_takes_no_memory(tmp_path):
    path = _damaged(tmp_path, "scan.nii", _header(dim=[3, 1290, 1290, 1290, 1, 1, 1, 1]))
    tracemalloc.start()
    with pytest.raises(VolumeError):
        read_volume(path)
    assert tracemalloc.get_traced_memory()[1] < 2**24
    tracemalloc.stop()


def test_a_scan_that_is_too_large_for_the_memory_is_named(tmp_path, monkeypatch):
    def exhaust(*_, **__):
        raise MemoryError

    path = scans.save(tmp_path / "scan.nii", DATA)
    monkeypatch.setattr(nifti, "read", exhaust)
    with pytest.raises(VolumeError, match=r"scan\.nii: too large for the memory that is free"):
        read_volume(path)


def test_a_link_to_nothing_is_called_that(tmp_path):
    path = tmp_path / "scan.nii.gz"
    path.symlink_to(tmp_path / "annex")
    with pytest.raises(VolumeError, match=r"scan\.nii\.gz: a link to a file that is not there; fetch"):
        read_volume(path)


def test_a_good_file_passes_the_same_way(tmp_path):
    np.testing.assert_array_equal(read_volume(_damaged(tmp_path, "same.nii", lambda c: c)).data, DATA)


def test_output_is_protected(tmp_path):
    path = tmp_path / "out.nii.gz"
    volume = Volume(DATA, np.eye(4))
    write_volume(volume, path)
    with pytest.raises(OutputError, match="--overwrite"):
        write_volume(volume, path)
    write_volume(volume, path, overwrite=True)
    with pytest.raises(OutputError, match="must end in"):
        write_volume(volume, tmp_path / "out.mgz")
    with pytest.raises(OutputError, match="does not exist"):
        write_volume(volume, tmp_path / "nowhere" / "out.nii")


def test_odd_units_of_time_do_not_hide_that_of_length(tmp_path):
    image = nib.Nifti1Image(scans.blobs((9, 8, 7), np.eye(4)) + 1, np.diag([2, 2, 2, 1]))
    image.header["xyzt_units"] = 2 | 64
    image.to_filename(tmp_path / "scan.nii")
    np.testing.assert_allclose(read_volume(tmp_path / "scan.nii").spacing_mm, (2, 2, 2))
    image.header["xyzt_units"] = 7
    image.to_filename(tmp_path / "scan.nii")
    with pytest.raises(VolumeError, match="unknown unit of length"):
        read_volume(tmp_path / "scan.nii")
