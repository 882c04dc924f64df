"""Small DICOM series made for tests."""

import copy
import zlib

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    CTImageStorage,
    EnhancedMRImageStorage,
    ExplicitVRLittleEndian,
    MRImageStorage,
    generate_uid,
)

from tests import scans

RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
SHAPE = (36, 34, 10)  # JPEG 2000 as pydicom sets it needs 32 or more
# Rows, columns and slices at right angles and right-handed, which scans.OBLIQUE is not.
AFFINE = scans.OBLIQUE @ np.diag([-1.0, 1.0, 1.0, 1.0])
CANARY = "Zweistein"


def voxels(shape=SHAPE, affine=AFFINE):
    """Whole numbers (column, row, slice), 0 to some hundred."""
    return np.rint(scans.blobs(shape, affine)).astype(np.int32)


def slices(data=None, affine=AFFINE, *, signed=False, ct=False):
    """One classic data set per slice of ``data`` (column, row, slice)."""
    data = voxels(affine=affine) if data is None else data
    lps = RAS_TO_LPS @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    common = _common(CTImageStorage if ct else MRImageStorage)
    common.PixelSpacing = [f"{spacing[1]:.9g}", f"{spacing[0]:.9g}"]
    common.ImageOrientationPatient = [
        f"{v:.9f}" for v in np.concatenate([lps[:3, 0] / spacing[0], lps[:3, 1] / spacing[1]])
    ]
    common.SliceThickness = f"{spacing[2] * 0.9:.6g}"
    common.update(_pixel_module(data.shape, signed))
    if ct:
        common.RescaleSlope, common.RescaleIntercept = "1", "-1024"
    result = []
    for k in range(data.shape[2]):
        dataset = copy.deepcopy(common)
        dataset.SOPInstanceUID = generate_uid()
        dataset.InstanceNumber = str(k + 1)
        dataset.ImagePositionPatient = [f"{v:.9f}" for v in (lps @ [0, 0, k, 1])[:3]]
        dataset.PixelData = data[:, :, k].T.astype("<i2" if signed else "<u2").tobytes()
        dataset["PixelData"].VR = "OW"
        result.append(dataset)
    return result


def enhanced(data=None, affine=AFFINE):
    """The same as one enhanced MR data set."""
    data = voxels(affine=affine) if data is None else data
    lps = RAS_TO_LPS @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    dataset = _common(EnhancedMRImageStorage)
    dataset.SOPInstanceUID = generate_uid()
    dataset.NumberOfFrames = str(data.shape[2])
    dataset.update(_pixel_module(data.shape, False))
    orientation, measures, timing, echo = Dataset(), Dataset(), Dataset(), Dataset()
    orientation.ImageOrientationPatient = [f"{v:.9f}" for v in (lps[:3, :2] / spacing[:2]).T.ravel()]
    measures.PixelSpacing = [f"{spacing[1]:.9g}", f"{spacing[0]:.9g}"]
    measures.SliceThickness = f"{spacing[2]:.9g}"
    timing.RepetitionTime, echo.EffectiveEchoTime = "2000", 2.5
    shared = Dataset()
    shared.PlaneOrientationSequence, shared.PixelMeasuresSequence = [orientation], [measures]
    shared.MRTimingAndRelatedParametersSequence, shared.MREchoSequence = [timing], [echo]
    dataset.SharedFunctionalGroupsSequence = [shared]
    frames = []
    for k in range(data.shape[2]):
        position, transformation, frame = Dataset(), Dataset(), Dataset()
        position.ImagePositionPatient = [f"{v:.9f}" for v in (lps @ [0, 0, k, 1])[:3]]
        transformation.RescaleSlope, transformation.RescaleIntercept = "2", str(k)
        frame.PlanePositionSequence, frame.PixelValueTransformationSequence = [position], [transformation]
        frames.append(frame)
    dataset.PerFrameFunctionalGroupsSequence = frames
    dataset.PixelData = data.transpose(2, 1, 0).astype("<u2").tobytes()
    dataset["PixelData"].VR = "OW"
    return dataset


def save(folder, datasets, syntax=ExplicitVRLittleEndian, **encoding):
    """Writes the data sets under names whose order is not that of places; returns the folder.

    Args:
        folder: made if it does not exist.
        datasets: classic slices, or one multi-frame data set.
        syntax: transfer syntax; compressed ones need pydicom's encoders.
        encoding: arguments of the encoder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for number, dataset in enumerate(datasets):
        dataset = copy.deepcopy(dataset)
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        if syntax.is_encapsulated and "PixelData" in dataset:
            dataset.compress(syntax, generate_instance_uid=False, **encoding)
        elif not syntax.is_little_endian:
            dataset.PixelData = np.frombuffer(dataset.PixelData, "<u2").astype(">u2").tobytes()
        dataset.file_meta.TransferSyntaxUID = syntax
        dataset.save_as(
            folder / f"IM{number * 7 % 101:03d}",
            implicit_vr=syntax.is_implicit_VR,
            little_endian=syntax.is_little_endian,
            enforce_file_format=True,
        )
    return folder


def deflate_bomb(path, size):
    """Replaces the compressed data set of a deflated file by one that goes on for ``size`` zero bytes."""
    content = path.read_bytes()
    start = 132 + 12 + int.from_bytes(content[140:144], "little")
    plain = zlib.decompress(content[start:], -zlib.MAX_WBITS)
    engine = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    packed = engine.compress(plain)
    for _ in range(size // 2**20):
        packed += engine.compress(bytes(2**20))
    path.write_bytes(content[:start] + packed + engine.flush())


def _common(class_uid):
    dataset = Dataset()
    dataset.SOPClassUID = class_uid
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "M", "NORM"]
    dataset.Modality = "CT" if class_uid == CTImageStorage else "MR"
    dataset.PatientName = f"{CANARY}^Käthe"
    dataset.PatientID = f"ID{CANARY}"
    dataset.PatientBirthDate, dataset.PatientSex = "19700102", "F"
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = generate_uid(), generate_uid()
    dataset.FrameOfReferenceUID = generate_uid()
    dataset.StudyDate, dataset.StudyTime, dataset.StudyID = "20200304", "101112", "7"
    dataset.AccessionNumber = "ACC1"
    dataset.ReferringPhysicianName = None
    dataset.SeriesNumber = "3"
    dataset.SeriesDescription = "T1 axial"
    dataset.Manufacturer = "Scanners"
    dataset.PatientPosition = "HFS"
    dataset.BodyPartExamined = "BRAIN"
    dataset.ScanningSequence, dataset.SequenceVariant = "GR", "SP"
    dataset.EchoTime, dataset.RepetitionTime, dataset.MRAcquisitionType = "2.5", "2000", "3D"
    # What must not be carried over.
    dataset.PatientComments = dataset.ImageComments = f"about {CANARY}"
    dataset.SmallestImagePixelValue, dataset.LargestImagePixelValue = 1, 2
    dataset["SmallestImagePixelValue"].VR = dataset["LargestImagePixelValue"].VR = "US"
    dataset.RealWorldValueMappingSequence = [Dataset()]
    dataset.add_new(0x60003000, "OW", b"\x01\x00")
    block = dataset.private_block(0x0019, f"{CANARY} INC", create=True)
    block.add_new(0x01, "LO", CANARY)
    return dataset


def _pixel_module(shape, signed):
    dataset = Dataset()
    dataset.Columns, dataset.Rows = shape[0], shape[1]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
    dataset.PixelRepresentation = int(signed)
    return dataset
