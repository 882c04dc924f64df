"""Which scans a command works on, and reading one of them for a network."""

from __future__ import annotations

import csv
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from tf_mrsr import storage
from tf_mrsr.errors import DataError, RecipeError, VolumeError, VolumeWarning, naming
from tf_mrsr.geometry import slices_last
from tf_mrsr.volume import Volume, is_nifti, read_volume, stem

# Along an axis with fewer voxels a network sees more of its own zero padding than of the scan.
MIN_VOXELS = 8
# Endings of names, as BIDS has them, of files that are no scans.
LABELS = ("mask", "dseg", "probseg", "label", "labels", "seg")
LIST_SUFFIXES = {".csv": ",", ".tsv": "\t"}


class Scan(NamedTuple):
    """The files of one person: a high-resolution scan and, for real pairs, the low-resolution one.

    Between contrasts, ``high_res`` is the target and ``low_res`` the source.
    """

    high_res: Path
    low_res: Path | None = None


@dataclass(frozen=True)
class Contrasts:
    """How files of two contrasts of one person are told apart: the last part of their names, behind "_" or "-".

    With source "T1w" and target "T2w", sub-07_T1w.nii.gz and sub-07_T2w.nii.gz of one folder are a pair.
    """

    source: str
    target: str

    def __post_init__(self) -> None:
        if not (self.source.isalnum() and self.target.isalnum()) or self.source == self.target:
            raise RecipeError(
                "contrasts.source and contrasts.target must be two different words of letters and digits, got "
                f"{self.source!r} and {self.target!r}"
            )


def find_scans(sources: Sequence[str | Path], contrasts: Contrasts | None = None) -> list[Path]:
    """The scans that ``sources`` name, each once, in a stable order: NIfTI files, and folders or files of DICOM.

    Args:
        sources: folders (searched recursively, hidden ones apart, sorted by path), NIfTI files, multi-frame DICOM
            files, or CSV/TSV lists with a column "path" (relative paths start at the list's folder). A folder without
            NIfTI files is searched for DICOM: each folder in it that holds DICOM files, or several series of one study
            in sub-folders, is one scan.
        contrasts: where given, of a folder only the scans whose names end in the source contrast, as ``find_pairs``
            tells them; what is named one by one is taken as it is.

    Raises:
        DataError: if a source does not exist, is of another kind or an empty text, or nothing is found.
    """
    found = {source: find_pairs([source]) for source in _paths(sources)}
    if any(scan.low_res is not None for scans in found.values() for scan in scans):
        raise DataError("a list of pairs was given where single scans are expected; use a column path")
    paths = {}
    for source, scans in found.items():
        taken = [scan.high_res for scan in scans]
        if contrasts is not None and source.is_dir() and taken != [source]:
            taken = _of_source_contrast(source, taken, contrasts)
        for path in taken:
            paths.setdefault(_place(path), path)
    return list(paths.values())


def _of_source_contrast(folder: Path, scans: Sequence[Path], contrasts: Contrasts) -> list[Path]:
    taken = [path for path in scans if _split_name(path)[1] == contrasts.source]
    if not taken:
        raise DataError(
            f"{folder}: none of the {len(scans)} scans has a name that ends in {contrasts.source} (as "
            f"sub-01_{contrasts.source}.nii.gz), the contrast that the model takes; rename them, or name the files "
            "themselves"
        )
    return taken


def synthetic_name(path: Path, contrasts: Contrasts) -> str:
    """The name of what is synthesised of a scan, after BIDS: sub-07_desc-synthetic_T2w.nii.gz of sub-07_T1w.nii.gz.

    A name that does not end in the source contrast is kept whole in front; so is the ending (.nii, .nii.gz, or none for
    the folder of a DICOM series).
    """
    name = stem(path)
    suffix = path.name[len(name) :] if is_nifti(path) else ""
    person, contrast = _split_name(path)
    kept = person if contrast == contrasts.source else name
    parts = [part for part in kept.rstrip("_-").split("_") if part and not part.startswith("desc-")]
    return "_".join([*parts, "desc-synthetic", contrasts.target]) + suffix


