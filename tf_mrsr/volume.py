"""A scan with its geometry, and the only door through which scans come in and go out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from tf_mrsr import storage
from tf_mrsr.errors import OutputError, VolumeError, naming
from tf_mrsr.geometry import GridMap, check_affine, voxel_spacing_mm

if TYPE_CHECKING:
    from tf_mrsr.dicom.reading import DicomSource

NIFTI_SUFFIXES = (".nii", ".nii.gz")


@dataclass(frozen=True)
class HeaderFacts:
    """What of a file's header survives into a derived file.

    Attributes:
        sform_code, qform_code: NIfTI codes that name the space of the affine (0 unknown, 1 scanner, 2 aligned,
            3 Talairach, 4 MNI). Both 0 means that the file states no orientation and the affine is a guess.
    """

    sform_code: int = 2
    qform_code: int = 2


@dataclass(frozen=True)
class Derivation:
    """What made a volume of another one; stated in a derived DICOM series.

    Attributes:
        recipe: the recipe's name, or that of a served model.
        work: what a network did: "super-resolved", "synthesised" (another contrast), or "processed" where that is not
            known.
    """

    recipe: str
    work: Literal["super-resolved", "synthesised", "processed"] = "super-resolved"

    @property
    def keeps_contrast(self) -> bool:
        """Whether echo and repetition time, the display window and the like of the source hold for it, too."""
        return self.work == "super-resolved"


@dataclass(frozen=True, eq=False)
class Volume:
    """One three-dimensional scan.

    Attributes:
        data: float32, shape (x, y, z), in the intensities of the file after its slope and intercept.
        affine: 4 x 4 float64, voxel index to mm (RAS+).
        header: what must survive a round trip.
        source: the DICOM series that it was read or made from, if it was one.
    """

    data: np.ndarray
    affine: np.ndarray
    header: HeaderFacts = field(default_factory=HeaderFacts)
    source: DicomSource | None = None

    def __post_init__(self) -> None:
        if self.data.ndim != 3:
            raise VolumeError(f"a volume has three axes (x, y, z), got shape {self.data.shape}")
        object.__setattr__(self, "data", np.asarray(self.data, np.float32))
        object.__setattr__(self, "affine", check_affine(self.affine))

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.data.shape

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        return voxel_spacing_mm(self.affine)

    def resampled(self, data: np.ndarray, grid_map: GridMap) -> Volume:
        """The volume that holds ``data`` (x, y, z) on the grid which ``grid_map`` makes of this one's."""
        return replace(self, data=data, affine=grid_map.apply_to_affine(self.affine))

    def with_axes(self, order: Sequence[int]) -> Volume:
        """The same scan with its array axes in another order: new axis i is old axis ``order[i]``."""
        return replace(self, data=self.data.transpose(order), affine=self.affine[:, [*order, 3]])


def read_volume(path: str | Path, *, nan: str = "refuse", series_uid: str | None = None) -> Volume:
    """Reads one scan.

    Args:
        path: a NIfTI-1 or NIfTI-2 file (.nii or .nii.gz), a folder that holds a DICOM series, among other things
            perhaps, or one multi-frame DICOM file.
        nan: "refuse" to raise where voxels are NaN or infinite, "zero" to set those to 0. DICOM has none.
        series_uid: SeriesInstanceUID, where a folder holds several series that can be volumes.

    Raises:
        VolumeError: where the scan cannot be used; the message names the file or folder, the fault and the remedy.
    """
    path = Path(path)
    if storage.is_broken_link(path):
        raise VolumeError(f"{path}: {storage.BROKEN_LINK}")
    if not path.exists():
        raise VolumeError(f"{path}: no such file or folder")
    try:
        return _read(path, nan, series_uid)
    except MemoryError as error:
        raise VolumeError(f"{path}: too large for the memory that is free; take a machine with more") from error


def _read(path: Path, nan: str, series_uid: str | None) -> Volume:
    if is_nifti(path) and path.is_file():
        from tf_mrsr import nifti

        if series_uid is not None:
            raise VolumeError(f"{path}: a NIfTI file has no series; leave --series-uid out")
        return nifti.read(path, nan=nan)
    from tf_mrsr.dicom import files, reading

    with naming(path.parent):
        is_dicom = path.is_dir() or files.announces_dicom(path)
    if not is_dicom:
        raise VolumeError(f"{path}: neither NIfTI by its name (.nii, .nii.gz) nor DICOM by its content; convert it")
    return reading.read(path, series_uid=series_uid)


def write_volume(
    volume: Volume, path: str | Path, *, overwrite: bool = False, derivation: Derivation | None = None
) -> None:
    """Writes ``volume`` under a temporary name first, then renamed.

    Args:
        volume: the scan.
        path: float32 NIfTI where it ends in .nii or .nii.gz; else, for a volume from a DICOM series, a folder for a
            derived series.
        overwrite: replace what is there. Of folders, only such as a derived series was written to.
        derivation: what made the volume; needed for a derived series.

    Raises:
        VolumeError: if DICOM cannot hold the volume.
        OutputError: if the name is not NIfTI and the volume not from DICOM, something is there and ``overwrite`` is
            not set, or it cannot be written.
    """
    as_series = volume.source is not None and not is_nifti(Path(path))
    path = check_output(path, overwrite=overwrite, as_series=as_series)
    if not as_series:
        from tf_mrsr import nifti

        nifti.write(volume, path)
        return
    if derivation is None:
        raise OutputError(f"{path}: a derived DICOM series states what made it; give a derivation")
    from tf_mrsr.dicom import writing

    writing.write(volume, path, derivation)


def check_output(path: str | Path, *, overwrite: bool, as_series: bool = False) -> Path:
    """Returns ``path`` if a NIfTI file may be written there, or with ``as_series`` the folder of a DICOM series.

    Cheap, so that commands call it before they work.

    Raises:
        OutputError: as ``write_volume``.
    """
    path = Path(path)
    if as_series:
        from tf_mrsr.dicom import writing

        writing.check_folder(path, overwrite=overwrite)
    elif not is_nifti(path):
        raise OutputError(f"{path}: the output's name must end in .nii or .nii.gz")
    elif path.exists() and not overwrite:
        raise OutputError(f"{path}: exists already; give another name or --overwrite")
    if not path.parent.is_dir():
        raise OutputError(f"{path}: the folder {path.parent} does not exist; make it first")
    return path


def is_nifti(path: Path) -> bool:
    return path.name.lower().endswith(NIFTI_SUFFIXES)


def stem(path: Path) -> str:
    """The file's name without its ending, or the name of a DICOM series' folder; a link's is its own.

    "." and ".." have no name of their own, so they get that of the folder that they are.
    """
    if path.is_dir():
        return path.resolve().name if path.name in ("", "..") else path.name
    name = path.name
    for suffix in sorted(NIFTI_SUFFIXES, key=len, reverse=True):
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return path.stem
