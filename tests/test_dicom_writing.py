"""Derived series: what they hold, what they do not, and that other readers see the same voxels at the same places."""

import contextlib
import datetime
import os
import shutil
import struct
import subprocess
import zipfile
from dataclasses import replace
from pathlib import Path

import keras
import nibabel as nib
import numpy as np
import pytest
from pydicom import dcmread
from pydicom.datadict import tag_for_keyword
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage, EnhancedCTImageStorage, MRImageStorage

from tests import dicom_series as made
from tests import scans
from tests.golden import SHARED
from tf_mrsr import predict, recipe
from tf_mrsr.dicom.writing import choose_scale
from tf_mrsr.errors import OutputError, VolumeError
from tf_mrsr.geometry import GridMap
from tf_mrsr.inference import models
from tf_mrsr.inference.super_resolver import SuperResolver
from tf_mrsr.volume import Derivation, Volume, read_volume, write_volume

DERIVATION = Derivation("some_recipe")
REAL = SHARED / "data" / "dicom" / "sag_mprage_96.zip"


def read_slices(folder):
    return [dcmread(path) for path in sorted(folder.iterdir())]


def finer(volume, factor=2):
    """Every voxel repeated: what a network does to the grid, without one."""
    data = volume.data
    for axis in range(3):
        data = np.repeat(data, factor, axis)
    return volume.resampled(data, GridMap.decimation((factor,) * 3).inverse())


def first_derived(tmp_path, **values):
    """The first slice derived from a series all of whose slices state ``values``."""
    datasets = made.slices()
    for dataset in datasets:
        for keyword, value in values.items():
            setattr(dataset, keyword, value)
    write_volume(read_volume(made.save(tmp_path / "in", datasets)), tmp_path / "out", derivation=DERIVATION)
    return read_slices(tmp_path / "out")[0]


@pytest.fixture
def source(tmp_path):
    return made.save(tmp_path / "source", made.slices())


def test_round_trip(source, tmp_path):
    volume = finer(read_volume(source))
    write_volume(volume, tmp_path / "out", derivation=DERIVATION)
    result = read_volume(tmp_path / "out")
    np.testing.assert_array_equal(result.data, volume.data)
    corners = np.array([[x, y, z, 1] for x in (0, 71) for y in (0, 67) for z in (0, 19)]).T
    np.testing.assert_allclose(result.affine @ corners, volume.affine @ corners, atol=1e-6)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "source"]


def test_what_a_derived_slice_states(source, tmp_path):
    write_volume(finer(read_volume(source)), tmp_path / "out", derivation=DERIVATION)
    old, new = read_slices(source), read_slices(tmp_path / "out")
    first = new[0]
    assert [str(d.InstanceNumber) for d in new] == [str(n + 1) for n in range(20)]
    assert len({d.SOPInstanceUID for d in new} | {d.SOPInstanceUID for d in old}) == 30
    assert len({d.SeriesInstanceUID for d in new}) == 1
    assert first.SeriesInstanceUID != old[0].SeriesInstanceUID
    assert first.file_meta.MediaStorageSOPInstanceUID == first.SOPInstanceUID
    assert first.ImageType == ["DERIVED", "SECONDARY", "M", "NORM"]
    assert first.SOPClassUID == MRImageStorage
    assert (first.Rows, first.Columns) == (68, 72)
    np.testing.assert_allclose(first.PixelSpacing, [0.55, 0.45])
    assert float(first.SpacingBetweenSlices) == pytest.approx(1)
    assert float(first.SliceThickness) == pytest.approx(0.9)  # the source's 1.8 mm of 2 mm
    for keyword in ("PatientName", "PatientID", "PatientBirthDate", "StudyInstanceUID", "StudyDate", "AccessionNumber"):
        assert first[keyword] == old[0][keyword]
    for keyword in ("FrameOfReferenceUID", "PatientPosition", "EchoTime", "RepetitionTime", "ScanningSequence"):
        assert first[keyword] == old[0][keyword]
    assert "recipe some_recipe" in first.DerivationDescription
    assert "2 x 2 x 2 times" in first.DerivationDescription
    assert [item.CodeMeaning for item in first.DerivationCodeSequence] == ["Spatial resampling"]
    assert first.SeriesNumber == old[0].SeriesNumber + 1000
    referenced = {item.ReferencedSOPInstanceUID for item in first.SourceImageSequence}
    assert referenced == {d.SOPInstanceUID for d in old}
    assert [item.Manufacturer for item in first.ContributingEquipmentSequence] == ["Scanners", "tf_mrsr"]
    for keyword in (
        *("RescaleSlope", "RescaleIntercept", "SmallestImagePixelValue", "LargestImagePixelValue"),
        *("RealWorldValueMappingSequence", "PatientComments", "ImageComments"),
    ):
        assert keyword not in first
    assert not any(element.tag.is_private or element.tag.group == 0x6000 for element in first.iterall())


