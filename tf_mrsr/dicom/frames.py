"""What one slice says about itself, in classic files and in multi-frame ones alike."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pydicom.dataset import Dataset
from pydicom.uid import (
    UID,
    CTImageStorage,
    EnhancedCTImageStorage,
    EnhancedMRImageStorage,
    LegacyConvertedEnhancedCTImageStorage,
    LegacyConvertedEnhancedMRImageStorage,
    MRImageStorage,
)

from tf_mrsr.dicom.files import DAMAGED, File

CLASSIC = {MRImageStorage, CTImageStorage}
ENHANCED = {
    EnhancedMRImageStorage,
    LegacyConvertedEnhancedMRImageStorage,
    EnhancedCTImageStorage,
    LegacyConvertedEnhancedCTImageStorage,
}
CT = {CTImageStorage, EnhancedCTImageStorage, LegacyConvertedEnhancedCTImageStorage}
MAX_FRAMES = 2**16
# Siemens' count of slices in one picture. Others use the same element for other things, so its creator counts, whose
# own place says in which block the element lies.
_MOSAIC_GROUP, _MOSAIC_ELEMENT, _MOSAIC_CREATOR = 0x0019, 0x0A, "SIEMENS MR HEADER"
_MOSAIC_TAGS = tuple(
    _MOSAIC_GROUP << 16 | element for block in range(0x10, 0x20) for element in (block, block << 8 | _MOSAIC_ELEMENT)
)

HEADER = (
    "ImageType",
    "SOPClassUID",
    "SOPInstanceUID",
    "SeriesDescription",
    "Modality",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "InstanceNumber",
    "FrameOfReferenceUID",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "SliceThickness",
    "RescaleSlope",
    "RescaleIntercept",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "NumberOfFrames",
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "PixelPaddingValue",
    "PixelPaddingRangeLimit",
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
)
TAGS = (*HEADER, *_MOSAIC_TAGS)


@dataclass(frozen=True)
class PixelForm:
    """How a file's pixels are stored; a number is None where the file does not state it.

    ``padding``: lowest and highest stored value of pixels that were never measured.
    """

    rows: int | None
    columns: int | None
    frames: int | None
    samples: int | None
    photometric: str
    bits_allocated: int | None
    bits_stored: int | None
    high_bit: int | None
    signed: bool
    padding: tuple[int, int] | None
    transfer_syntax: UID

    @property
    def is_colour(self) -> bool:
        return self.samples not in (None, 1) or self.photometric not in ("MONOCHROME1", "MONOCHROME2")

    @property
    def frame_bytes(self) -> int:
        return self.rows * self.columns * self.bits_allocated // 8


@dataclass(frozen=True)
class Frame:
    """One slice, without its pixels; DICOM's coordinates (LPS). What the file does not state is None.

    Attributes:
        path: the file.
        index: which of the file's frames.
        label: what messages call it.
        class_uid, instance_uid: the object that it is part of.
        image_type: values of the image type.
        frame_of_reference: UID of the space that positions are in.
        position: centre of the first pixel in mm.
        orientation: direction cosines of a row (towards larger columns) and of a column.
        pixel_spacing: mm between rows, mm between columns.
        thickness: mm.
        slope, intercept: from stored values to intensities.
        form: how its pixels are stored.
        mosaic: whether many slices lie side by side in it.
    """

    path: Path
    index: int
    label: str
    class_uid: UID
    instance_uid: UID
    image_type: tuple[str, ...]
    frame_of_reference: str
    position: tuple[float, ...] | None
    orientation: tuple[float, ...] | None
    pixel_spacing: tuple[float, ...] | None
    thickness: float | None
    slope: float | None
    intercept: float | None
    form: PixelForm
    mosaic: bool


def frames_of(path: Path, file: File) -> Iterator[Frame]:
    """The slices in a file, in its order."""
    dataset = file.dataset
    form = _form(file)
    number = _whole(dataset, "InstanceNumber")
    common = {
        "path": path,
        "class_uid": UID(_text(dataset, "SOPClassUID")),
        "instance_uid": UID(_text(dataset, "SOPInstanceUID")),
        "image_type": tuple(str(v).upper() for v in _values(dataset, "ImageType")),
        "frame_of_reference": _text(dataset, "FrameOfReferenceUID"),
        "form": form,
        "mosaic": _is_mosaic(dataset),
    }
    if common["class_uid"] not in ENHANCED:
        label = "an instance without number" if number is None else f"instance {number}"
        yield Frame(index=0, label=label, **common, **_geometry([dataset]))
        return
    shared = _items(dataset, "SharedFunctionalGroupsSequence")
    # A file that describes no frame becomes one without a position, which is refused where positions are checked.
    for index, own in enumerate(_items(dataset, "PerFrameFunctionalGroupsSequence") or [Dataset()]):
        groups = [_flat(own), *map(_flat, shared[:1])]
        yield Frame(index=index, label=f"frame {index + 1}", **common, **_geometry(groups))


def _is_mosaic(dataset: Dataset) -> bool:
    if "MOSAIC" in (str(value).upper() for value in _values(dataset, "ImageType")):
        return True
    try:
        return _MOSAIC_ELEMENT in dataset.private_block(_MOSAIC_GROUP, _MOSAIC_CREATOR)
    except DAMAGED:  # a KeyError where no block is Siemens'
        return False


def _flat(groups: Dataset) -> Dataset:
    """The functional groups that matter here, their items' elements side by side."""
    result = Dataset()
    for keyword in (
        "PlanePositionSequence",
        "PlaneOrientationSequence",
        "PixelMeasuresSequence",
        "PixelValueTransformationSequence",
    ):
        for item in _items(groups, keyword)[:1]:
            result.update(item)
    return result


