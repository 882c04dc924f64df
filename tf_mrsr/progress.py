"""One line of progress on a terminal; nothing where the output is not one."""

from __future__ import annotations

import sys
import time
from typing import TextIO


class Progress:
    """Shows "label 12/100 note, 3 s left" on standard error while it is a terminal.

    Args:
        label: what is being done.
        total: how many steps there are.
        done: how many were done before.
    """

    def __init__(self, label: str, total: int, done: int = 0, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._on = self._stream.isatty()
        self._label, self._total, self._done = label, total, done
        self._first, self._start, self._shown = done, time.monotonic(), 0.0

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self._on:
            self._stream.write("\r\x1b[K")
            self._stream.flush()

    def advance(self, note: str = "") -> None:
        """Counts one step; redraws at most ten times a second."""
        self._done += 1
        now = time.monotonic()
        if not self._on or (now - self._shown < 0.1 and self._done < self._total):
            return
        self._shown = now
        left = (now - self._start) / max(1, self._done - self._first) * (self._total - self._done)
        text = f"{self._label} {self._done}/{self._total} {note + ', ' if note else ''}{_duration(left)} left"
        self._stream.write(f"\r\x1b[K{text}")
        self._stream.flush()


def _duration(seconds: float) -> str:
    seconds = round(seconds)
    if seconds < 120:
        return f"{seconds} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02d} min"