def test_lossy_compression_stays_stated(tmp_path):
    first = first_derived(tmp_path, LossyImageCompression="01", LossyImageCompressionRatio="8")
    assert (first.LossyImageCompression, first.LossyImageCompressionRatio) == ("01", 8)


def test_synthesis_claims_no_measurement(source, tmp_path):
    write_volume(read_volume(source), tmp_path / "out", derivation=Derivation("some_recipe", "synthesised"))
    first = read_slices(tmp_path / "out")[0]
    assert first.EchoTime is None
    assert first.RepetitionTime is None
    assert (first.ScanningSequence, first.SequenceVariant) == ("RM", "NONE")
    assert first.ImageType == ["DERIVED", "SECONDARY", "OTHER"]
    assert "synthesised by a network, on the same grid." in first.DerivationDescription
    assert "DerivationCodeSequence" not in first  # nothing was resampled


@pytest.mark.parametrize(("work", "kept"), [("super-resolved", True), ("synthesised", False), ("processed", False)])
def test_the_display_window_is_the_sources_where_its_intensities_are(tmp_path, work, kept):
    datasets = made.slices()
    for dataset in datasets:
        dataset.WindowCenter, dataset.WindowWidth = "100", "50"
    volume = read_volume(made.save(tmp_path / "in", datasets))
    brighter = replace(volume, data=volume.data * 50)
    write_volume(brighter, tmp_path / "out", derivation=Derivation("some_recipe", work))
    first = read_slices(tmp_path / "out")[0]
    assert f"{work} by a network" in first.DerivationDescription
    if kept:
        assert (first.WindowCenter, first.WindowWidth) == (100, 50)
    else:
        assert first.WindowWidth > 0.5 * (brighter.data.max() - brighter.data.min())


@pytest.mark.parametrize("keyword", ["ImageType", "WindowCenter", "SeriesNumber", "InstanceNumber", "EchoTime"])
def test_a_damaged_element_is_refused_in_one_line_or_left_out(tmp_path, keyword):
    """One of a value representation that does not exist; pydicom finds out when it is asked for its value."""
    datasets = made.slices()
    for dataset in datasets:
        dataset.WindowCenter, dataset.WindowWidth = "40", "80"
    made.save(tmp_path / "in", datasets)
    for path in (tmp_path / "in").iterdir():
        content = path.read_bytes()
        tag = tag_for_keyword(keyword)
        element = struct.pack("<HH", tag >> 16, tag & 0xFFFF)
        place = content.index(element, 132) + 4
        path.write_bytes(content[:place] + b"ZZ" + content[place + 2 :])
    with contextlib.suppress(VolumeError):
        write_volume(finer(read_volume(tmp_path / "in")), tmp_path / "out", derivation=DERIVATION)
        assert len(read_slices(tmp_path / "out")) == 20


def test_dates_and_times_are_of_the_time_zone_that_is_stated(tmp_path):
    datasets = made.slices()
    for dataset in datasets:
        dataset.TimezoneOffsetFromUTC = "+1345"
    write_volume(read_volume(made.save(tmp_path / "in", datasets)), tmp_path / "out", derivation=DERIVATION)
    first = read_slices(tmp_path / "out")[0]
    stated = datetime.datetime.strptime(f"{first.SeriesDate}{first.SeriesTime}+1345", "%Y%m%d%H%M%S%z")
    assert abs((datetime.datetime.now(datetime.timezone.utc) - stated).total_seconds()) < 600
    assert first.TimezoneOffsetFromUTC == "+1345"