def _geometry(datasets: list[Dataset]) -> dict[str, object]:
    """Each fact from the first of ``datasets`` that states it."""

    def first(keyword: str) -> Dataset:
        return next((d for d in datasets if keyword in d), datasets[0])

    return {
        "position": _numbers(first("ImagePositionPatient"), "ImagePositionPatient", 3),
        "orientation": _numbers(first("ImageOrientationPatient"), "ImageOrientationPatient", 6),
        "pixel_spacing": _numbers(first("PixelSpacing"), "PixelSpacing", 2),
        "thickness": _number(first("SliceThickness"), "SliceThickness", None),
        "slope": _number(first("RescaleSlope"), "RescaleSlope", 1.0),
        "intercept": _number(first("RescaleIntercept"), "RescaleIntercept", 0.0),
    }


def _form(file: File) -> PixelForm:
    dataset = file.dataset
    signed = _whole(dataset, "PixelRepresentation") == 1
    return PixelForm(
        rows=_whole(dataset, "Rows"),
        columns=_whole(dataset, "Columns"),
        frames=_whole(dataset, "NumberOfFrames") if "NumberOfFrames" in dataset else 1,
        samples=_whole(dataset, "SamplesPerPixel"),
        photometric=_text(dataset, "PhotometricInterpretation"),
        bits_allocated=_whole(dataset, "BitsAllocated"),
        bits_stored=_whole(dataset, "BitsStored"),
        high_bit=_whole(dataset, "HighBit"),
        signed=signed,
        padding=_padding(dataset, signed=signed),
        transfer_syntax=file.transfer_syntax,
    )


def _padding(dataset: Dataset, *, signed: bool) -> tuple[int, int] | None:
    """Lowest and highest stored value of padding (DICOM PS3.3, C.7.5.1.1.2); None where there is none."""
    value = _whole(dataset, "PixelPaddingValue")
    if value is None:
        return None
    limit = _whole(dataset, "PixelPaddingRangeLimit")
    # Programs have taken -2000 for the unsigned 63536, or the other way round; both have 16 bits.
    ends = [end % 2**16 for end in (value, value if limit is None else limit)]
    if signed:
        ends = [end - 2**16 if end >= 2**15 else end for end in ends]
    return min(ends), max(ends)


def _values(dataset: Dataset, keyword: str) -> list:
    """The values of an element; none if it is absent, empty or cannot be understood."""
    try:
        value = dataset.get(keyword)
        if value is None or value == "":
            return []
        return [value] if isinstance(value, (str, int, float)) else list(value)
    except DAMAGED:
        return []


def _items(dataset: Dataset, keyword: str) -> list[Dataset]:
    return [item for item in _values(dataset, keyword) if isinstance(item, Dataset)][:MAX_FRAMES]


def _text(dataset: Dataset, keyword: str) -> str:
    values = _values(dataset, keyword)
    return str(values[0]) if values else ""


def _whole(dataset: Dataset, keyword: str) -> int | None:
    value = _number(dataset, keyword, None)
    return int(value) if value is not None and value == int(value) else None


def _number(dataset: Dataset, keyword: str, default: float | None) -> float | None:
    """``default`` where the element is absent or empty, None where it is no finite number."""
    try:
        if keyword not in dataset or dataset[keyword].is_empty:
            return default
    except DAMAGED:
        return None
    numbers = _numbers(dataset, keyword, 1)
    return numbers[0] if numbers else None


def _numbers(dataset: Dataset, keyword: str, count: int) -> tuple[float, ...] | None:
    try:
        numbers = tuple(float(v) for v in _values(dataset, keyword))
    except (TypeError, ValueError):
        return None
    return numbers if len(numbers) == count and all(map(math.isfinite, numbers)) else None


def modality(dataset: Dataset) -> str:
    return "".join(c for c in _text(dataset, "Modality") if c.isalnum())[:16]


def description(dataset: Dataset) -> str:
    """The series' description, in one printable line."""
    return "".join(c if c.isprintable() else " " for c in _text(dataset, "SeriesDescription"))


def uid(dataset: Dataset, keyword: str) -> str:
    """A UID, of which only what may stand in one."""
    return "".join(c for c in _text(dataset, keyword) if c in "0123456789.")[:64]