def find_pairs(sources: Sequence[str | Path], contrasts: Contrasts | None = None) -> list[Scan]:
    """As ``find_scans``; lists may instead have the columns "low_res" and "high_res", or "source" and "target", one
    pair of scans per line.

    Args:
        sources: see ``find_scans``.
        contrasts: where given, only pairs of these are returned, from lists or by the files' names.

    Raises:
        DataError: as ``find_scans``, or if a scan is given alone and in a pair, a file of one contrast has none or two
            of the other, or there is no pair.
    """
    found: dict[tuple[Path | None, ...], Scan] = {}
    for source in _paths(sources):
        if source.is_dir():
            scans = [Scan(path) for path in _scans_in(source)]
        elif not source.exists():
            raise DataError(f"{source}: no such file or folder")
        elif source.suffix.lower() in LIST_SUFFIXES:
            scans = _read_list(source)
        elif _is_scan(source):
            scans = [Scan(source)]
        else:
            raise DataError(
                f"{source}: expected a folder, a NIfTI file (.nii, .nii.gz), a DICOM file or a .csv/.tsv list"
            )
        for scan in scans:
            found.setdefault(_resolved(scan), scan)
    if contrasts is not None:
        return _paired(list(found.values()), contrasts)
    both = next((scan for files, scan in found.items() if scan.low_res is not None and (files[0], None) in found), None)
    if both is not None:
        raise DataError(f"{both.high_res}: is given alone and as one of a pair; leave one of the two out")
    return list(found.values())


def _paths(sources: Sequence[str | Path]) -> list[Path]:
    """An empty shell variable must not mean the current folder, as an empty path does."""
    if "" in sources:
        raise DataError("one of the sources is an empty text; expected the name of a file or folder")
    return [Path(source) for source in sources]


def _resolved(scan: Scan) -> tuple[Path | None, ...]:
    return tuple(None if path is None else _place(path) for path in scan)


def _place(path: Path) -> Path:
    """Where a file stands, whatever way leads to its folder. Links to one file are several scans, of several names:
    stores that keep files by their content have one for all that are alike.
    """
    return path.parent.resolve() / path.name


def _paired(found: Sequence[Scan], contrasts: Contrasts) -> list[Scan]:
    pairs = [scan for scan in found if scan.low_res is not None]
    sides: dict[str, dict[Path, Path]] = {contrasts.source: {}, contrasts.target: {}}
    for scan in found:
        person, contrast = _split_name(scan.high_res)
        if scan.low_res is None and contrast in sides:
            other = sides[contrast].setdefault(scan.high_res.parent / person, scan.high_res)
            if other != scan.high_res:
                raise DataError(f"{other} and {scan.high_res} are the same contrast of one person; keep one of them")
    sources, targets = sides.values()
    alone = sorted(sources.keys() ^ targets.keys())
    if alone:
        example = sources.get(alone[0]) or targets[alone[0]]
        raise DataError(
            f"{len(alone)} scans have no partner, for instance {example}: expected pairs of names that end in "
            f"{contrasts.source} and {contrasts.target}, or a list with the columns source and target"
        )
    pairs += [Scan(targets[person], sources[person]) for person in sources]
    pairs = list({_resolved(pair): pair for pair in pairs}.values())  # one may be listed and found by its names
    if not pairs:
        raise DataError(
            f"none of the {len(found)} scans are pairs: expected names that end in {contrasts.source} and "
            f"{contrasts.target}, or a list with the columns source and target"
        )
    return pairs


def _split_name(path: Path) -> tuple[str, str]:
    """("sub-07_", "T1w") of sub-07_T1w.nii.gz."""
    name = stem(path)
    place = max(name.rfind("_"), name.rfind("-")) + 1
    return name[:place], name[place:]


