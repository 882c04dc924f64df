"""NIfTI-1 and NIfTI-2 files, read strictly and written plainly."""

from __future__ import annotations

import gzip
import os
import tempfile
import zlib
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.volumeutils import apply_read_scaling

from tf_mrsr import __version__, storage
from tf_mrsr.errors import GeometryError, OutputError, VolumeError
from tf_mrsr.geometry import voxel_spacing_mm
from tf_mrsr.volume import HeaderFacts, Volume

# A whole-body scan at 0.5 mm has about 2e9 voxels; more than this in one file is taken for a damaged header.
MAX_VOXELS = 2**31
MAX_TRAILING_BYTES = 2**20
MAX_OFFSET_BYTES = 2**26  # extensions stand between header and voxels
_CHUNK_BYTES = 2**22
_MOST_INFLATION = 1032  # of deflate, which gzip uses
_LONGEST_HEADER = 544  # NIfTI-2's, with the four bytes that announce extensions
_ROUNDING_MM = 1e-2  # of a header's single precision
_LENGTH_BITS = 7  # of xyzt_units; the others say what the fourth axis counts
_MM_PER_UNIT = {"unknown": 1.0, "mm": 1.0, "meter": 1000.0, "micron": 0.001}


def read(path: Path, *, nan: str = "refuse") -> Volume:
    """Reads a file; see ``tf_mrsr.volume.read_volume``. The dimensions are checked before anything is allocated."""
    if nan not in ("refuse", "zero"):
        raise ValueError(f"nan must be 'refuse' or 'zero', got {nan!r}")
    try:
        header, voxels = _load(path)
        affine = _affine(path, header)
        header_facts = _header_facts(path, header)
        with np.errstate(over="ignore", invalid="ignore"):
            data = _scaled(voxels, *_slope_and_intercept(path, header))
        volume = Volume(_finite(path, data, nan), affine, header_facts)
    except GeometryError as error:
        raise VolumeError(f"{path}: {error}") from error
    except OSError as error:
        raise VolumeError(f"{path}: cannot be read ({error.strerror or error})") from error
    return volume


def write(volume: Volume, path: Path) -> None:
    """Writes float32 NIfTI-1 (NIfTI-2 where an axis is longer than 32767) with a fresh header, then renames."""
    image_class = nib.Nifti1Image if max(volume.shape) < 2**15 else nib.Nifti2Image
    image = image_class(volume.data, volume.affine)
    image.header.set_data_dtype(np.float32)
    image.header.set_xyzt_units("mm")
    image.header["descrip"] = f"tf_mrsr {__version__}".encode()
    image.set_sform(volume.affine, code=volume.header.sform_code)
    image.set_qform(volume.affine, code=volume.header.qform_code)
    if not _is_near(image.get_qform(), volume.affine, volume.shape):
        image.set_qform(volume.affine, code=0)

    suffix = ".nii.gz" if path.name.lower().endswith(".gz") else ".nii"
    temporary = None
    try:
        handle, temporary = tempfile.mkstemp(prefix=".tf_mrsr-", suffix=suffix, dir=path.parent)
        os.close(handle)
        nib.save(image, temporary)
        storage.give_permissions(Path(temporary), path)
        os.replace(temporary, path)
    except OSError as error:
        raise OutputError(
            f"{path}: cannot be written ({error.strerror or error}); check the folder and the disk"
        ) from error
    finally:
        if temporary is not None and os.path.exists(temporary):
            os.remove(temporary)


