"""Single DICOM files, opened within bounds and without a word about what is in them."""

from __future__ import annotations

import contextlib
import io
import logging
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pydicom
from pydicom import config
from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.filewriter import write_file_meta_info
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian

from tf_mrsr.errors import VolumeError

MAX_HEADER_BYTES = 2**26
PREAMBLE_BYTES = 132
_ONE_AT_A_TIME = threading.RLock()
# What pydicom raises at damaged files, according to where the damage is.
DAMAGED = (
    AttributeError,
    BytesLengthException,
    EOFError,
    IndexError,
    InvalidDicomError,
    KeyError,
    NotImplementedError,  # pydicom raises it when it converts a value of a value representation that does not exist
    OverflowError,
    RecursionError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)


class File(NamedTuple):
    """What was read of a file.

    Attributes:
        dataset: the elements asked for.
        transfer_syntax: as the file states it; ``dataset`` itself is inflated already.
        class_uid: the kind of object that the file's first lines announce.
    """

    dataset: Dataset
    transfer_syntax: UID
    class_uid: UID


def value_of(dataset: Dataset, keyword: str) -> object:
    """An element's value; None where it is absent or damaged, which shows only now that pydicom converts it."""
    try:
        return dataset.get(keyword)
    except DAMAGED:
        return None


def is_dicom(path: Path) -> bool:
    """Whether the file can be read and announces itself as DICOM (128 bytes of anything, then DICM)."""
    try:
        return announces_dicom(path)
    except VolumeError:
        return False


def announces_dicom(path: Path) -> bool:
    """As ``is_dicom``, of a file that must be readable.

    Raises:
        VolumeError: if it cannot be read; the message names the file.
    """
    try:
        with path.open("rb") as stream:
            return stream.read(PREAMBLE_BYTES)[128:] == b"DICM"
    except OSError as error:
        raise VolumeError(
            f"{path.name} cannot be read ({error.strerror}); check its permissions and the disk, or remove it"
        ) from error


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Pydicom warns of odd values by printing them, names of patients included.

    Its settings and Python's warnings belong to the whole process, so one thread at a time changes them.
    """
    with _ONE_AT_A_TIME, warnings.catch_warnings():
        settings, logger = config.settings, logging.getLogger("pydicom")
        kept = settings.reading_validation_mode, settings.writing_validation_mode, logger.disabled
        settings.reading_validation_mode = settings.writing_validation_mode = config.IGNORE
        logger.disabled = True
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            settings.reading_validation_mode, settings.writing_validation_mode, logger.disabled = kept


def read_file(path: Path, keywords: Sequence[str], *, stop_before_pixels: bool, limit: int = MAX_HEADER_BYTES) -> File:
    """Reads some elements of a file.

    Args:
        path: the file.
        keywords: the elements' DICOM keywords; all others are skipped. Empty for all.
        stop_before_pixels: leave the pixel data out.
        limit: the bytes that a deflated file may have once inflated.

    Raises:
        VolumeError: if the file is damaged; the message names the file.
    """
    try:
        meta = pydicom.filereader.read_file_meta_info(path)
        syntax = UID(meta.TransferSyntaxUID)
        source = path
        if syntax == DeflatedExplicitVRLittleEndian:
            source = _inflated(path, meta, limit, partly=stop_before_pixels)
        dataset = pydicom.dcmread(source, stop_before_pixels=stop_before_pixels, specific_tags=list(keywords) or None)
        return File(dataset, syntax, UID(meta.get("MediaStorageSOPClassUID", "")))
    except OSError as error:
        raise VolumeError(f"{path.name} cannot be read ({error.strerror or 'damaged'})") from error
    except DAMAGED as error:
        raise VolumeError(
            f"{path.name} is damaged DICOM; fetch it again, or remove it if it does not belong"
        ) from error


def _inflated(path: Path, meta: Dataset, limit: int, *, partly: bool) -> io.BytesIO:
    """The file as it would be without the compression of its data set, of which no more than ``limit`` bytes."""
    with path.open("rb") as stream:
        # The group length element (12 bytes) gives the length of what follows it and is not compressed.
        stream.seek(PREAMBLE_BYTES + 12 + meta.FileMetaInformationGroupLength)
        packed = stream.read()
    engine = zlib.decompressobj(-zlib.MAX_WBITS)
    content = engine.decompress(packed, limit)
    if not engine.eof and len(content) >= limit and not partly:
        raise VolumeError(
            f"{path.name} inflates to more than the {limit} bytes that its header explains; it is damaged or hostile"
        )
    if not engine.eof and len(content) < limit:
        raise EOFError
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    result = io.BytesIO()
    result.write(bytes(128) + b"DICM")
    write_file_meta_info(result, meta)
    result.write(content)
    result.seek(0)
    return result
