"""CSV logs that survive an interruption, and TensorBoard where it is installed."""

from __future__ import annotations

import csv
import importlib.util
import os
from collections.abc import Mapping
from pathlib import Path

import tensorflow as tf


class CsvLog:
    """A CSV file with one row per step that was logged.

    Opening it for a run that goes on at ``first_step`` drops the rows of later steps, which will be written again.

    Args:
        path: the file.
        columns: names of the values after "step".
        first_step: the number of steps already done.
    """

    def __init__(self, path: Path, columns: list[str], first_step: int) -> None:
        self._columns = ["step", *columns]
        rows = []
        if path.exists():
            with path.open(newline="", encoding="utf-8", errors="replace") as stream:
                rows = [row for row in csv.reader(stream) if row and row[0].isdigit() and int(row[0]) <= first_step]
        temporary = path.with_name(f".{path.name}.partial")
        with temporary.open("w", newline="", encoding="utf-8") as stream:
            csv.writer(stream).writerows([self._columns, *rows])
        os.replace(temporary, path)
        self._path = path

    def write(self, step: int, values: Mapping[str, float]) -> None:
        row = [step, *(f"{values[name]:.7g}" if name in values else "" for name in self._columns[1:])]
        with self._path.open("a", newline="", encoding="utf-8") as stream:
            csv.writer(stream).writerow(row)


class BoardLog:
    """TensorBoard summaries, written only if the tensorboard package is there to show them."""

    def __init__(self, folder: Path) -> None:
        installed = importlib.util.find_spec("tensorboard") is not None
        self._writer = tf.summary.create_file_writer(str(folder)) if installed else None

    def write(self, step: int, values: Mapping[str, float]) -> None:
        if self._writer is None:
            return
        with self._writer.as_default():
            for name, value in values.items():
                tf.summary.scalar(name, value, step=step)
        self._writer.flush()