def _load(path: Path) -> tuple[nib.Nifti1Header, np.ndarray]:
    """Header and raw voxels (x, y, z), read to the file's last byte so that a gzip's checksum has been compared."""
    if path.stat().st_size == 0:
        raise VolumeError(f"{path}: the file is empty")
    with path.open("rb") as raw:
        packed = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        stream = gzip.GzipFile(fileobj=raw) if packed else raw
        try:
            head = stream.read(_LONGEST_HEADER)
            header = _header(path, head)
            if header["pixdim"][0] == 0:  # the standard's qfac, for which 0 stands for 1
                header["pixdim"][0] = 1
            count, offset = _check_header(path, header)
            size = count * header.get_data_dtype().itemsize
            most = path.stat().st_size * (_MOST_INFLATION if packed else 1)
            if offset + size > most:
                raise VolumeError(
                    f"{path}: truncated, {'at most ' if packed else ''}{most} bytes where the header promises "
                    f"{offset + size}; fetch the file again"
                )
            stream.seek(offset)
            content = _read_exactly(path, stream, size)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise VolumeError(f"{path}: damaged gzip data ({error}); fetch the file again from its source") from error
    if len(content) < size:
        raise VolumeError(
            f"{path}: truncated, {len(content)} bytes of voxels where the header promises {size}; fetch the file again"
        )
    voxels = np.frombuffer(content, header.get_data_dtype(), count)
    return header, voxels.reshape(header.get_data_shape()[:3], order="F")


def _scaled(voxels: np.ndarray, slope: float, intercept: float) -> np.ndarray:
    """Float32 intensities (x, y, z). NumPy scales in float64, so slice by slice, which takes no memory to speak of."""
    data = np.empty(voxels.shape, np.float32, order="F")
    for k in range(voxels.shape[2]):
        data[..., k] = apply_read_scaling(voxels[..., k], slope, intercept)
    return data


def _header(path: Path, head: bytes) -> nib.Nifti1Header:
    """The header, without its extensions, which may hold anything and are not carried over."""
    sizes = {int.from_bytes(head[:4], order) for order in ("little", "big")}
    if 348 in sizes and len(head) >= 352:
        if head[344:348] != b"n+1\x00":
            raise VolumeError(f"{path}: an Analyze or .hdr/.img header; expected single-file NIfTI, convert it first")
        return nib.Nifti1Header(head[:348], check=False)
    if 540 in sizes and len(head) >= _LONGEST_HEADER:
        return nib.Nifti2Header(head[:540], check=False)
    raise VolumeError(f"{path}: not a NIfTI file (no NIfTI header found)")


def _check_header(path: Path, header: nib.Nifti1Header) -> tuple[int, int]:
    """Number of voxels and first byte of the first one, after every check that the header alone allows."""
    dim = [int(d) for d in header["dim"]]
    shape = dim[1 : dim[0] + 1] if 0 < dim[0] < 8 else []
    if len(shape) < 3 or min(shape) < 1:
        raise VolumeError(
            f"{path}: dimensions {tuple(shape)} are not those of a volume; expected three, each 1 or more"
        )
    if any(d > 1 for d in shape[3:]):
        raise VolumeError(
            f"{path}: holds several volumes (shape {'x'.join(map(str, shape))}); split it first, one file per volume"
        )
    voxels = int(np.prod([float(d) for d in shape]))
    if voxels > MAX_VOXELS:
        raise VolumeError(f"{path}: the header promises {voxels:.3g} voxels, more than {MAX_VOXELS:.3g}; it is damaged")
    try:
        dtype = header.get_data_dtype()
    except (KeyError, nib.spatialimages.HeaderDataError) as error:
        raise VolumeError(f"{path}: unknown voxel type in the header; the header is damaged") from error
    if dtype.kind not in "iuf":
        raise VolumeError(f"{path}: voxels are {_kind_name(dtype)}; expected one real number per voxel")
    pixdim = np.asarray(header["pixdim"][1:4], np.float64)
    if not np.all(np.isfinite(pixdim)) or np.any(pixdim <= 0):
        raise VolumeError(
            f"{path}: voxel sizes (pixdim) are {pixdim.tolist()}; expected three positive numbers, repair the header"
        )
    offset = float(header["vox_offset"])
    smallest = header.sizeof_hdr + 4
    if not smallest <= offset <= MAX_OFFSET_BYTES:
        raise VolumeError(f"{path}: voxel data cannot begin at byte {offset:g} (vox_offset); the header is damaged")
    return voxels, int(offset)


def _kind_name(dtype: np.dtype) -> str:
    if dtype.kind == "V":
        return "colours (RGB)" if dtype.names else "of no type that holds numbers"
    return "complex numbers" if dtype.kind == "c" else str(dtype)


