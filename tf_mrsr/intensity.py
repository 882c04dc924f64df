"""Scan intensities to a network's range, and exactly back.

Every kind is one centre and one half-width: ``network = (scan - centre) / width``, ``scan = network * width + centre``.
The two numbers come from statistics that a caller supplies, so that NumPy here and TensorFlow inside an exported
graph compute them by the same rule.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np


class Window(NamedTuple):
    """centre and width, in scan intensities; NumPy or TensorFlow scalars."""

    centre: Any
    width: Any

    def to_network(self, data: Any) -> Any:
        return (data - self.centre) / self.width

    def to_scan(self, data: Any) -> Any:
        return data * self.width + self.centre


def _half_max(statistic: Callable[[str], Any]) -> Window:
    half = statistic("max") / 2
    return Window(half, half)


def _standard(statistic: Callable[[str], Any]) -> Window:
    return Window(statistic("mean"), statistic("std"))


def _raw(statistic: Callable[[str], Any]) -> Window:
    return Window(0.0, 1.0)


# half_max maps [0, max] to [-1, 1]; the sanchez2018 program divides by half of the maximum and subtracts one.
# standard gives zero mean and unit variance (li2017, section 2.1). raw leaves all as it is (the narcomey2018 program).
KINDS: dict[str, Callable[[Callable[[str], Any]], Window]] = {
    "half_max": _half_max,
    "standard": _standard,
    "raw": _raw,
}


def measure(kind: str, data: np.ndarray) -> Window:
    """The window of ``data`` (any shape) by the rule ``kind``.

    Data whose width would be 0, such as an all-zero patch, gets the width 1.
    """
    window = KINDS[kind](lambda name: getattr(np, name)(data))
    return window if window.width != 0 else Window(window.centre, type(window.width)(1))
