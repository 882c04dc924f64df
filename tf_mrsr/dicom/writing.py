"""A volume as a derived DICOM series: classic MR or CT slices that belong to the patient and study of their source."""

from __future__ import annotations

import copy
import datetime
import math
import re
import shutil
import tempfile
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset, write_file_meta_info
from pydicom.sequence import Sequence as DicomSequence
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian, MRImageStorage, generate_uid

from tf_mrsr import __version__, storage
from tf_mrsr.dicom import attributes, files
from tf_mrsr.dicom.reading import DicomSource
from tf_mrsr.dicom.series import DICOM_SUFFIXES, ORIENTATION_TOLERANCE
from tf_mrsr.errors import OutputError, VolumeError
from tf_mrsr.geometry import voxel_spacing_mm
from tf_mrsr.volume import Derivation, Volume

PROGRAM = "tf_mrsr"
FILE_NAME = "tf_mrsr_{:05d}.dcm"
_OUR_FILE = re.compile(r"tf_mrsr_\d{5}\.dcm")
# Derived series of one source are told apart by UID; the number only sorts them after the scanner's own.
_SERIES_NUMBER_OFFSET = 1000
_LARGEST_INTEGER = 2**31 - 1  # of an integer string
_MIN_LEVELS = 255
_OWN_TAGS = tuple(
    tag_for_keyword(keyword) for keyword in ("SOPInstanceUID", "InstanceNumber", "ImagePositionPatient", "PixelData")
)
_TEXT = frozenset(("AE", "AS", "CS", "DA", "DT", "LO", "LT", "PN", "SH", "ST", "TM", "UC", "UI", "UT"))
_MAX_COSINE = 2 * ORIENTATION_TOLERANCE  # whatever could be read
_RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


class Scale(NamedTuple):
    """``stored = round((intensity - intercept) / slope)``, the same for the whole series."""

    slope: float
    intercept: float
    signed: bool

    def to_stored(self, intensities: np.ndarray) -> np.ndarray:
        stored = np.rint((intensities.astype(np.float64) - self.intercept) / self.slope)
        return stored.astype("<i2" if self.signed else "<u2")


def check_folder(path: Path, *, overwrite: bool) -> None:
    """Raises an OutputError if a series may not be written as this folder: only what this writer made is replaced."""
    if path.suffix.lower() in DICOM_SUFFIXES:
        raise OutputError(f"{path}: a derived series is a folder of files; give a folder's name")
    if path.exists() and not path.is_dir():
        raise OutputError(f"{path}: is a file; a derived series is a folder, give another name")
    content = storage.content(path) if path.exists() else []
    if content and not overwrite:
        raise OutputError(f"{path}: exists already; give another name or --overwrite")
    if not all(_OUR_FILE.fullmatch(entry.name) and entry.is_file() for entry in content):
        raise OutputError(f"{path}: holds other things than a series of {PROGRAM}, so it is not replaced")