def read_scan(path: Path, *, nan: str = "refuse", axes: str = "stored", series_uid: str | None = None) -> Volume:
    """``read_volume`` for a network: refuses scans that no intensity window fits.

    Args:
        path, nan, series_uid: see ``read_volume``.
        axes: "stored", or "slices_last" for the array axes in the order of ``tf_mrsr.geometry.slices_last``.

    Raises:
        VolumeError: as ``read_volume``, or if all voxels are equal, none is over 0, or tables could not hold the name.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise VolumeError(f"{str(path)!a}: the name is not in UTF-8; rename the file or its folder") from error
    volume = read_volume(path, nan=nan, series_uid=series_uid)
    low, high = float(volume.data.min()), float(volume.data.max())
    if low == high:
        raise VolumeError(f"{path}: all voxels have the value {low:g}; there is no image in it")
    if high <= 0:
        raise VolumeError(f"{path}: no voxel is over 0 (the largest is {high:g}); expected magnitude images")
    return volume if axes == "stored" else volume.with_axes(slices_last(volume.affine))


def _scans_in(folder: Path) -> list[Path]:
    found = [path for path in storage.files_below(folder) if is_nifti(path)]
    scans = [path for path in found if _ending(path) not in LABELS]
    if len(scans) < len(found):
        left = next(path for path in found if _ending(path) in LABELS)
        count = len(found) - len(scans)
        warnings.warn(
            f"{folder}: {count} NIfTI file{'s'[: count > 1]} left out, whose names say that they are masks or labels "
            f"(the first {left.name})",
            VolumeWarning,
            stacklevel=2,
        )
    if not scans:
        from tf_mrsr.dicom import series

        scans = series.scans_below(folder)
    if not scans:
        raise DataError(f"{folder}: no NIfTI file (.nii, .nii.gz) and no DICOM in this folder or below it")
    return scans


def _ending(path: Path) -> str:
    return stem(path).rpartition("_")[2]


def _is_scan(path: Path) -> bool:
    """Whether it looks like a NIfTI file, a DICOM file or a folder; raises a VolumeError if it cannot be read."""
    if is_nifti(path) or not path.is_file():
        return is_nifti(path) or path.is_dir()
    from tf_mrsr.dicom import files

    with naming(path.parent):
        return files.announces_dicom(path)


def check_size(volume: Volume, *, by_slice: bool = False) -> None:
    """Raises a VolumeError if an axis, ``by_slice`` one within the slices, is too short for a network."""
    axes = slices_last(volume.affine)[:2] if by_slice else range(3)
    if min(volume.shape[axis] for axis in axes) < MIN_VOXELS:
        shape, where = "x".join(map(str, volume.shape)), "both axes of a slice" if by_slice else "each axis"
        raise VolumeError(f"the volume has {shape} voxels; the network needs {MIN_VOXELS} or more along {where}")


def _read_list(path: Path) -> list[Scan]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream, delimiter=LIST_SUFFIXES[path.suffix.lower()])
            header, rows = list(reader.fieldnames or ()), list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read as a list ({error})") from error
    kinds = (("high_res", "low_res"), ("target", "source"), ("path",))
    columns = next((c for c in kinds if set(c) <= set(header)), None)
    if columns is None:
        raise DataError(
            f"{path}: expected a header line with a column 'path', or for pairs 'low_res' and 'high_res' or 'source' "
            "and 'target', and one scan or pair per line below it"
        )
    if sum(header.count(name) for kind in kinds for name in kind) > len(columns):
        raise DataError(
            f"{path}: the header line has a column twice, or columns of more than one kind; expected 'path' alone, or "
            "one pair of columns"
        )
    if not rows:
        raise DataError(f"{path}: lists no scans; expected one scan or pair per line below the header")
    scans = []
    for number, row in enumerate(rows, start=1):
        for column in columns:
            if not row[column] or not _is_scan(path.parent / row[column]):
                raise DataError(
                    f"{path}: row {number} names no NIfTI file (.nii, .nii.gz) and no DICOM in its column {column!r}"
                )
        scans.append(Scan(*(path.parent / row[column] for column in columns)))
        if len({file.resolve() for file in scans[-1] if file is not None}) < len(columns):
            raise DataError(f"{path}: row {number} names one file twice; expected the two scans of a pair")
    missing = [file for scan in scans for file in scan if file is not None and not file.exists()]
    if missing:
        raise DataError(f"{path}: {len(missing)} of the listed files do not exist, the first is {missing[0]}")
    return scans
