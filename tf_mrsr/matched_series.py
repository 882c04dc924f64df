"""A thick and a thin series of one person, as volumes whose slices belong to each other (narcomey2018).

Nothing is interpolated: slices are chosen, turned and put side by side.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tf_mrsr.cohort import Scan, read_scan
from tf_mrsr.degradation import BlockAverage, MatchedSlices
from tf_mrsr.errors import DataError
from tf_mrsr.geometry import slices_last
from tf_mrsr.slice_pairs import WINDOW, SlicePairs, match_slices, neighbour_triples
from tf_mrsr.volume import Volume

_SAME_DIRECTION = 0.999  # cosine; about 2.5 degrees
_SAME_PLACE_PIXELS = 0.5  # below it the nearest pixel is the right one
_SAME_SPACING = 0.05


class MatchedSeries(NamedTuple):
    """Two series on the same array axes, the slices along the last.

    Attributes:
        thick: the slices, (x, y, pair), that have a partner.
        thin: the thin series, (x, y, z).
        pairs: for every slice of ``thick`` its thin slice and their distance.
        thick_numbers, thin_numbers: of both slices of every pair, (pair,), from 1, in the order of their own series.
    """

    thick: Volume
    thin: Volume
    pairs: SlicePairs
    thick_numbers: np.ndarray
    thin_numbers: np.ndarray


def read_matched(scan: Scan, degradation: MatchedSlices, *, nan: str) -> tuple[Volume, Volume]:
    """The thin slices that belong to the thick ones, with their neighbours for a factor of 3, and the thick ones.

    Where there is only a thin series, the thick slices are means of its slices: those along the last axis of a DICOM
    series, and in a NIfTI file along the axis with the largest spacing.

    The thin slices are put where the thick ones say that they are: in their place, or as the three slices of one thick
    spacing. The triple of a thin series' first or last slice is shifted inwards, as the paper has it, so it is a thin
    slice off.

    Args:
        scan: the files.
        degradation: see there.
        nan: see ``tf_mrsr.volume.read_volume``.

    Returns:
        The target (x, y, factor * pair) and the source (x, y, pair), slices last.

    Raises:
        VolumeError: if a file cannot be used.
        DataError: see ``match``; also if there are fewer thin slices than one thick one averages.
    """
    if scan.low_res is None:
        series = _simulate(scan.high_res, degradation, nan=nan)
    else:
        series = match(
            scan, read_scan(scan.low_res, nan=nan), read_scan(scan.high_res, nan=nan), degradation.max_distance
        )
    if not degradation.changes_grid:
        return replace(series.thick, data=series.thin.data[..., series.pairs.high_res]), series.thick
    _check_spacing(scan, series)
    triples = neighbour_triples(series.pairs.high_res, series.thin.shape[2])
    data = series.thin.data[..., triples.slices.ravel()]
    return series.thick.resampled(data, degradation.network_grid_map()), series.thick


def match(scan: Scan, thick: Volume, thin: Volume, max_distance: float) -> MatchedSeries:
    """Finds for every thick slice the thin one that is nearest, each thin slice once.

    As ``slice_pairs.match_slices``, after what that asks for: both series run in the same direction, thick slices that
    the thin series does not cover are left out, and so are thin slices far in front of the first thick one.

    Args:
        scan: the files, for messages.
        thick, thin: the two series, axes as stored.
        max_distance: in thick spacings.

    Raises:
        DataError: if the slices of both do not have the same size, place and direction, the series do not overlap, or a
            thin slice lies farther than ``max_distance``.
    """
    thick = thick.with_axes(slices_last(thick.affine, keep_in_plane=True))
    thin, backwards = _on_axes_of(thick, thin, scan)
    _check_in_plane(thick, thin, scan)
    # Where thick slices lie among thin ones, by index.
    step, start = (np.linalg.inv(thin.affine) @ thick.affine)[2, 2:]
    places = start + step * np.arange(thick.shape[2])
    covered = np.flatnonzero((places >= -0.5) & (places <= thin.shape[2] - 0.5))
    if len(covered) == 0:
        raise DataError(f"{scan.low_res} and {scan.high_res} have no slices in the same place; register them first")
    thick = _slices(thick, covered[0], len(covered))
    skipped = max(0, int(np.ceil(places[covered[0]] - step)))
    window = max(WINDOW, 2 * int(np.ceil(step)))
    try:
        pairs = match_slices(_positions(thick), _positions(thin)[skipped:], window)
    except DataError as error:
        raise DataError(f"{scan.low_res} and {scan.high_res}: {error}") from error
    pairs = pairs._replace(high_res=pairs.high_res + skipped)
    thin_numbers = thin.shape[2] - pairs.high_res if backwards else pairs.high_res + 1
    series = MatchedSeries(thick, thin, pairs, covered + 1, thin_numbers)
    _check_distances(scan, series, max_distance)
    return series


def _simulate(path: Path, degradation: MatchedSlices, *, nan: str) -> MatchedSeries:
    thickness = degradation.simulated_thickness
    thin = read_scan(path, nan=nan)
    # A DICOM series says which its slices are; they are its last axis.
    if thin.source is None:
        thin = thin.with_axes(slices_last(thin.affine, keep_in_plane=True))
    count = thin.shape[2] // thickness
    if count == 0:
        raise DataError(f"{path} has {thin.shape[2]} slices, fewer than the {thickness} that a thick slice averages")
    thin = _slices(thin, 0, count * thickness)
    average = BlockAverage((1, 1, thickness))
    thick = thin.resampled(average(thin.data), average.grid_map(thin.shape))
    if slices_last(thick.affine, keep_in_plane=True) != (0, 1, 2):
        raise DataError(
            f"{path}: means of {thickness} slices are not thicker than their pixels are wide, so they are no thick "
            "slices; raise degradation.simulated_thickness"
        )
    matched = thickness * np.arange(count) + thickness // 2
    pairs = SlicePairs(np.arange(count), matched, np.zeros(count))
    return MatchedSeries(thick, thin, pairs, pairs.low_res + 1, pairs.high_res + 1)


def _slices(volume: Volume, first: int, count: int) -> Volume:
    affine = volume.affine.copy()
    affine[:, 3] += first * affine[:, 2]
    return replace(volume, data=volume.data[..., first : first + count], affine=affine)


def _positions(volume: Volume) -> np.ndarray:
    """Of every slice's first voxel, (slice, 3) in mm."""
    return volume.affine[:3, 3] + np.arange(volume.shape[2])[:, None] * volume.affine[:3, 2]


