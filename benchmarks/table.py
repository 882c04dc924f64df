"""The rows that all measurements share, as Markdown and CSV."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import NamedTuple


class Row(NamedTuple):
    """One measurement.

    Attributes:
        section: a key of ``benchmarks.__main__.SECTIONS``.
        case: what ran.
        seconds: the fastest run, or None.
        rate: per second, in ``unit``.
        unit: of ``rate``, for instance "GFLOP/s".
        ratio: the rate, or where there is none the seconds, over those of ``to``.
        to: what ``ratio`` compares with.
        peak_mb: memory above that of the process before the run, MB.
        note: whatever else there is to say.
    """

    section: str
    case: str
    seconds: float | None = None
    rate: float | None = None
    unit: str = ""
    ratio: float | None = None
    to: str = ""
    peak_mb: float | None = None
    note: str = ""

    def cells(self) -> list[str]:
        rate = "" if self.rate is None else f"{_short(self.rate)} {self.unit}"
        ratio = "" if self.ratio is None else f"{self.ratio:.2f} of {self.to}"
        peak = "" if self.peak_mb is None else f"{self.peak_mb:.0f}"
        seconds = "" if self.seconds is None else _short(self.seconds)
        return [self.section, self.case, seconds, rate, ratio, peak, self.note]


COLUMNS = ("section", "case", "seconds", "rate", "ratio", "peak above base, MB", "note")


def header() -> str:
    return f"| {' | '.join(COLUMNS)} |\n{'| --- ' * len(COLUMNS)}|"


def line(row: Row) -> str:
    return f"| {' | '.join(row.cells())} |"


def write(folder: Path, rows: list[Row]) -> None:
    """Writes ``bench.csv``, with all digits, and ``bench.md``."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "bench.csv").open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([Row._fields, *rows])
    (folder / "bench.md").write_text("\n".join([header(), *map(line, rows)]) + "\n", encoding="utf-8")


def _short(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"