def write(volume: Volume, folder: Path, derivation: Derivation) -> None:
    """Writes one file per slice, in the order of places along the normal, to a temporary folder that is then renamed; a
    folder that is there keeps its place, and the files are moved into it.

    The intensities keep their scale where whole numbers of 16 bits can hold them; otherwise MR is multiplied by one
    power of two for the whole series, which the description states, and CT gets one slope.

    Args:
        volume: read from a DICOM series (``volume.source``); its last axis becomes the slices.
        folder: new, empty, or as ``check_folder`` allows.
        derivation: what made the volume.

    Raises:
        VolumeError: if its axes are not at right angles in a slice, or 16 bits cannot hold its intensities.
        OutputError: if it has no source, or cannot be written.
    """
    if volume.source is None:
        raise OutputError(f"{folder}: only what was read from DICOM can be written as DICOM; give a name in .nii.gz")
    folder, temporary = folder.resolve(), None
    try:
        there = folder.is_dir()
        temporary = Path(tempfile.mkdtemp(prefix=".tf_mrsr-", dir=folder if there else folder.parent))
        with files.quiet():
            _write_slices(volume, temporary, derivation)
        if there:
            storage.fill_in_place(temporary, folder, storage.content(folder))
        else:
            storage.give_permissions(temporary, folder)
            storage.put_in_place(temporary, folder)
    except OSError as error:
        raise OutputError(
            f"{folder}: cannot be written ({error.strerror or error}); check the folder and the disk"
        ) from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def _write_slices(volume: Volume, folder: Path, derivation: Derivation) -> None:
    affine, data = _right_handed(_RAS_TO_LPS @ volume.affine, volume.data)
    row, column = (affine[:3, axis] / np.linalg.norm(affine[:3, axis]) for axis in (0, 1))
    if abs(np.dot(row, column)) > _MAX_COSINE:
        raise VolumeError("rows and columns are not at right angles, which DICOM slices must be; write NIfTI")
    scale = choose_scale(data, volume.source)
    series = _series(volume, scale, derivation)
    series.ImageOrientationPatient = _decimals([*row, *column])
    # What the slices share, thousands of references among it, is encoded once.
    characters = series.get("SpecificCharacterSet") or "iso8859"
    shared = [_encoded(series[low:high], characters) for low, high in pairwise((0, *_OWN_TAGS))]
    for number in range(data.shape[2]):
        own = Dataset()
        own.SOPInstanceUID = _new_uid()
        own.InstanceNumber = str(number + 1)
        own.ImagePositionPatient = _decimals(affine[:3, 3] + number * affine[:3, 2])
        own.PixelData = scale.to_stored(data[:, :, number].T).tobytes()
        own["PixelData"].VR = "OW"
        with (folder / FILE_NAME.format(number + 1)).open("wb") as stream:
            stream.write(bytes(128) + b"DICM")
            write_file_meta_info(stream, _meta(series.SOPClassUID, own.SOPInstanceUID))
            for part, tag in zip(shared, _OWN_TAGS, strict=True):
                stream.write(part)
                stream.write(_encoded(own[tag : tag + 1], characters))


def _encoded(dataset: Dataset, characters: str | Sequence[str]) -> bytes:
    """Explicit VR, little endian; text in the character set of the whole data set."""
    buffer = DicomBytesIO()
    buffer.is_implicit_VR, buffer.is_little_endian = False, True
    write_dataset(buffer, dataset, characters)
    return buffer.getvalue()