def test_a_window_or_thickness_that_is_none_is_not_handed_on(tmp_path):
    datasets = made.slices()
    for dataset in datasets:
        dataset.SliceThickness = "-1.8"
        dataset.WindowCenter, dataset.WindowWidth = "40", "80"
    made.save(tmp_path / "in", datasets)
    for path in (tmp_path / "in").iterdir():
        path.write_bytes(
            path.read_bytes().replace(
                struct.pack("<HH2sH2s", 0x28, 0x1051, b"DS", 2, b"80"),
                struct.pack("<HH2sH4s", 0x28, 0x1051, b"DS", 4, b"inf "),
            )
        )
    write_volume(finer(read_volume(tmp_path / "in")), tmp_path / "out", derivation=DERIVATION)
    first = read_slices(tmp_path / "out")[0]
    assert np.isfinite(float(first.WindowWidth))
    assert float(first.SliceThickness) == pytest.approx(1)  # the distance of the finer slices


def test_series_numbers_stay_within_integer_strings(tmp_path):
    datasets = made.slices()
    for dataset in datasets:
        dataset.SeriesNumber = str(2**31 - 5)
    write_volume(read_volume(made.save(tmp_path / "in", datasets)), tmp_path / "out", derivation=DERIVATION)
    assert read_slices(tmp_path / "out")[0].SeriesNumber == 2**31 - 1


def test_damaged_timing_of_an_enhanced_source_is_left_out(tmp_path):
    dataset = made.enhanced()
    timing = dataset.SharedFunctionalGroupsSequence[0].MRTimingAndRelatedParametersSequence[0]
    timing["RepetitionTime"] = RawDataElement(timing["RepetitionTime"].tag, "DS", 4, b"abc ", 0, False, True)
    del dataset.RepetitionTime
    volume = read_volume(made.save(tmp_path / "in", [dataset]))
    write_volume(volume, tmp_path / "out", derivation=DERIVATION)
    first = read_slices(tmp_path / "out")[0]
    assert first.RepetitionTime is None
    assert first.EchoTime == 2.5


def test_numbers_of_single_precision_fit_into_decimal_strings(tmp_path):
    dataset = made.enhanced()
    shared = dataset.SharedFunctionalGroupsSequence[0]
    shared.MREchoSequence[0].EffectiveEchoTime = float(np.float32(2.52))
    shared.MRTimingAndRelatedParametersSequence[0].FlipAngle = float(np.float32(9.1))
    shared.MRTimingAndRelatedParametersSequence[0].EchoTrainLength = 7
    del dataset.EchoTime
    write_volume(read_volume(made.save(tmp_path / "in", [dataset])), tmp_path / "out", derivation=DERIVATION)
    first = read_slices(tmp_path / "out")[0]
    assert (first.EchoTime, first.FlipAngle) == (pytest.approx(2.52, abs=1e-6), pytest.approx(9.1, abs=1e-6))
    assert max(len(str(first[name].value)) for name in ("EchoTime", "FlipAngle")) <= 16
    assert first.EchoTrainLength == 7


def test_the_side_of_the_body_stays_stated(tmp_path):
    first = first_derived(tmp_path, ImageLaterality="L", AcquisitionDateTime="20200304101112")
    assert (first.ImageLaterality, first.AcquisitionDateTime) == ("L", "20200304101112")
    dataset, anatomy, region = made.enhanced(), Dataset(), Dataset()
    region.CodeValue, region.CodingSchemeDesignator, region.CodeMeaning = "72696002", "SCT", "Knee"
    anatomy.FrameLaterality, anatomy.AnatomicRegionSequence = "R", [region]
    dataset.SharedFunctionalGroupsSequence[0].FrameAnatomySequence = [anatomy]
    write_volume(read_volume(made.save(tmp_path / "in2", [dataset])), tmp_path / "out2", derivation=DERIVATION)
    first = read_slices(tmp_path / "out2")[0]
    assert (first.ImageLaterality, first.AnatomicRegionSequence[0].CodeMeaning) == ("R", "Knee")


def test_text_of_another_kind_of_text_is_not_lost(tmp_path):
    """Explicit files of some archives have SH in place of LO."""
    datasets = made.slices()
    for dataset in datasets:
        dataset["PatientID"] = DataElement(dataset["PatientID"].tag, "SH", "ID7")
    write_volume(read_volume(made.save(tmp_path / "in", datasets)), tmp_path / "out", derivation=DERIVATION)
    element = read_slices(tmp_path / "out")[0]["PatientID"]
    assert (element.VR, element.value) == ("LO", "ID7")


