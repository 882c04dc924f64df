"""Whether slices form one grid of voxels, and which."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from tf_mrsr.dicom.frames import CLASSIC, ENHANCED, Frame
from tf_mrsr.dicom.series import ORIENTATION_TOLERANCE, Series
from tf_mrsr.errors import VolumeError

MAX_UNEVENNESS = 0.01
ROUNDING_MM = 0.02  # two positions, each rounded to a hundredth along two or three axes
MAX_STRAY = 0.1  # of the distance between slices; small unevennesses may add up along a series
MAX_SHEAR_DEGREES = 0.5
SAME_PLACE_MM = 1e-3
_SPACING_TOLERANCE = 1e-3
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True)
class Stack:
    """Slices in the order of their places along the normal (row x column direction).

    Attributes:
        places: the frames at each place, one where nothing is there twice.
        affine: 4 x 4, (column index, row index, place) to mm (RAS+).
    """

    places: tuple[tuple[Frame, ...], ...]
    affine: np.ndarray


def check_kind(series: Series) -> None:
    """Raises a VolumeError if the series is of a kind that cannot be a volume, whatever its geometry."""
    for frame in series.frames:
        if frame.class_uid not in CLASSIC | ENHANCED:
            name = frame.class_uid.name if frame.class_uid.is_valid else "an unknown kind"
            raise VolumeError(f"holds {name}; expected MR or CT images, classic or enhanced")
        if frame.mosaic:
            raise VolumeError("is a mosaic, many slices side by side in one picture; convert it with dcm2niix first")
        if frame.form.samples is None:
            raise VolumeError(f"{frame.label} states no SamplesPerPixel; it is damaged, repair or fetch it again")
        if frame.form.is_colour:
            raise VolumeError(f"{frame.label} is a colour picture; expected grey values (MONOCHROME2)")
        if frame.class_uid in CLASSIC and frame.form.frames != 1:
            raise VolumeError(f"{frame.label} holds several frames in a format for one; expected enhanced MR or CT")


def arrange(series: Series) -> Stack:
    """Puts the slices in order.

    Raises:
        VolumeError: if they do not form one regular grid; the message says what is wrong and where.
    """
    frames = series.frames
    _check_described(frames)
    _check_alike(frames)
    row, column = np.reshape(frames[0].orientation, (2, 3))
    if abs(np.dot(row, column)) > ORIENTATION_TOLERANCE or not np.allclose(
        [np.linalg.norm(row), np.linalg.norm(column)], 1, atol=ORIENTATION_TOLERANCE
    ):
        raise VolumeError("the orientation is not two directions at right angles; repair ImageOrientationPatient")
    row, column = row / np.linalg.norm(row), column / np.linalg.norm(column)  # rounded in the file
    normal = np.cross(row, column) / np.linalg.norm(np.cross(row, column))
    places = _grouped(sorted(frames, key=lambda f: float(np.dot(f.position, normal))))
    if len(places) < 2:
        hint = "; of a series, give the folder that holds all slices" if len(frames) == 1 else ""
        raise VolumeError(f"all slices lie at one place; expected a stack of two or more{hint}")
    _check_repeats(places)
    step = _check_steps(places, normal)
    spacing = frames[0].pixel_spacing
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1], affine[:3, 2] = row * spacing[1], column * spacing[0], step
    affine[:3, 3] = places[0][0].position
    return Stack(tuple(places), LPS_TO_RAS @ affine)


def _check_described(frames: Sequence[Frame]) -> None:
    for frame in frames:
        for value, name in (
            (frame.position, "position (ImagePositionPatient)"),
            (frame.orientation, "orientation (ImageOrientationPatient)"),
            (frame.pixel_spacing, "spacing (PixelSpacing)"),
        ):
            if value is None:
                raise VolumeError(f"{frame.label} states no {name}; without it nobody knows where it lies")
        if min(frame.pixel_spacing) <= 0:
            raise VolumeError(f"{frame.label}: PixelSpacing is {frame.pixel_spacing}; expected two positive numbers")
        if frame.slope is None or frame.intercept is None or frame.slope == 0:
            raise VolumeError(f"{frame.label}: rescale slope or intercept cannot be used; expected finite numbers")
    described = {frame.path: 0 for frame in frames}
    for frame in frames:
        described[frame.path] += 1
    for frame in frames:
        if frame.form.frames != described[frame.path]:
            raise VolumeError(
                f"a file promises {frame.form.frames} frames and describes {described[frame.path]}; it is damaged"
            )


def _check_alike(frames: Sequence[Frame]) -> None:
    first = frames[0]
    for frame in frames:
        if np.abs(np.subtract(frame.orientation, first.orientation)).max() > ORIENTATION_TOLERANCE:
            raise VolumeError(
                f"{first.label} and {frame.label} are not parallel; expected one orientation, split the series first"
            )
        if (frame.form.rows, frame.form.columns) != (first.form.rows, first.form.columns):
            raise VolumeError(
                f"{first.label} has {_size(first)} pixels, {frame.label} {_size(frame)}; expected one size"
            )
        if not np.allclose(frame.pixel_spacing, first.pixel_spacing, rtol=_SPACING_TOLERANCE):
            raise VolumeError(f"{first.label} and {frame.label} differ in PixelSpacing; expected one spacing")
        if frame.frame_of_reference != first.frame_of_reference:
            raise VolumeError(
                f"{first.label} and {frame.label} differ in FrameOfReferenceUID, so their positions cannot be compared"
            )


def _size(frame: Frame) -> str:
    return f"{frame.form.columns} x {frame.form.rows}"


def _grouped(ordered: Sequence[Frame]) -> list[tuple[Frame, ...]]:
    """Neighbours in the order that lie at the same place, together."""
    places: list[list[Frame]] = [[ordered[0]]]
    for frame in ordered[1:]:
        if np.linalg.norm(np.subtract(frame.position, places[-1][0].position)) < SAME_PLACE_MM:
            places[-1].append(frame)
        else:
            places.append([frame])
    return [tuple(place) for place in places]


def _check_repeats(places: Sequence[tuple[Frame, ...]]) -> None:
    """Several images at most places are time points, echoes or the like; copies of one file are not counted."""
    counts = [len({frame.instance_uid + f"#{frame.index}" for frame in place}) for place in places]
    if np.mean(np.array(counts) > 1) > 0.5:
        raise VolumeError(
            f"holds several images at each place (up to {max(counts)}: time points, echoes or the like); "
            "expected one volume, split the series first"
        )


def _check_steps(places: Sequence[tuple[Frame, ...]], normal: np.ndarray) -> np.ndarray:
    """The step in mm from one slice to the next, after the checks of distances and of shear."""
    positions = np.array([place[0].position for place in places])
    along = positions @ normal
    distances = np.diff(along)
    usual = float(np.median(distances))
    tolerance = max(MAX_UNEVENNESS * usual, min(ROUNDING_MM, MAX_STRAY * usual))
    for number, ((before, after), distance) in enumerate(zip(pairwise(places), distances, strict=True), start=1):
        if abs(distance - usual) <= tolerance:
            continue
        where = (
            f"{distance:.4g} mm instead of {usual:.4g} mm between {before[0].label} and {after[0].label} "
            f"(places {number} and {number + 1} of {len(places)})"
        )
        missing = round(distance / usual) - 1 if usual > 0 else 0
        if missing >= 1 and abs(distance - usual * (missing + 1)) <= tolerance * (missing + 1):
            raise VolumeError(f"{missing} missing slice{'s'[: missing > 1]}: {where}; fetch the whole series")
        raise VolumeError(f"uneven spacing: {where}; expected distances equal to 1 %, resample the series first")
    step = (positions[-1] - positions[0]) / (len(places) - 1)
    sideways = step - np.dot(step, normal) * normal
    shear = math.degrees(math.atan2(np.linalg.norm(sideways), np.dot(step, normal)))
    if shear > MAX_SHEAR_DEGREES:
        raise VolumeError(
            f"the slices are sheared by {shear:.1f} degrees (gantry tilt); expected less than {MAX_SHEAR_DEGREES}, "
            "resample the series first, for instance with dcm2niix"
        )
    strays = np.linalg.norm(positions - positions[0] - np.arange(len(places))[:, None] * step, axis=1)
    if strays.max() > MAX_STRAY * usual:
        label = places[int(np.argmax(strays))][0].label
        raise VolumeError(
            f"uneven spacing: {label} lies {strays.max():.3g} mm from its place in an even row of slices; "
            "resample the series first"
        )
    return step