def _on_axes_of(thick: Volume, thin: Volume, scan: Scan) -> tuple[Volume, bool]:
    """The thin series with its array axes turned and flipped to run as those of the thick one, and whether its slices
    run backwards then.
    """
    cosines = (thick.affine[:3, :3] / thick.spacing_mm).T @ (thin.affine[:3, :3] / thin.spacing_mm)
    order = np.abs(cosines).argmax(axis=1)
    if np.abs(cosines).max(axis=1).min() < _SAME_DIRECTION:
        raise DataError(
            f"{scan.low_res} and {scan.high_res} do not have parallel slices; slices can be matched only between "
            "series of one orientation, so leave the pair out or resample one of them"
        )
    thin, flips = thin.with_axes(order), cosines[range(3), order] < 0
    for axis in np.flatnonzero(flips):
        affine = thin.affine.copy()
        affine[:, 3] += (thin.shape[axis] - 1) * affine[:, axis]
        affine[:, axis] *= -1
        thin = replace(thin, data=np.flip(thin.data, axis), affine=affine)
    return thin, bool(flips[2])


def _check_in_plane(thick: Volume, thin: Volume, scan: Scan) -> None:
    to_thick = np.linalg.inv(thick.affine) @ thin.affine
    ends = [(0, n - 1) for n in thin.shape]
    corners = np.array([[x, y, z, 1] for x in ends[0] for y in ends[1] for z in ends[2]])
    moved = float(np.abs((corners @ (to_thick - np.eye(4)).T)[:, :2]).max())
    if thick.shape[:2] != thin.shape[:2] or moved > _SAME_PLACE_PIXELS:
        sizes = " and ".join("x".join(map(str, volume.shape[:2])) for volume in (thick, thin))
        raise DataError(
            f"{scan.low_res} and {scan.high_res} have slices of {sizes} pixels, up to {moved:.2f} pixels apart within "
            "the slice; expected the same pixels in both. Resample the slices of one onto those of the other first"
        )


def _check_distances(scan: Scan, series: MatchedSeries, max_distance: float) -> None:
    distances, spacing = series.pairs.distances_mm, series.thick.spacing_mm[2]
    farthest = int(np.argmax(distances))
    if distances[farthest] > max_distance * spacing:
        raise DataError(
            f"{scan.low_res}: slice {series.thick_numbers[farthest]} lies {distances[farthest]:.2f} mm from slice "
            f"{series.thin_numbers[farthest]} of {scan.high_res}, its nearest; more than {max_distance:g} of the "
            f"{spacing:.2f} mm between thick slices. Leave the pair out, or allow more (max_distance)"
        )


def _check_spacing(scan: Scan, series: MatchedSeries) -> None:
    thick, thin = series.thick.spacing_mm[2], series.thin.spacing_mm[2]
    if abs(thick / (3 * thin) - 1) > _SAME_SPACING:
        raise DataError(
            f"{scan.low_res}: slices {thick:.2f} mm apart, but {scan.high_res} has slices {thin:.2f} mm apart; a slice "
            "with its neighbours needs three thin slices for a thick one. Use a recipe of single slices (model1)"
        )