def test_damage_within_a_sequence_is_left_out(tmp_path):
    datasets = made.slices()
    for dataset in datasets:
        item = Dataset()
        item["PatientSize"] = RawDataElement(tag_for_keyword("PatientSize"), "FD", 4, b"1.25", 0, False, True)
        dataset.AnatomicRegionSequence = [item]
    volume = read_volume(made.save(tmp_path / "in", made.slices()))
    volume.source.header.AnatomicRegionSequence = datasets[0].AnatomicRegionSequence
    write_volume(volume, tmp_path / "out", derivation=DERIVATION)
    assert "AnatomicRegionSequence" not in read_slices(tmp_path / "out")[0]


def test_a_folder_that_is_there_keeps_its_place_and_permissions(source, tmp_path):
    """It may be a mount, the current folder, or one that only some people may read."""
    volume, folder = read_volume(source), tmp_path / "out"
    folder.mkdir(mode=0o700)
    before = folder.stat()
    (folder / ".DS_Store").touch()
    for overwrite in (False, True):
        write_volume(volume, folder, overwrite=overwrite, derivation=DERIVATION)
        assert (folder.stat().st_ino, folder.stat().st_mode) == (before.st_ino, before.st_mode)
        assert len(list(folder.iterdir())) == 10 + 1
    np.testing.assert_array_equal(read_volume(folder).data, volume.data)


def test_enhanced_becomes_classic(tmp_path):
    dataset = made.enhanced()
    for keyword in ("EchoTime", "RepetitionTime", "ScanningSequence", "SequenceVariant"):
        delattr(dataset, keyword)
    volume = read_volume(made.save(tmp_path / "in", [dataset]))
    write_volume(volume, tmp_path / "out", derivation=DERIVATION)
    first = read_slices(tmp_path / "out")[0]
    assert first.SOPClassUID == MRImageStorage
    assert (first.EchoTime, first.RepetitionTime) == (2.5, 2000)
    assert [item.ReferencedSOPInstanceUID for item in first.SourceImageSequence] == [dataset.SOPInstanceUID]
    np.testing.assert_array_equal(read_volume(tmp_path / "out").data, volume.data)


def test_what_an_enhanced_file_says_of_each_frame_is_the_middle_ones(tmp_path):
    """Scanners state window, echo and inversion time by frame more often than for all."""
    dataset = made.enhanced()
    for keyword in ("Modality", "EchoTime", "RepetitionTime", "InversionTime", "WindowCenter", "WindowWidth"):
        if keyword in dataset:
            delattr(dataset, keyword)
    for number, frame in enumerate(dataset.PerFrameFunctionalGroupsSequence):
        window, echo, modifier = Dataset(), Dataset(), Dataset()
        window.WindowCenter, window.WindowWidth = str(200 + number), "350"
        echo.EffectiveEchoTime, modifier.InversionTimes = 3.5, 900.0
        frame.FrameVOILUTSequence, frame.MREchoSequence, frame.MRModifierSequence = [window], [echo], [modifier]
    volume = read_volume(made.save(tmp_path / "in", [dataset]))
    write_volume(volume, tmp_path / "out", derivation=DERIVATION)
    first = read_slices(tmp_path / "out")[0]
    assert (first.EchoTime, first.InversionTime, first.RepetitionTime, first.Modality) == (3.5, 900, 2000, "MR")
    assert (first.WindowCenter, first.WindowWidth) == (205, 350)
    write_volume(volume, tmp_path / "other", derivation=Derivation("some_recipe", "synthesised"))
    assert "InversionTime" not in read_slices(tmp_path / "other")[0]


def test_enhanced_ct_keeps_the_name_of_its_units(tmp_path):
    dataset = made.enhanced()
    dataset.SOPClassUID, dataset.Modality = EnhancedCTImageStorage, "CT"
    for frame in dataset.PerFrameFunctionalGroupsSequence:
        frame.PixelValueTransformationSequence[0].RescaleType = "MGML"
    volume = read_volume(made.save(tmp_path / "in", [dataset]))
    write_volume(volume, tmp_path / "out", derivation=DERIVATION)
    first = read_slices(tmp_path / "out")[0]
    assert (first.SOPClassUID, first.RescaleType) == (CTImageStorage, "MGML")