def _read_exactly(path: Path, stream: gzip.GzipFile, size: int) -> bytes:
    """``size`` bytes (fewer at the end of the file), then the rest drained, which is what checks a gzip's CRC."""
    body = stream.read(size)
    trailing = 0
    while chunk := stream.read(_CHUNK_BYTES):
        trailing += len(chunk)
        if trailing > MAX_TRAILING_BYTES:
            raise VolumeError(f"{path}: holds far more data than its header says; the header is damaged")
    return body


def _affine(path: Path, header: nib.Nifti1Header) -> np.ndarray:
    """The sform where its code is set, else the qform, else spacing alone (NIfTI's order), in mm."""
    try:
        affine = header.get_best_affine()
        unit = nib.nifti1.unit_codes.label[int(header["xyzt_units"]) & _LENGTH_BITS]
    except KeyError as error:
        raise VolumeError(f"{path}: unknown unit of length in the header (xyzt_units); repair the header") from error
    except (ValueError, nib.spatialimages.HeaderDataError) as error:
        raise VolumeError(
            f"{path}: the header's geometry cannot be read ({error}); repair its sform or qform"
        ) from error
    scale = _MM_PER_UNIT[unit]
    return np.diag([scale, scale, scale, 1.0]) @ affine


def _slope_and_intercept(path: Path, header: nib.Nifti1Header) -> tuple[float, float]:
    try:
        slope, intercept = header.get_slope_inter()
    except nib.spatialimages.HeaderDataError as error:
        raise VolumeError(f"{path}: slope and intercept cannot be used ({error}); repair the header") from error
    return (1.0, 0.0) if slope is None else (slope, intercept)


def _header_facts(path: Path, header: nib.Nifti1Header) -> HeaderFacts:
    sform_code, qform_code = int(header["sform_code"]), int(header["qform_code"])
    for name, code in (("sform_code", sform_code), ("qform_code", qform_code)):
        if code not in nib.nifti1.xform_codes.code:
            raise VolumeError(f"{path}: unknown {name} {code}; expected 0 to 5, repair the header")
    if sform_code <= 0:
        return HeaderFacts(max(qform_code, 0), max(qform_code, 0))
    return HeaderFacts(sform_code, qform_code if qform_code > 0 and _qform_agrees(header) else 0)


def _qform_agrees(header: nib.Nifti1Header) -> bool:
    """Whether qform and sform say the same: the written file states one affine, which no other one's code may name."""
    try:
        qform, sform = header.get_qform(), header.get_sform()
        nearest = header.copy()
        nearest.set_qform(sform, 1)
    except (ValueError, nib.spatialimages.HeaderDataError):  # no rotation, or a handedness other than 1 and -1
        return False
    same = np.allclose(qform, nearest.get_qform(), atol=_ROUNDING_MM)
    return same and _is_near(qform, sform, header.get_data_shape()[:3])


def _is_near(qform: np.ndarray, sform: np.ndarray, shape: Sequence[int]) -> bool:
    """Whether a qform may stand beside an sform of which it is the nearest that it can hold.

    It holds a rotation and spacings, so of sheared axes the nearest ones at right angles. Programs built on ITK read
    it where axes are sheared, and refuse a file without; it may not move a corner of the volume by half a voxel.
    """
    corners = np.array([[*corner, 1] for corner in product(*((-0.5, n - 0.5) for n in shape))])
    moved = np.linalg.norm((corners @ (qform - sform).T)[:, :3], axis=1).max()
    return bool(moved < min(voxel_spacing_mm(sform)) / 2)


def _finite(path: Path, data: np.ndarray, nan: str) -> np.ndarray:
    bad = ~np.isfinite(data)
    count = int(np.count_nonzero(bad))
    if count == 0:
        return data
    if nan == "zero":
        return np.where(bad, np.float32(0), data)
    raise VolumeError(
        f"{path}: {count} voxels are NaN, infinite or beyond float32; repair the file or set them to 0 with --nan zero"
    )
