"""Which series lie in a folder, and which one is meant."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tf_mrsr import storage
from tf_mrsr.dicom import files
from tf_mrsr.dicom.frames import CLASSIC, ENHANCED, TAGS, Frame, description, frames_of, modality, uid
from tf_mrsr.errors import DataError, VolumeError, VolumeWarning

# Direction cosines that differ by more belong to slices that are not parallel; about 0.06 degrees.
ORIENTATION_TOLERANCE = 1e-3
DICOM_SUFFIXES = (".dcm", ".ima")
_SHOWN = 8


@dataclass(frozen=True)
class Series:
    """The frames that share a SeriesInstanceUID, in the order of their files' names.

    Attributes:
        uid: SeriesInstanceUID.
        modality, description: as stated.
        frames: its slices.
    """

    uid: str
    modality: str
    description: str
    frames: tuple[Frame, ...]

    @property
    def is_image(self) -> bool:
        """Whether it is of a kind that can be read at all: MR or CT, classic or multi-frame."""
        return self.frames[0].class_uid in CLASSIC | ENHANCED

    @property
    def can_be_a_volume(self) -> bool:
        """Whether it looks like one stack of slices; localizers and pictures do not."""
        first = self.frames[0]
        if not self.is_image or "LOCALIZER" in first.image_type or len(self.frames) < 2:
            return False
        # A series of which some slices lack a position is damaged, which is said when it is read.
        placed = [f for f in self.frames if f.orientation is not None and f.position is not None]
        if first.mosaic or first.form.is_colour or len({f.position for f in placed}) < 2:
            return False
        cosines = np.array([f.orientation for f in placed])
        return bool(np.abs(cosines - cosines[0]).max() <= ORIENTATION_TOLERANCE)

    def summary(self) -> str:
        """UID, what it holds and its sampling in one line; nothing about the patient."""
        first = self.frames[0]
        sampling = f"{first.form.columns} x {first.form.rows} x {len(self.frames)}"
        if first.pixel_spacing is not None:
            gap = _slice_distance(self.frames)
            thick = "?" if gap is None else f"{gap:.3g}"
            sampling += f", {first.pixel_spacing[1]:.3g} x {first.pixel_spacing[0]:.3g} x {thick} mm"
        note = "" if self.can_be_a_volume else " (no volume)"
        return f"{self.uid}  {self.modality or '?'}  {sampling}{note}  {self.description}".rstrip()


def find_series(path: Path) -> list[Series]:
    """All image series in a folder and below it, or in one file, by UID.

    Raises:
        VolumeError: if there are none, a file that may belong to one is damaged or a link to nothing, or a folder
            cannot be read.
    """
    headers: dict[str, tuple[str, str]] = {}
    frames: dict[str, list[Frame]] = {}
    empty: list[Path] = []
    with files.quiet():
        for file_path in _candidates(path):
            file = _read(file_path)
            if file is None and not file_path.stat().st_size:
                empty.append(file_path)
            if file is not None:
                key = uid(file.dataset, "SeriesInstanceUID")
                headers.setdefault(key, (modality(file.dataset), description(file.dataset)))
                frames.setdefault(key, []).extend(frames_of(file_path, file))
    if not frames:
        raise VolumeError("no DICOM image in it; expected a series of MR or CT slices")
    if empty:
        warnings.warn(
            f"{path}: {len(empty)} empty file{'s'[: len(empty) > 1]} left out, the first {empty[0].name}; if slices "
            "should be in them, fetch the series again",
            VolumeWarning,
            stacklevel=2,
        )
    return [Series(key, *headers[key], tuple(frames[key])) for key in sorted(frames)]


def choose(series: Sequence[Series], series_uid: str | None) -> Series:
    """The series of the given UID, or the only one that can be a volume.

    Raises:
        VolumeError: if there is none, or several and no UID was given; the message lists the UIDs.
    """
    if series_uid is not None:
        chosen = next((s for s in series if s.uid == series_uid), None)
        if chosen is None:
            raise VolumeError(f"no series {series_uid} in it; there are {_listed(series)}")
        return chosen
    usable = [s for s in series if s.can_be_a_volume] or [s for s in series if s.is_image] or list(series)
    if len(usable) > 1:
        raise VolumeError(f"holds {len(usable)} series; choose one with --series-uid: {_listed(usable)}")
    return usable[0]


def scans_below(folder: Path) -> list[Path]:
    """The folders below ``folder``, itself included, that hold one scan each.

    A folder that holds DICOM files, or whose sub-folders hold files of one study, is one scan: sub-folders are how
    its series were exported. Otherwise its sub-folders are looked at in the same way. One file per folder is opened.
    Links called .dcm or .ima count even where their files are not there, which is said when the series is read.

    Raises:
        DataError: if the folder, or one below it, cannot be read, or holds no DICOM but links to nothing.
    """
    studies, paths = {}, storage.files_below(folder)
    with files.quiet():
        for path in paths:
            if path.parent not in studies and _holds_data(path):
                studies[path.parent] = _study(path)
    broken = next(filter(storage.is_broken_link, paths), None)
    if not studies and broken is not None:
        raise DataError(f"{broken}: {storage.BROKEN_LINK}")
    return _split(folder, studies)


def _study(path: Path) -> str:
    """The file's study; empty where it does not say, or is damaged, which is said when the series is read."""
    try:
        return uid(files.read_file(path, ["StudyInstanceUID"], stop_before_pixels=True).dataset, "StudyInstanceUID")
    except VolumeError:
        return ""