def test_ct_keeps_its_units(tmp_path):
    data = made.voxels() + 3
    volume = read_volume(made.save(tmp_path / "in", made.slices(data, ct=True)))
    write_volume(volume, tmp_path / "out", derivation=DERIVATION)
    first = read_slices(tmp_path / "out")[0]
    assert first.SOPClassUID == CTImageStorage
    assert (first.RescaleSlope, first.RescaleIntercept, first.RescaleType) == (1, -1024, "HU")
    np.testing.assert_array_equal(read_volume(tmp_path / "out").data, data - 1024)


@pytest.mark.parametrize(("work", "kept"), [("super-resolved", True), ("synthesised", False)])
def test_how_a_ct_was_measured_is_kept_where_its_intensities_are(tmp_path, work, kept):
    datasets = made.slices(ct=True)
    for dataset in datasets:
        dataset.KVP, dataset.ConvolutionKernel = "120", "B30f"
    volume = read_volume(made.save(tmp_path / "in", datasets))
    write_volume(volume, tmp_path / "out", derivation=Derivation("some_recipe", work))
    first = read_slices(tmp_path / "out")[0]
    assert (first.KVP, first.get("ConvolutionKernel")) == ((120, "B30f") if kept else (None, None))


@pytest.mark.parametrize(
    ("low", "high", "slope", "signed"),
    [
        (0, 4095.4, 1, False),  # whole numbers are kept
        (0, 65535, 1, False),
        (-3, 32767, 1, True),
        (-3, 40000, 2, True),  # too wide for 16 signed bits: halved
        (0, 1, 2**-15, False),  # too narrow for whole numbers: 2^15 is the largest power that fits
        (0, 254, 2**-8, False),
        (-0.2, 1000, 1, False),  # rounds to 0
        (0, 0, 1, False),  # nothing to enlarge
        (5, 5, 1, False),
    ],
)
def test_one_scale_for_the_series(source, low, high, slope, signed):
    volume = read_volume(source)
    data = np.linspace(low, high, 1000, dtype=np.float32).reshape(10, 10, 10)
    scale = choose_scale(data, volume.source)
    assert scale == (slope, 0, signed)
    restored = scale.to_stored(data).astype(float) * slope
    assert np.abs(restored - data).max() <= slope / 2 * 1.001


@pytest.mark.parametrize(("place", "far"), [(0, 3e7), (slice(None), 1e5)], ids=["outlier", "offset"])
def test_scales_that_lose_the_grey_levels_are_refused(source, place, far):
    data = np.linspace(0, 300, 8000, dtype=np.float32)
    data[place] += np.float32(far)
    with pytest.raises(VolumeError, match=r"leave only \d+ steps in 16 bits .*; write NIfTI"):
        choose_scale(data.reshape(20, 20, 20), read_volume(source).source)


def test_brightness_is_the_same_in_all_slices(tmp_path):
    """Slices with slopes of their own, small values: one factor brings all of them back."""
    data = made.voxels()
    datasets = made.slices(data)
    for k, dataset in enumerate(datasets):
        dataset.RescaleSlope, dataset.RescaleIntercept = f"{0.001 * (1 + k):.3f}", "0"
    volume = read_volume(made.save(tmp_path / "in", datasets))
    write_volume(volume, tmp_path / "out", derivation=DERIVATION)
    first = read_slices(tmp_path / "out")[0]
    factor = float(first.DerivationDescription.split("times ")[-1].rstrip("."))
    assert "RescaleSlope" not in first
    result = read_volume(tmp_path / "out").data / factor
    assert np.abs(result - volume.data).max() <= 0.5 / factor * 1.01
    assert volume.data.max() * factor > 2**13


def test_rounded_orientations_are_read_and_written(tmp_path):
    datasets = made.slices()
    for dataset in datasets:
        dataset.ImageOrientationPatient = [f"{float(v):.3f}" for v in dataset.ImageOrientationPatient]
    volume = read_volume(made.save(tmp_path / "in", datasets))
    np.testing.assert_allclose(volume.spacing_mm, (0.9, 1.1, 2), rtol=1e-6)
    write_volume(volume, tmp_path / "out", derivation=DERIVATION)
    np.testing.assert_allclose(read_volume(tmp_path / "out").affine, volume.affine, atol=1e-6)


