"""Which thin slice belongs to which thick one, by their positions in space (narcomey2018).

Positions are those of a slice's first voxel in mm, (slice, 3), in one frame of reference, in the order of the series
(DICOM: ImagePositionPatient).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from tf_mrsr.errors import DataError

WINDOW = 10  # thin slices that the program looks at for each thick one


class SlicePairs(NamedTuple):
    """Thick slice ``low_res[i]`` belongs to thin slice ``high_res[i]``, ``distances_mm[i]`` away; all (pair,)."""

    low_res: np.ndarray
    high_res: np.ndarray
    distances_mm: np.ndarray


class Triples(NamedTuple):
    """Three neighbouring slices for every slice.

    Attributes:
        slices: (slice, 3), their indices in order.
        channel: (slice,), which of the three is the slice itself.
    """

    slices: np.ndarray
    channel: np.ndarray


def match_slices(low_res_mm: np.ndarray, high_res_mm: np.ndarray, window: int = WINDOW) -> SlicePairs:
    """For each thick slice in turn the nearest of the next thin slices that are not used yet.

    One to one by the least distance, as section 3 of the paper has it, and greedy as in the program: of the ``window``
    thin slices behind the one matched last, the nearest is taken, the first of equally near ones. What was passed over
    is not looked at again, so both series must run in the same direction.

    Args:
        low_res_mm: positions of the thick slices, (n, 3).
        high_res_mm: positions of the thin slices, (m, 3).
        window: how many thin slices are looked at.

    Raises:
        DataError: if there are no slices, positions are not finite, or no thin slice is left for a thick one.
    """
    low_res_mm = _positions("low-resolution", low_res_mm)
    high_res_mm = _positions("high-resolution", high_res_mm)
    matched, distances, first = [], [], 0
    for position in low_res_mm:
        candidates = high_res_mm[first : first + window]
        if len(candidates) == 0:
            raise DataError(
                f"no high-resolution slice is left for low-resolution slice {len(matched) + 1} of {len(low_res_mm)}: "
                f"the last of {len(high_res_mm)} is matched already; leave out slices that the high-resolution series "
                "does not cover, and bring both series into the same direction"
            )
        distance = np.linalg.norm(candidates - position, axis=1)
        nearest = int(np.argmin(distance))
        matched.append(first + nearest)
        distances.append(distance[nearest])
        first += nearest + 1
    return SlicePairs(np.arange(len(matched)), np.array(matched), np.array(distances))


def neighbour_triples(matched: np.ndarray, num_slices: int, *, shift_at_last_match: bool = False) -> Triples:
    """Each matched thin slice with its two neighbours, the target of Model 2.

    A slice is the middle one of its triple; at an edge of the series the triple is shifted inwards.

    Args:
        matched: indices of thin slices, (pair,).
        num_slices: slices of the thin series.
        shift_at_last_match: as the program does it, and no recipe here: the last matched slice is the last one of its
            triple even if more slices follow. (The program's triple of a last match at index 1 begins with the series'
            last slice; here it begins with the first.)

    Raises:
        DataError: if the series has fewer than three slices, or a slice is not in it.
    """
    matched = np.asarray(matched, int)
    if num_slices < 3:
        raise DataError(f"the high-resolution series has {num_slices} slices; a slice and its neighbours need 3")
    outside = matched[(matched < 0) | (matched >= num_slices)]
    if len(outside) > 0:
        raise DataError(f"slice {outside[0]} is not in the high-resolution series of {num_slices} slices, from 0")
    first = matched - 1
    if shift_at_last_match:
        first = np.where(matched == matched[-1:], matched - 2, first)
    first = np.clip(first, 0, num_slices - 3)
    return Triples(first[:, None] + np.arange(3), matched - first)


def _positions(which: str, positions_mm: np.ndarray) -> np.ndarray:
    positions_mm = np.asarray(positions_mm, np.float64)
    if positions_mm.ndim != 2 or positions_mm.shape[1] != 3 or len(positions_mm) == 0:
        raise DataError(f"{which} positions must be (slice, 3) in mm with one slice or more, got {positions_mm.shape}")
    if not np.all(np.isfinite(positions_mm)):
        raise DataError(f"the {which} series has slices without a finite position; they cannot be matched")
    return positions_mm
