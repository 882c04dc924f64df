"""A scan with its geometry, and the only door through which scans come in and go out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from tf_mrsr.errors import OutputError, VolumeError
from tf_mrsr.geometry import GridMap, check_affine, voxel_spacing_mm

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


@dataclass(frozen=True, eq=False)
class Volume:
    """One three-dimensional scan.

    Attributes:
        data: float32, shape (x, y, z), in the intensities of the file after its slope and intercept.
        affine: 4 x 4 float64, voxel index to mm (RAS+).
        header: what must survive a round trip.
    """

    data: np.ndarray
    affine: np.ndarray
    header: HeaderFacts = field(default_factory=HeaderFacts)

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


def read_volume(path: str | Path, *, nan: str = "refuse") -> Volume:
    """Reads one scan.

    Args:
        path: a NIfTI-1 or NIfTI-2 file (.nii or .nii.gz).
        nan: "refuse" to raise where voxels are NaN or infinite, "zero" to set those to 0.

    Raises:
        VolumeError: where the file cannot be used; the message names the file, the fault and the remedy.
    """
    from tf_mrsr import nifti

    path = Path(path)
    if not path.exists():
        raise VolumeError(f"{path}: no such file")
    if path.is_dir():
        raise VolumeError(f"{path}: is a folder; expected one NIfTI file (.nii or .nii.gz)")
    if not is_nifti(path):
        raise VolumeError(f"{path}: not a NIfTI file name; expected .nii or .nii.gz (convert with dcm2niix or nibabel)")
    return nifti.read(path, nan=nan)


def write_volume(volume: Volume, path: str | Path, *, overwrite: bool = False) -> None:
    """Writes ``volume`` as float32 NIfTI (.nii or .nii.gz), under a temporary name first, then renamed.

    Raises:
        OutputError: if the name is not NIfTI, the file exists and ``overwrite`` is not set, or it cannot be written.
    """
    from tf_mrsr import nifti

    path = check_output(path, overwrite=overwrite)
    nifti.write(volume, path)


def check_output(path: str | Path, *, overwrite: bool) -> Path:
    """Returns ``path`` if a NIfTI file may be written there; cheap, so that commands call it before they work.

    Raises:
        OutputError: as ``write_volume``.
    """
    path = Path(path)
    if not is_nifti(path):
        raise OutputError(f"{path}: the output's name must end in .nii or .nii.gz")
    if path.exists() and not overwrite:
        raise OutputError(f"{path}: exists already; give another name or --overwrite")
    if not path.parent.is_dir():
        raise OutputError(f"{path}: the folder {path.parent} does not exist; make it first")
    return path


def is_nifti(path: Path) -> bool:
    return path.name.lower().endswith(NIFTI_SUFFIXES)


def stem(path: Path) -> str:
    """The file's name without its NIfTI ending."""
    name = path.name
    for suffix in sorted(NIFTI_SUFFIXES, key=len, reverse=True):
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return path.stem