@pytest.mark.parametrize("axes", [(1, 0, 2), (2, 0, 1), (0, 2, 1)])
def test_any_order_of_axes_keeps_places(source, tmp_path, axes):
    volume = read_volume(source).with_axes(axes)
    write_volume(volume, tmp_path / "out", derivation=DERIVATION)
    result = read_volume(tmp_path / "out")
    place = np.linalg.inv(result.affine) @ volume.affine @ [3, 4, 5, 1]
    assert result.data[tuple(np.rint(place[:3]).astype(int))] == volume.data[3, 4, 5]
    np.testing.assert_allclose(place, np.rint(place), atol=1e-5)


def test_where_a_series_may_be_written(source, tmp_path):
    volume = read_volume(source)
    (tmp_path / "empty").mkdir()
    write_volume(volume, tmp_path / "empty", derivation=DERIVATION)
    with pytest.raises(OutputError, match="exists already"):
        write_volume(volume, tmp_path / "empty", derivation=DERIVATION)
    before = read_slices(tmp_path / "empty")[0].SeriesInstanceUID
    write_volume(volume, tmp_path / "empty", overwrite=True, derivation=DERIVATION)
    assert read_slices(tmp_path / "empty")[0].SeriesInstanceUID != before
    for path, words in (
        (source, "holds other things"),
        (tmp_path / "out.dcm", "give a folder's name"),
        (tmp_path / "nowhere" / "out", "does not exist; make it first"),
    ):
        with pytest.raises(OutputError, match=words):
            write_volume(volume, path, overwrite=True, derivation=DERIVATION)
    with pytest.raises(OutputError, match="give a derivation"):
        write_volume(volume, tmp_path / "out")
    with pytest.raises(OutputError, match=r"must end in \.nii"):
        write_volume(replace(volume, source=None), tmp_path / "out", derivation=DERIVATION)
    assert len(list(source.iterdir())) == 10
    assert sorted(p.name for p in tmp_path.iterdir()) == ["empty", "source"]


def test_a_linked_folder_stays_a_link(source, tmp_path):
    """A second disk, linked to: the series goes there, again and again."""
    volume, disk, link = read_volume(source), tmp_path / "disk", tmp_path / "out"
    write_volume(volume, disk, derivation=DERIVATION)
    link.symlink_to(disk)
    before = read_slices(disk)[0].SeriesInstanceUID
    for _ in range(2):
        write_volume(volume, link, overwrite=True, derivation=DERIVATION)
    assert link.is_symlink()
    assert read_slices(disk)[0].SeriesInstanceUID != before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["disk", "out", "source"]


