"""Stored values of a file's frames, decoded only after it is known how large they will be."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from pydicom.encaps import generate_frames
from pydicom.pixels import get_decoder
from pydicom.uid import (
    JPEG2000,
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from tf_mrsr.dicom import files
from tf_mrsr.dicom.frames import Frame, PixelForm
from tf_mrsr.errors import VolumeError

# Of one picture, of a series, and of what a compressed series may grow to: blank pictures alone grow more.
MAX_FRAME_PIXELS = 2**26
MAX_VOXELS = 2**30
MAX_COMPRESSION = 1000
_MOST_SURPLUS = 1.5  # of bytes over what the header explains; some writers pad
_MAX_COUNTED_BYTES = 2**20  # a small series is read whatever its compression

NATIVE = {ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian}


class _Codec(NamedTuple):
    plugin: str
    first_marker: bytes


CODECS = {
    JPEG2000Lossless: _Codec("pylibjpeg", b"\xff\x51"),
    JPEG2000: _Codec("pylibjpeg", b"\xff\x51"),
    JPEGLSLossless: _Codec("pyjpegls", b"\xff\xf7"),
    JPEGLSNearLossless: _Codec("pyjpegls", b"\xff\xf7"),
}


def check_form(frames: Sequence[Frame]) -> None:
    """Refuses what cannot be decoded, or should not be for its size, before anything of it is read.

    Raises:
        VolumeError: if a transfer syntax is unknown or its codec missing, a pixel's form is none that holds grey
            values, files are shorter than their pixels, or the whole is larger than ``MAX_VOXELS``.
    """
    forms = {frame.path: (frame.label, frame.form) for frame in frames}
    for label, form in forms.values():
        _check_syntax(form.transfer_syntax)
        _check_pixels(label, form)
    voxels = sum(form.rows * form.columns * form.frames for _, form in forms.values())
    if voxels > MAX_VOXELS:
        raise VolumeError(f"the headers promise {voxels:.3g} voxels, more than {MAX_VOXELS:.3g}; they are damaged")
    promised = stored = 0
    for path, (label, form) in forms.items():
        expected, size = form.frame_bytes * form.frames, path.stat().st_size
        if form.transfer_syntax in NATIVE and size < expected:
            raise VolumeError(_truncated(label))
        if form.transfer_syntax in NATIVE and size > expected + files.MAX_HEADER_BYTES:
            raise VolumeError(f"{label}: the file is far larger than its header says; it is damaged")
        promised, stored = promised + expected, stored + size
    if promised > max(MAX_COMPRESSION * stored, _MAX_COUNTED_BYTES):
        raise VolumeError(
            f"the headers promise {promised:.3g} bytes of pixels out of {stored} bytes of files; they are damaged"
        )


def _check_syntax(syntax: UID) -> None:
    if syntax in NATIVE | {RLELossless, DeflatedExplicitVRLittleEndian}:
        return
    if syntax not in CODECS:
        name = syntax.name if syntax.is_valid else "not a UID"
        raise VolumeError(
            f"the transfer syntax {name} is not supported; convert the files to uncompressed ones, for instance with "
            "gdcmconv --raw or dcmdjpeg"
        )
    if CODECS[syntax].plugin not in get_decoder(syntax).available_plugins:
        raise VolumeError(
            f"compressed with {syntax.name}; install the codecs with pip install '.[codecs]' in tf_mrsr's folder"
        )


def _check_pixels(label: str, form: PixelForm) -> None:
    if not form.rows or not form.columns or form.rows < 0 or form.columns < 0:
        raise VolumeError(f"{label} has no pixels (Rows {form.rows}, Columns {form.columns}); it is damaged")
    if form.rows * form.columns > MAX_FRAME_PIXELS:
        raise VolumeError(
            f"{label} promises {form.columns} x {form.rows} pixels, more than {MAX_FRAME_PIXELS:.3g}; it is damaged"
        )
    allocated, stored = form.bits_allocated, form.bits_stored
    usual = allocated in (8, 16, 32) and stored is not None and 1 <= stored <= allocated
    if not usual or form.high_bit != stored - 1 or (form.transfer_syntax == ExplicitVRBigEndian and allocated == 8):
        raise VolumeError(
            f"{label} stores pixels as {stored} of {allocated} bits, highest {form.high_bit}; expected whole numbers "
            "of 8, 16 or 32 bits"
        )


def decode(frames: Sequence[Frame]) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
    """The stored values (row, column) of all frames of one file, in order, and where each frame is padding.

    Where a file states no padding there is None.

    Args:
        frames: all frames of the file, checked by ``check_form``.

    Raises:
        VolumeError: if pixels are missing or damaged.
    """
    form, label = frames[0].form, frames[0].label
    expected = form.frame_bytes * form.frames
    file = files.read_file(
        frames[0].path,
        ["PixelData", "ExtendedOffsetTable", "ExtendedOffsetTableLengths"],
        stop_before_pixels=False,
        limit=expected + files.MAX_HEADER_BYTES,
    )
    data = files.value_of(file.dataset, "PixelData")
    if not isinstance(data, bytes) or not data:
        raise VolumeError(_truncated(label))
    if form.transfer_syntax in NATIVE | {DeflatedExplicitVRLittleEndian}:
        if len(data) < expected:
            raise VolumeError(_truncated(label))
        if file.dataset["PixelData"].is_undefined_length or len(data) > _MOST_SURPLUS * expected:
            raise VolumeError(
                f"{label} holds other pixels than its header says ({len(data)} bytes, not {expected}); it is damaged, "
                "fetch it again"
            )
        order = ">" if form.transfer_syntax == ExplicitVRBigEndian else "<"
        values = np.frombuffer(data, _dtype(form).newbyteorder(order), expected * 8 // form.bits_allocated)
        for picture in values.reshape(form.frames, form.rows, form.columns):
            yield _stored_and_padding(picture.astype(_dtype(form)), form)
        return
    count = 0
    try:
        for frame, encoded in zip(frames, _encoded(file, data, form), strict=False):
            picture = _unpack(frame.label, encoded, form)
            count += 1
            yield _stored_and_padding(picture, form)
    except files.DAMAGED as error:
        raise VolumeError(f"{frames[count].label}: {_DAMAGED}") from error
    if count < form.frames:
        raise VolumeError(_truncated(frames[count].label))


_DAMAGED = "the compressed pixels are damaged; fetch the series again"


def _encoded(file: files.File, data: bytes, form: PixelForm) -> Iterator[bytes]:
    offsets = file.dataset.get("ExtendedOffsetTable"), file.dataset.get("ExtendedOffsetTableLengths")
    return generate_frames(data, number_of_frames=form.frames, extended_offsets=offsets if all(offsets) else None)


def _unpack(label: str, encoded: bytes, form: PixelForm) -> np.ndarray:
    if form.transfer_syntax == RLELossless:
        return _unpack_rle(label, encoded, form)
    codec = CODECS[form.transfer_syntax]
    if not encoded.rstrip(b"\x00").endswith(b"\xff\xd9"):
        raise VolumeError(_truncated(label))
    size = _stream_size(encoded, codec.first_marker)
    if size != (form.rows, form.columns, 1):
        raise VolumeError(
            f"{label}: the compressed picture is {size[1]} x {size[0]} pixels of {size[2]} values, its header says "
            f"{form.columns} x {form.rows} of 1; it is damaged or hostile"
        )
    try:
        pixels, _ = get_decoder(form.transfer_syntax).as_array(
            _one_item(encoded),
            index=0,
            raw=True,
            decoding_plugin=codec.plugin,
            rows=form.rows,
            columns=form.columns,
            samples_per_pixel=1,
            number_of_frames=1,
            photometric_interpretation=form.photometric,
            pixel_representation=int(form.signed),
            pixel_keyword="PixelData",
            bits_allocated=form.bits_allocated,
            bits_stored=form.bits_stored,
        )
    except RuntimeError as error:
        raise VolumeError(f"{label}: {_DAMAGED}") from error
    return pixels.astype(_dtype(form))


def _one_item(encoded: bytes) -> bytes:
    """A frame encapsulated again: an empty table of offsets, one fragment."""
    padded = encoded + b"\x00" * (len(encoded) % 2)
    return b"\xfe\xff\x00\xe0" + bytes(4) + b"\xfe\xff\x00\xe0" + len(padded).to_bytes(4, "little") + padded


def _stream_size(encoded: bytes, marker: bytes) -> tuple[int, int, int]:
    """Rows, columns and values per pixel that a JPEG 2000 (SIZ) or JPEG-LS (SOF55) stream itself announces."""
    start = encoded.find(marker) + 2
    if start < 2:
        raise ValueError("no size in the stream")

    def number(offset: int, size: int) -> int:
        return int.from_bytes(encoded[start + offset : start + offset + size], "big")

    if marker == b"\xff\xf7":  # length 2, precision 1, rows 2, columns 2, components 1
        return number(3, 2), number(5, 2), number(7, 1)
    # Length 2, capabilities 2, extent x 4, y 4, offset x 4, y 4, tiles 16, components 2.
    return number(8, 4) - number(16, 4), number(4, 4) - number(12, 4), number(36, 2)


def _unpack_rle(label: str, encoded: bytes, form: PixelForm) -> np.ndarray:
    """A frame of DICOM RLE: its bytes by significance, the highest first, each packed on its own."""
    header = np.frombuffer(encoded[:64], "<u4")
    width = form.bits_allocated // 8
    if len(header) < 16 or header[0] != width:
        raise ValueError("the number of segments is not that of a pixel's bytes")
    bounds = [*(int(o) for o in header[1 : width + 1]), len(encoded)]
    pixels = form.rows * form.columns
    planes = [_unpack_bits(label, encoded[start:end], pixels) for start, end in pairwise(bounds)]
    whole = np.stack([np.frombuffer(plane, np.uint8) for plane in planes], axis=-1)
    return whole.reshape(-1).view(_dtype(form).newbyteorder(">")).astype(_dtype(form)).reshape(form.rows, form.columns)


def _unpack_bits(label: str, packed: bytes, size: int) -> bytes:
    """PackBits, never more than some bytes beyond ``size``."""
    result = bytearray()
    place = 0
    while place < len(packed) and len(result) < size:
        count = packed[place]
        if count < 128:
            result += packed[place + 1 : place + count + 2]
            place += count + 2
        else:
            result += packed[place + 1 : place + 2] * (257 - count if count > 128 else 0)
            place += 2 if count > 128 else 1
    if len(result) < size:
        raise VolumeError(_truncated(label))
    if len(result) > size or len(packed) - place > 1:  # one byte may follow, to make the length even
        raise VolumeError(f"{label}: the compressed pixels are more than the header promises; damaged or hostile")
    return bytes(result)


def _dtype(form: PixelForm) -> np.dtype:
    return np.dtype(f"{'i' if form.signed else 'u'}{form.bits_allocated // 8}")


def _stored_and_padding(pixels: np.ndarray, form: PixelForm) -> tuple[np.ndarray, np.ndarray | None]:
    """Pixels without what old files keep above the stored bits (overlays), the sign extended, and where padding is.

    Padding may need those bits, as -2000 does where 12 are stored, so it is looked for before they go.
    """
    padding = None
    if form.padding is not None:
        padding = (pixels >= form.padding[0]) & (pixels <= form.padding[1])
    unused = form.bits_allocated - form.bits_stored
    return (pixels << unused) >> unused if unused else pixels, padding


def _truncated(label: str) -> str:
    return f"{label}: truncated pixel data, fewer pixels than the header promises; fetch the series again"
