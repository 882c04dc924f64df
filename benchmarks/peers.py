"""PyTorch beside our own measurement."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from typing import Any

from benchmarks.table import Row


def rows(
    section: str,
    case: str,
    measure: Callable[[bool], dict[str, Any]],
    to_row: Callable[[str, dict[str, Any]], Row],
    *,
    quick: bool,
) -> Iterator[Row]:
    """A row of PyTorch as it comes, and unless ``quick`` one with ``torch.compile``.

    Where PyTorch is not installed, or fails, the row says so.

    Args:
        section: of the rows.
        case: what runs, PyTorch included.
        measure: with ``torch.compile`` or not; raises RuntimeError if it fails.
        to_row: makes a row of its name and of what was measured.
        quick: leave ``torch.compile`` out.
    """
    if importlib.util.find_spec("torch") is None:
        yield Row(section, case, note="not installed")
        return
    for compiled in (False,) if quick else (False, True):
        name = f"{case}, torch.compile" if compiled else case
        try:
            found = measure(compiled)
        except RuntimeError as error:
            yield Row(section, name, note=f"failed: {error}")
        else:
            yield to_row(name, found)