def test_an_older_series_stays_where_it_cannot_be_replaced(source, tmp_path, monkeypatch):
    volume, folder = read_volume(source), tmp_path / "out"
    write_volume(volume, folder, derivation=DERIVATION)
    before, replace_ = read_slices(folder)[0].SeriesInstanceUID, os.replace

    def fail(old, new):
        if Path(old).parent.name.startswith(".tf_mrsr-") and not Path(old).parent.name.endswith(".old"):
            raise OSError("disk")
        replace_(old, new)

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OutputError, match="cannot be written"):
        write_volume(volume, folder, overwrite=True, derivation=DERIVATION)
    assert read_slices(folder)[0].SeriesInstanceUID == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "source"]
    assert len(list(folder.iterdir())) == 10


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A network that doubles every axis: a voxel, then the mean of it and the next."""
    taps = np.array([0.5, 1, 0.5, 0])
    kernel = (taps[:, None, None] * taps[None, :, None] * taps[None, None, :])[..., None, None]
    low_res = keras.Input((None, None, None, 1))
    layer = keras.layers.Conv3DTranspose(1, 4, 2, padding="same", use_bias=False)
    network = keras.Model(low_res, layer(low_res))
    layer.set_weights([kernel])
    folder = tmp_path_factory.mktemp("model") / "model"
    map_ = GridMap.decimation((2, 2, 2)).inverse()
    chosen = recipe.load("sanchez2018_srgan3d_x2_subpixel_nn")
    models.save(models.Model(chosen, SuperResolver(network, map_, "half_max")), folder)
    return folder


def test_predict_writes_series_and_nifti(source, model, tmp_path):
    assert predict.main([str(source), "-o", str(tmp_path / "out"), "--model", str(model)]) == 0
    assert predict.main([str(source), "-o", str(tmp_path / "out.nii.gz"), "--model", str(model)]) == 0
    series, nifti, scan = read_volume(tmp_path / "out"), read_volume(tmp_path / "out.nii.gz"), read_volume(source)
    np.testing.assert_allclose(series.affine, scan.affine @ np.diag([0.5, 0.5, 0.5, 1]), atol=1e-6)
    np.testing.assert_allclose(nifti.affine, series.affine, atol=1e-4)
    np.testing.assert_allclose(series.data, nifti.data, atol=0.501)
    np.testing.assert_allclose(series.data[::2, ::2, ::2][:-1, :-1, :-1], scan.data[:-1, :-1, :-1], atol=0.501)
    description = read_slices(tmp_path / "out")[0].DerivationDescription
    assert "recipe sanchez2018_srgan3d_x2_subpixel_nn" in description


def test_predict_takes_many_series(model, tmp_path):
    for person in ("p1", "p2"):
        made.save(tmp_path / "in" / person / "t1", made.slices())
    argv = [str(tmp_path / "in"), "-o", str(tmp_path / "out"), "--model", str(model)]
    assert predict.main(argv) == 0
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["p1", "p2"]
    assert read_volume(tmp_path / "out" / "p2").shape == (72, 68, 20)
    assert predict.main(argv) == 1
    assert predict.main([*argv, "--skip-existing"]) == 0
    # One of them is broken by now.
    next((tmp_path / "in" / "p1" / "t1").iterdir()).unlink()
    (tmp_path / "in" / "p1" / "t1" / "x.dcm").write_bytes(b"")
    argv[2] = str(tmp_path / "other")
    assert predict.main([*argv, "--skip-bad"]) == 0
    assert [p.name for p in (tmp_path / "other").iterdir()] == ["p2"]


def test_nothing_of_the_patient_leaves(model, tmp_path, capfd):
    datasets = made.slices()
    for dataset in datasets:
        for keyword in ("InstitutionAddress", "PhysiciansOfRecord", "OperatorsName", "RequestingPhysician"):
            setattr(dataset, keyword, made.CANARY)
        dataset.PatientWeight = "70.555555"
    source = made.save(tmp_path / "source", datasets)
    for path in source.iterdir():  # a name where a number should be, which pydicom would print
        path.write_bytes(path.read_bytes().replace(b"70.555555", made.CANARY.encode()))
    other = made.save(tmp_path / "broken", datasets[:4] + datasets[5:])
    both = [str(source), "--model", str(model), "-o"]
    assert predict.main([*both, str(tmp_path / "out")]) == 0
    assert predict.main([*both, str(tmp_path / "out.nii")]) == 0
    assert predict.main([str(other), "--model", str(model), "-o", str(tmp_path / "x")]) == 1
    assert predict.main([str(source), "--list-series"]) == 0
    printed = "".join(capfd.readouterr())
    assert "missing slice" in printed
    assert made.CANARY not in printed
    assert made.CANARY.encode() not in (tmp_path / "out.nii").read_bytes()
    for dataset in read_slices(tmp_path / "out"):
        holders = {element.keyword for element in dataset.iterall() if made.CANARY in str(element.value)}
        assert holders == {"PatientName", "PatientID"}
        assert str(dataset.PatientName) == f"{made.CANARY}^Käthe"


def test_options_of_predict(source, tmp_path, capsys):
    with pytest.raises(SystemExit):
        predict.main([str(source)])
    assert "-o/--output, --model" in capsys.readouterr().err
    assert predict.main([str(source), "--list-series"]) == 0
    assert "36 x 34 x 10, 0.9 x 1.1 x 2 mm" in capsys.readouterr().out
    assert predict.main(["nowhere", "--list-series"]) == 1
    common = ["--model", str(scans.untrained_run(tmp_path / "run")), "-o"]
    for argv, words in (
        ([str(source), *common, str(tmp_path / "x"), "--series-uid", "1.2"], "no series 1.2 in it"),
        ([str(source), str(source), *common, "x", "--series-uid", "1.2"], "chooses from one folder"),
        ([str(source), *common, str(source / "x")], "whose scans are the input"),
    ):
        assert predict.main(argv) == 1
        assert words in capsys.readouterr().err


def same_voxels(volume, data, affine, tolerance_mm):
    """Whether an array and an affine put the volume's values at the volume's places; largest distance in mm."""
    index = np.linalg.inv(affine) @ volume.affine
    turn = np.rint(index)
    corners = np.array(np.meshgrid(*((0, n - 1) for n in volume.shape), [1])).reshape(4, -1)
    distance = np.linalg.norm(volume.affine @ corners - affine @ turn @ corners, axis=0).max()
    assert distance < tolerance_mm
    axes = np.abs(turn[:3, :3]).argmax(axis=0)
    data = np.flip(data.transpose(axes), [axis for axis in range(3) if turn[axes[axis], axis] < 0])
    np.testing.assert_array_equal(data, volume.data)
    return distance


def with_dcm2niix(folder, output):
    output.mkdir()
    subprocess.run(["dcm2niix", "-o", str(output), "-f", "x", str(folder)], check=True, capture_output=True)
    image = nib.load(output / "x.nii")
    return np.asarray(image.dataobj), image.affine


def with_highdicom(folder):
    """(column, row, slice) and RAS+, of highdicom's (slice, row, column) and LPS."""
    highdicom = pytest.importorskip("highdicom")
    volume = highdicom.get_volume_from_series([dcmread(path) for path in folder.iterdir()])
    return volume.array.transpose(2, 1, 0), made.RAS_TO_LPS @ volume.affine[:, [2, 1, 0, 3]]


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    if not REAL.exists():
        pytest.skip("the real series lies outside the repository and is not here")
    folder = tmp_path_factory.mktemp("real")
    with zipfile.ZipFile(REAL) as archive:
        archive.extractall(folder)
    return folder / "sag_mprage"


