"""A DICOM series as a volume."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import UID, JPEGLSNearLossless

from tf_mrsr.dicom import attributes, files, pixels
from tf_mrsr.dicom.frames import CT, ENHANCED, Frame
from tf_mrsr.dicom.series import Series, choose, find_series
from tf_mrsr.dicom.stack import Stack, arrange, check_kind
from tf_mrsr.errors import GeometryError, VolumeError, VolumeWarning, naming
from tf_mrsr.geometry import voxel_spacing_mm
from tf_mrsr.volume import HeaderFacts, Volume

_SCANNER_SPACE = 1  # NIfTI's code
_PER_FRAME = "PerFrameFunctionalGroupsSequence"


@dataclass(frozen=True, eq=False)
class DicomSource:
    """What a derived series needs of the one that its volume was read from.

    Attributes:
        header: what of the middle slice's header a derived slice may need; of a multi-frame file's functional groups
            the shared ones and the middle frame's own.
        instances: (SOP class UID, SOP instance UID) of every object, in the order of places.
        spacing_mm: of the series (x, y, z).
        slice_thickness_mm: as stated, or None.
        rescale: slope and intercept where all slices share them, or None.
    """

    header: Dataset
    instances: tuple[tuple[UID, UID], ...]
    spacing_mm: tuple[float, float, float]
    slice_thickness_mm: float | None
    rescale: tuple[float, float] | None

    @property
    def is_ct(self) -> bool:
        return self.instances[0][0] in CT


def read(path: Path, *, series_uid: str | None = None) -> Volume:
    """Reads a series; see ``tf_mrsr.volume.read_volume``.

    Everything that headers tell is checked before pixels are read.
    """
    try:
        series = find_series(path)
        chosen = choose(series, series_uid)
        try:
            with files.quiet():
                volume, repeated, padded = _read(chosen)
        except (GeometryError, VolumeError) as error:
            raise VolumeError(f"series {chosen.uid}: {error}" if len(series) > 1 else str(error)) from error
    except VolumeError as error:
        raise VolumeError(f"{path}: {error}") from error
    except OSError as error:
        raise VolumeError(f"{path}: cannot be read ({error.strerror or error})") from error
    if repeated:
        warnings.warn(
            f"{path}: {repeated} slices are there twice, the same each time; one of each is used",
            VolumeWarning,
            stacklevel=2,
        )
    if padded:
        warnings.warn(
            f"{path}: {padded} voxels are padding (PixelPaddingValue) and were never measured; they are read as "
            f"{'the lowest intensity of the others' if volume.source.is_ct else 'intensity 0'}",
            VolumeWarning,
            stacklevel=2,
        )
    return volume


def list_series(path: Path) -> list[str]:
    """One line for each image series in a folder or file; nothing about the patient.

    Raises:
        VolumeError: if there is none, or a file is damaged.
    """
    with naming(path):
        return [series.summary() for series in find_series(path)]


def _read(series: Series) -> tuple[Volume, int, int]:
    """The volume, how many slices of the series repeat another one, and how many voxels of padding were replaced."""
    check_kind(series)
    stack = arrange(series)
    pixels.check_form(series.frames)
    data, repeated = _voxels(series.frames, stack)
    source = _source(stack)
    padded = _fill_padding(data, is_ct=source.is_ct)
    return Volume(data, stack.affine, HeaderFacts(_SCANNER_SPACE, _SCANNER_SPACE), source), repeated, padded


def _voxels(frames: Sequence[Frame], stack: Stack) -> tuple[np.ndarray, int]:
    """Float32 (column, row, place) in intensities, and how many slices repeat another one voxel by voxel.

    Padding is NaN, but for MR where its intensity is 0, which is what it is read as.
    """
    number = {(f.path, f.index): n for n, place in enumerate(stack.places) for f in place}
    by_file: dict[Path, list[Frame]] = {}
    for frame in frames:
        by_file.setdefault(frame.path, []).append(frame)
    form = frames[0].form
    data = np.empty((len(stack.places), form.rows, form.columns), np.float32)
    filled: dict[int, Frame] = {}
    repeated = 0
    for of_file in by_file.values():
        for frame, (stored, padding) in zip(of_file, pixels.decode(of_file), strict=True):
            values = stored.astype(np.float32) * np.float32(frame.slope) + np.float32(frame.intercept)
            if not np.all(np.isfinite(values)):
                raise VolumeError("voxels are beyond float32 after rescale slope and intercept; repair the header")
            if padding is not None:
                values[padding if frame.class_uid in CT else padding & (values != 0)] = np.nan
            place = number[frame.path, frame.index]
            if place not in filled:
                filled[place], data[place] = frame, values
            elif np.array_equal(data[place], values, equal_nan=True):
                repeated += 1
            else:
                raise VolumeError(
                    f"{filled[place].label} and {frame.label} are different images of one place; remove one of them"
                )
    return data.transpose(2, 1, 0), repeated


def _fill_padding(data: np.ndarray, *, is_ct: bool) -> int:
    """Replaces NaN by what stands for air; returns the number of voxels."""
    padding = np.isnan(data)
    padded = np.count_nonzero(padding)
    if padded == data.size:
        raise VolumeError("all voxels are padding (PixelPaddingValue), so nothing was measured; repair that value")
    if padded:
        data[padding] = np.nanmin(data) if is_ct else 0
    return padded


def _source(stack: Stack) -> DicomSource:
    frames = [place[0] for place in stack.places]
    middle = frames[len(frames) // 2]
    thickness = {frame.thickness for frame in frames}
    rescale = {(frame.slope, frame.intercept) for frame in frames}
    keywords = [*attributes.OF_SOURCE, _PER_FRAME]
    header = files.read_file(middle.path, keywords, stop_before_pixels=True).dataset
    if middle.class_uid in ENHANCED:
        header[_PER_FRAME].value = [header[_PER_FRAME].value[middle.index]]
    if middle.form.transfer_syntax == JPEGLSNearLossless:
        header.LossyImageCompression = "01"  # whether the file says so or not
    return DicomSource(
        header=header,
        instances=tuple(dict.fromkeys((frame.class_uid, frame.instance_uid) for frame in frames)),
        spacing_mm=voxel_spacing_mm(stack.affine),
        slice_thickness_mm=thickness.pop() if len(thickness) == 1 else None,
        rescale=rescale.pop() if len(rescale) == 1 else None,
    )