def _split(folder: Path, studies: dict[Path, str]) -> list[Path]:
    below = {place: study for place, study in studies.items() if place.is_relative_to(folder)}
    if not below:
        return []
    if folder in below or len(set(below.values()) - {""}) <= 1:
        return [folder]
    children = sorted({folder / place.relative_to(folder).parts[0] for place in below})
    return [scan for child in children for scan in _split(child, below)]


def _candidates(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    try:
        return storage.files_below(path)
    except DataError as error:
        raise VolumeError(str(error)) from error


def _holds_data(path: Path) -> bool:
    if storage.is_broken_link(path):
        return path.suffix.lower() in DICOM_SUFFIXES
    return path.name.upper() != "DICOMDIR" and files.is_dicom(path)


def _read(path: Path) -> files.File | None:
    """The header of an image; None for another kind of file."""
    if storage.is_broken_link(path):
        raise VolumeError(f"{path.name} is {storage.BROKEN_LINK}")
    if not files.announces_dicom(path):
        if path.suffix.lower() == ".dcm":
            raise VolumeError(f"{path.name} is no DICOM file in spite of its name; fetch it again, or remove it")
        return None
    file = files.read_file(path, TAGS, stop_before_pixels=True)
    if "Rows" in file.dataset and "SeriesInstanceUID" in file.dataset:
        return file
    if file.class_uid in CLASSIC | ENHANCED and "Rows" in file.dataset:
        raise VolumeError(
            f"{path.name} states no SeriesInstanceUID, so nobody knows which slices belong together; fetch the series "
            "again from its source"
        )
    if file.class_uid in CLASSIC | ENHANCED:
        raise VolumeError(f"{path.name} is truncated; fetch it again, or remove it if it does not belong")
    return None


def _slice_distance(frames: Sequence[Frame]) -> float | None:
    """The commonest distance in mm between neighbours along the normal; None where positions do not say."""
    if len(frames) < 2 or any(f.position is None or f.orientation is None for f in frames):
        return None
    row, column = np.reshape(frames[0].orientation, (2, 3))
    places = np.sort([np.dot(f.position, np.cross(row, column)) for f in frames])
    return float(np.median(np.diff(places)))


def _listed(series: Sequence[Series]) -> str:
    shown = ", ".join(f"{s.uid} ({len(s.frames)} slices)" for s in series[:_SHOWN])
    more = len(series) - _SHOWN
    return shown + (f" and {more} more" if more > 0 else "") + "; --list-series shows them"