def _right_handed(affine: np.ndarray, data: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The slices in the order in which they lie along row x column."""
    if np.linalg.det(affine[:3, :3]) > 0:
        return affine, data
    turned = affine.copy()
    turned[:3, 2] *= -1
    turned[:3, 3] += (data.shape[2] - 1) * affine[:3, 2]
    return turned, data[:, :, ::-1]


def choose_scale(data: np.ndarray, source: DicomSource) -> Scale:
    """The one scale of a series: 1 where that holds the values well in 16 bits, else a power of two.

    MR files have no place for a slope, so there the intercept is 0 and values far below ``_MIN_LEVELS`` are enlarged.
    CT keeps the source's intercept and slope if all its slices shared them.

    Raises:
        VolumeError: if an offset or outliers leave fewer than ``_MIN_LEVELS`` steps to all but 0.2 % of the voxels.
    """
    low, high = float(data.min()), float(data.max())
    slope, intercept = (source.rescale or (1.0, 0.0)) if source.is_ct else (1.0, 0.0)
    slope = abs(slope)

    def fits(slope: float) -> bool:
        smallest, largest = round((low - intercept) / slope), round((high - intercept) / slope)
        return (smallest >= 0 and largest < 2**16) or (smallest >= -(2**15) and largest < 2**15)

    while not fits(slope):
        slope *= 2
    if low < high and (high - low) / slope < _MIN_LEVELS:
        while fits(slope / 2):
            slope /= 2
    if slope > 1:
        darkest, brightest = np.quantile(data[::2, ::2, ::2], (0.001, 0.999))
        levels = float(brightest - darkest) / slope
        if 0 < levels < _MIN_LEVELS:
            raise VolumeError(
                f"intensities from {low:.6g} to {high:.6g} leave only {levels:.0f} steps in 16 bits to nearly all "
                "voxels; write NIfTI (-o NAME.nii.gz), or take the offset or the outliers out of the scan"
            )
    return Scale(slope, intercept, signed=round((low - intercept) / slope) < 0)


def _series(volume: Volume, scale: Scale, derivation: Derivation) -> Dataset:
    """All that the slices share."""
    source = volume.source
    header, spacing = source.header, voxel_spacing_mm(volume.affine)
    result = _kept(header, attributes.KEPT)
    anatomy = _group(header, "FrameAnatomySequence")
    for keyword, ours in attributes.ENHANCED_ANATOMY:
        element = _sound(anatomy, keyword)
        if ours not in result and element is not None:
            setattr(result, ours, element.value)
    result.update(_ct_acquisition(header, derivation) if source.is_ct else _mr_acquisition(header, derivation))
    result.SOPClassUID = CTImageStorage if source.is_ct else MRImageStorage
    result.Modality = "CT" if source.is_ct else "MR"
    result.SeriesInstanceUID = _new_uid()
    result.SeriesNumber = str(min(_whole(header, "SeriesNumber") + _SERIES_NUMBER_OFFSET, _LARGEST_INTEGER))
    result.SeriesDescription = f"{PROGRAM} {derivation.recipe}"[:64]
    _fill_required(result)
    now = datetime.datetime.now(_time_zone(result))
    result.InstanceCreationDate = result.SeriesDate = result.ContentDate = now.strftime("%Y%m%d")
    result.InstanceCreationTime = result.SeriesTime = result.ContentTime = now.strftime("%H%M%S")
    result.ImageType = ["DERIVED", "SECONDARY", *_image_type(header, derivation)]

    result.Rows, result.Columns = volume.shape[1], volume.shape[0]
    result.PixelSpacing = _decimals([spacing[1], spacing[0]])
    result.SpacingBetweenSlices = _decimals([spacing[2]])[0]
    # Gaps or overlaps between slices stay in proportion.
    stated = source.slice_thickness_mm
    thickness = stated if stated is not None and stated > 0 else source.spacing_mm[2]
    result.SliceThickness = _decimals([thickness * spacing[2] / source.spacing_mm[2]])[0]
    result.SamplesPerPixel = 1
    result.BitsAllocated = result.BitsStored = 16
    result.HighBit = 15
    result.PixelRepresentation = int(scale.signed)
    result.WindowCenter, result.WindowWidth = _window(volume, scale, derivation)
    if source.is_ct:
        result.RescaleSlope, result.RescaleIntercept = _decimals([scale.slope, scale.intercept])
        of_frame = files.value_of(_group(header, "PixelValueTransformationSequence"), "RescaleType")
        result.RescaleType = str(files.value_of(header, "RescaleType") or of_frame or "HU")

    result.Manufacturer = result.ManufacturerModelName = PROGRAM
    result.SoftwareVersions = __version__
    result.DerivationDescription = _description(volume, scale, derivation)
    if set(_factors(volume)) != {"1"}:
        result.DerivationCodeSequence = [_code(codes.DCM.SpatialResampling)]
    result.SourceImageSequence = [_reference(*instance) for instance in source.instances]
    result.ContributingEquipmentSequence = [_scanner(header), _program(derivation)]
    return result


def _kept(header: Dataset, keywords: Sequence[str]) -> Dataset:
    result = Dataset()
    for keyword in keywords:
        element = _sound(header, keyword)
        if element is not None:
            result[keyword] = element
    return result


def _sound(header: Dataset, keyword: str) -> DataElement | None:
    """A copy of an element without private ones in it; None if it is not there, not of its own kind, no number where
    it should be one, or damaged. Text of another kind of text becomes its own.
    """
    try:
        element = copy.deepcopy(header[keyword])
        proper = dictionary_VR(element.tag)
        if {proper, element.VR} <= _TEXT:
            element = DataElement(element.tag, proper, element.value)
        if element.VR in ("DS", "IS"):
            [float(value) for value in _list(element.value) if value != ""]
        for item in element.value if element.VR == "SQ" else ():
            item.remove_private_tags()
            item.walk(lambda _, inner: inner.value)  # converts, and so finds damage
        return element if proper == element.VR else None
    except files.DAMAGED:
        return None


def _number(header: Dataset, keyword: str) -> float | None:
    try:
        number = float(header[keyword].value)
    except files.DAMAGED:
        return None
    return number if math.isfinite(number) else None


def _first_item(header: Dataset, keyword: str) -> Dataset:
    """Of a sequence; an empty data set where there is none."""
    sequence = files.value_of(header, keyword)
    return sequence[0] if isinstance(sequence, DicomSequence) and sequence else Dataset()


def _group(header: Dataset, sequence: str) -> Dataset:
    """An enhanced file's functional group, the frame's own before the shared one; empty where there is none."""
    own, shared = (_first_item(header, f"{kind}FunctionalGroupsSequence") for kind in ("PerFrame", "Shared"))
    return _first_item(own, sequence) or _first_item(shared, sequence)


def _fill_required(result: Dataset) -> None:
    """Elements that must be there, if only empty, and that the source left out."""
    for keyword in (
        "PatientName",
        "PatientID",
        "PatientBirthDate",
        "PatientSex",
        "StudyID",
        "StudyDate",
        "StudyTime",
        "AccessionNumber",
        "ReferringPhysicianName",
        "PositionReferenceIndicator",
        "PatientPosition",
        "AcquisitionNumber",
    ):
        if keyword not in result:
            setattr(result, keyword, None)
    for keyword in ("StudyInstanceUID", "FrameOfReferenceUID"):
        if not result.get(keyword):
            setattr(result, keyword, _new_uid())


def _mr_acquisition(header: Dataset, derivation: Derivation) -> Dataset:
    result = Dataset()
    if derivation.keeps_contrast:
        result.update(_kept(header, attributes.MR_ACQUISITION))
        for sequence, keyword, ours in attributes.ENHANCED_MR:
            number = _number(_group(header, sequence), keyword)
            if ours not in result and number is not None:
                setattr(result, ours, _decimal(number) if dictionary_VR(ours) == "DS" else str(round(number)))
    for keyword, default in (("ScanningSequence", "RM"), ("SequenceVariant", "NONE")):
        if not result.get(keyword):
            setattr(result, keyword, default)
    for keyword in ("ScanOptions", "MRAcquisitionType", "EchoTime", "RepetitionTime", "EchoTrainLength"):
        if keyword not in result:
            setattr(result, keyword, None)
    return result


def _ct_acquisition(header: Dataset, derivation: Derivation) -> Dataset:
    result = _kept(header, attributes.CT_ACQUISITION if derivation.keeps_contrast else ())
    if "KVP" not in result:
        result.KVP = None
    return result


def _time_zone(series: Dataset) -> datetime.timezone | None:
    """Of all dates and times in the series, where its source states one; else None for this machine's."""
    match = re.fullmatch(r"([+-])(\d\d)([0-5]\d)", str(files.value_of(series, "TimezoneOffsetFromUTC") or ""))
    if match is None or int(match[2]) > 14:
        return None
    offset = datetime.timedelta(hours=int(match[2]), minutes=int(match[3]))
    return datetime.timezone(offset if match[1] == "+" else -offset)


def _image_type(header: Dataset, derivation: Derivation) -> list[str]:
    """What the source says about its image beyond the first two values, unless it is another image now."""
    values = (
        [str(value) for value in _list(files.value_of(header, "ImageType"))[2:]] if derivation.keeps_contrast else []
    )
    return values or ["OTHER"]


def _window(volume: Volume, scale: Scale, derivation: Derivation) -> tuple[str, str]:
    """One window for the series: the source's first, or the one that shows all but the brightest 0.1 %.

    The source's does not fit what may be on another scale of intensities.
    """
    header = volume.source.header if derivation.keeps_contrast else Dataset()
    stated = header if "WindowCenter" in header else _group(header, "FrameVOILUTSequence")
    try:
        values = [_list(files.value_of(stated, name)) for name in ("WindowCenter", "WindowWidth")]
        center, width = (float(of_name[0]) for of_name in values)
        found = math.isfinite(center) and math.isfinite(width)
    except (IndexError, TypeError, ValueError):
        found = False
    if not found:
        low, high = float(volume.data.min()), float(np.quantile(volume.data[::2, ::2, ::2], 0.999))
        center, width = (low + high) / 2, high - low
    # A window stands behind the slope, which MR does not have.
    factor = 1.0 if volume.source.is_ct else 1 / scale.slope
    center, width = _decimals([center * factor, max(width * factor, 1.0)])
    return center, width


def _factors(volume: Volume) -> list[str]:
    """How many times as fine the voxels are as the source's, along columns, rows and slices; all "1" on its grid."""
    spacings = zip(volume.source.spacing_mm, voxel_spacing_mm(volume.affine), strict=True)
    return [f"{old / new:.3g}" for old, new in spacings]


def _description(volume: Volume, scale: Scale, derivation: Derivation) -> str:
    factors = _factors(volume)
    finer = f"voxels {' x '.join(factors)} times as fine (column, row, slice)"
    text = (
        f"{PROGRAM} {__version__}, recipe {derivation.recipe}: "
        f"{derivation.work} by a network, "
        f"{'on the same grid' if set(factors) == {'1'} else finer}."
    )
    if not volume.source.is_ct and scale.slope != 1:
        text += f" Stored values are the source's intensities times {1 / scale.slope:g}."
    return text[:1024]


def _reference(class_uid: UID, instance_uid: UID) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = class_uid
    item.ReferencedSOPInstanceUID = instance_uid
    item.PurposeOfReferenceCodeSequence = [_code(codes.DCM.SourceImageForImageProcessingOperation)]
    return item


def _scanner(header: Dataset) -> Dataset:
    item = _kept(header, attributes.SCANNER)
    if "Manufacturer" not in item:
        item.Manufacturer = "unknown"
    item.PurposeOfReferenceCodeSequence = [_code(codes.DCM.AcquisitionEquipment)]
    return item


def _program(derivation: Derivation) -> Dataset:
    item = Dataset()
    item.Manufacturer = item.ManufacturerModelName = PROGRAM
    item.SoftwareVersions = __version__
    item.ContributionDescription = f"recipe {derivation.recipe}"
    item.PurposeOfReferenceCodeSequence = [_code(codes.DCM.ProcessingEquipment)]
    return item


def _code(code: Code) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = code.value, code.scheme_designator, code.meaning
    return item


def _meta(class_uid: UID, instance_uid: UID) -> FileMetaDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = class_uid
    meta.MediaStorageSOPInstanceUID = instance_uid
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return meta


def _new_uid() -> UID:
    """Random, below 2.25: a repeated run has new dates, and equal UIDs would have to mean equal files."""
    return generate_uid(prefix=None)


def _decimals(values: Sequence[float]) -> list[str]:
    """Decimal strings of 16 characters at most, exact to 1e-9 for anything in a scanner."""
    return [_decimal(float(value)) for value in values]


def _decimal(value: float) -> str:
    text = f"{value:.10f}".rstrip("0").rstrip(".") if 1e-4 <= abs(value) < 1e4 else f"{value:.9g}"
    return "0" if text == "-0" else text[:16]


def _list(value: object) -> list:
    return [] if value is None else [value] if isinstance(value, (str, int, float)) else list(value)


def _whole(header: Dataset, keyword: str) -> int:
    try:
        return int(files.value_of(header, keyword) or 0)
    except (TypeError, ValueError):
        return 0