def test_a_real_series_as_other_readers_see_it(real, tmp_path):
    volume = read_volume(real)
    assert volume.shape == (256, 256, 96)
    same_voxels(volume, *with_highdicom(real), 1e-6)
    if shutil.which("dcm2niix") is None:
        pytest.skip("dcm2niix is not installed")
    same_voxels(volume, *with_dcm2niix(real, tmp_path / "nifti"), 1e-3)


def test_a_derived_series_as_other_readers_see_it(real, tmp_path):
    whole = read_volume(real)
    cut = (slice(60, 200), slice(50, 180), slice(20, 60))
    offset = GridMap((1, 1, 1), (60, 50, 20))
    volume = finer(whole.resampled(whole.data[cut] - 3, offset))
    write_volume(volume, tmp_path / "out", derivation=DERIVATION)
    same_voxels(read_volume(tmp_path / "out"), volume.data, volume.affine, 1e-6)
    same_voxels(volume, *with_highdicom(tmp_path / "out"), 1e-6)
    if shutil.which("dcm2niix") is None:
        pytest.skip("dcm2niix is not installed")
    same_voxels(volume, *with_dcm2niix(tmp_path / "out", tmp_path / "nifti"), 1e-3)


def test_other_kinds_as_dcm2niix_sees_them(tmp_path):
    if shutil.which("dcm2niix") is None:
        pytest.skip("dcm2niix is not installed")
    signed = made.slices(made.voxels() - 200, signed=True)
    for dataset in signed:  # of 12 signed bits dcm2niix takes the sign for a value
        dataset.BitsStored, dataset.HighBit = 16, 15
    enhanced = made.enhanced()
    for frame in enhanced.PerFrameFunctionalGroupsSequence:  # of several intercepts dcm2niix takes one
        frame.PixelValueTransformationSequence[0].RescaleIntercept = "5"
    for name, datasets in (("classic", made.slices()), ("signed", signed), ("enhanced", [enhanced])):
        folder = made.save(tmp_path / name, datasets)
        same_voxels(read_volume(folder), *with_dcm2niix(folder, tmp_path / f"{name}.out"), 1e-3)


def test_volumes_without_a_source_stay_nifti(tmp_path):
    write_volume(Volume(np.ones((3, 4, 5)), np.eye(4)), tmp_path / "x.nii", derivation=DERIVATION)
    assert nib.load(tmp_path / "x.nii").shape == (3, 4, 5)
