"""Pictures: a scan in three planes beside its estimates, and an evaluation's distribution."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from tf_mrsr.errors import ModelError
from tf_mrsr.geometry import voxel_spacing_mm
from tf_mrsr.metrics import METRICS
from tf_mrsr.report.tables import Results
from tf_mrsr.volume import Volume

_PLANES = ("sagittal", "coronal", "axial")
_DPI = 120
_SLICES = 6  # in a picture of differences
_LIT = 0.1  # of the brightest voxel
_LINE, _GAP = 0.25, 0.08  # inches for a line of text, and between images
_TALLEST = 2  # height over width of the place for an image


def three_planes(truth: Volume, estimates: Mapping[str, np.ndarray], path: Path) -> None:
    """Writes a PNG: truth and estimates in three planes through the middle, and below each estimate its absolute error.

    Args:
        truth: the scan.
        estimates: title -> data (x, y, z) on the truth's grid.
        path: the PNG file.
    """
    order, flips = _to_ras(truth.affine)
    at = _reoriented_index([n // 2 for n in truth.shape], truth.shape, order, flips)
    gray = _gray(truth.data)
    worst = max(_most(e - truth.data) for e in estimates.values())
    of_error = {"cmap": "magma", "vmin": 0, "vmax": worst}
    sheet = _Sheet(truth, [*range(3), *range(3)], columns=len(estimates) + 1, width=2.4)
    for column, (title, data) in enumerate({**estimates, "truth": truth.data}.items()):
        shown = _reoriented(data, order, flips)
        error = _reoriented(np.abs(data - truth.data), order, flips)
        for row in range(3):
            sheet.show(row, column, shown, at[row], gray, title if row == 0 else "")
            if title != "truth":
                words = f"|error|, 0 to {worst:.3g}" if row == 0 else ""
                sheet.show(row + 3, column, error, at[row], of_error, words)
    for row in range(6):
        sheet.name(row, _PLANES[row % 3])
    sheet.save(path)


def prediction(images: Mapping[str, np.ndarray], affine: np.ndarray, added: np.ndarray | None) -> bytes:
    """A PNG: scan, interpolation, result and the like in three planes through the middle.

    Args:
        images: title -> data (x, y, z), all on one grid.
        affine: of that grid.
        added: what the network added to the interpolation, shown from blue to red; or None, and then every image has a
            window of grey values of its own, else that of the first.
    """
    order, flips = _to_ras(affine)
    first = next(iter(images.values()))
    at = _reoriented_index([n // 2 for n in first.shape], first.shape, order, flips)
    columns = [(title, data, _gray(data if added is None else first)) for title, data in images.items()]
    if added is not None:
        most = _most(added) or 1.0
        style = {"cmap": "RdBu_r", "vmin": -most, "vmax": most}
        columns.append((f"added, -{most:.3g} to {most:.3g}", added, style))
    sheet = _Sheet(Volume(first, affine), range(3), columns=len(columns), width=3.0)
    for column, (title, data, style) in enumerate(columns):
        shown = _reoriented(data, order, flips)
        for row in range(3):
            sheet.show(row, column, shown, at[row], style, title if row == 0 else "")
    for row in range(3):
        sheet.name(row, _PLANES[row])
    stream = io.BytesIO()
    sheet.save(stream)
    return stream.getvalue()


def differences(truth: Volume, estimates: Mapping[str, np.ndarray], folder: Path, name: str) -> None:
    """Writes one PNG per plane, ``NAME_differences_PLANE.png``: estimate less truth in slices through the volume.

    Every picture states the slice's mean squared error as a share of the truth's variance over the whole volume.

    Args:
        truth, estimates: see ``three_planes``.
        folder: where the files go.
        name: first part of their names.
    """
    order, flips = _to_ras(truth.affine)
    whole = _reoriented(truth.data, order, flips)
    errors = {title: _reoriented(e - truth.data, order, flips) for title, e in estimates.items()}
    worst = max(_most(error) for error in errors.values())
    gray = _gray(truth.data)
    signed = {"cmap": "RdBu_r", "vmin": -worst, "vmax": worst}
    variance = float(truth.data.var())
    for plane, plane_name in enumerate(_PLANES):
        sheet = _Sheet(truth, [plane] * (1 + len(errors)), columns=_SLICES, width=2.0, head=_LINE)
        sheet.head(f"{plane_name}: estimate less truth, -{worst:.3g} (blue) to {worst:.3g} (red)")
        for column, place in enumerate(_spread(whole, plane)):
            sheet.show(0, column, whole, place, gray, f"slice {place}")
            for row, error in enumerate(errors.values(), start=1):
                of_slice = float(np.mean(np.square(_slice(error, plane, place)))) / variance
                sheet.show(row, column, error, place, signed, f"MSE {of_slice:.4f}")
        for row, title in enumerate(["truth", *errors]):
            sheet.name(row, title)
        sheet.save(folder / f"{name}_differences_{plane_name}.png")


class _Sheet:
    """Slices in rows and columns on one page, with a line of text above each.

    All are drawn in one pair of axes, in inches: matplotlib takes seconds to make and draw a pair for each.

    Args:
        volume: its grid is that of all volumes shown, which are reoriented so that their axes run to R, A and S.
        planes: numbers of ``_PLANES``, one for each row.
        columns: how many slices stand beside each other.
        width: of a slice, in inches.
        head: what is left free above, in inches.
    """

    def __init__(self, volume: Volume, planes: Sequence[int], *, columns: int, width: float, head: float = 0) -> None:
        order, _ = _to_ras(volume.affine)
        extent = [volume.shape[axis] * volume.spacing_mm[axis] for axis in order]
        self._planes, self._width = list(planes), width
        self._aspects = [extent[up] / extent[across] for across, up in map(_axes_of, planes)]
        heights = [width * min(aspect, _TALLEST) for aspect in self._aspects]
        size = (_LINE + columns * (width + _GAP), head + sum(heights) + len(heights) * _LINE + _GAP)
        self._bottoms = size[1] - head - np.cumsum(np.array(heights) + _LINE)
        self._heights = heights
        self._figure = Figure(figsize=size)
        self._axes = self._figure.add_axes((0, 0, 1, 1), xlim=(0, size[0]), ylim=(0, size[1]), autoscale_on=False)
        self._axes.set_axis_off()

    def show(
        self, row: int, column: int, data: np.ndarray, place: int, style: Mapping[str, object], title: str
    ) -> None:
        """Draws slice number ``place`` of ``data`` along the row's plane."""
        width = min(self._width, self._heights[row] / self._aspects[row])
        middle = _LINE + column * (self._width + _GAP) + self._width / 2
        bottom, top = self._bottoms[row], self._bottoms[row] + self._heights[row]
        image = _slice(data, self._planes[row], place).T
        across = (middle - width / 2, middle + width / 2)
        self._axes.imshow(
            image, origin="lower", extent=(*across, bottom, top), aspect="auto", interpolation="nearest", **style
        )
        self._axes.text(middle, top + _GAP / 2, title, fontsize=8, ha="center", va="bottom")

    def name(self, row: int, words: str) -> None:
        """Writes a row's name on its left."""
        middle = self._bottoms[row] + self._heights[row] / 2
        self._axes.text(_LINE / 2, middle, words, fontsize=8, ha="center", va="center", rotation=90)

    def head(self, words: str) -> None:
        """Writes a line above all rows."""
        width, height = self._figure.get_size_inches()
        self._axes.text(width / 2, height - _GAP / 2, words, fontsize=9, ha="center", va="top")

    def save(self, target: Path | io.BytesIO) -> None:
        self._figure.savefig(target, format="png", dpi=_DPI, metadata={"Software": None})


def _gray(data: np.ndarray) -> dict[str, object]:
    low, high = np.percentile(data[::2, ::2, ::2], (0.2, 99.8))
    return {"cmap": "gray", "vmin": min(0.0, float(low)), "vmax": max(0.0, float(high))}


def _most(difference: np.ndarray) -> float:
    """What hardly any voxel's absolute difference exceeds."""
    return float(np.percentile(np.abs(difference[::2, ::2, ::2]), 99.5))


def _slice(data: np.ndarray, plane: int, place: int) -> np.ndarray:
    return data[(slice(None),) * plane + (place,)]


def _axes_of(plane: int) -> tuple[int, int]:
    """The axes that run across and up in a plane."""
    across, up = (axis for axis in range(3) if axis != plane)
    return across, up


def _spread(data: np.ndarray, plane: int) -> np.ndarray:
    """Numbers of slices, evenly spread over those that show something."""
    brightest = data.max(axis=tuple(a for a in range(3) if a != plane))
    lit = np.flatnonzero(brightest > _LIT * brightest.max())
    return np.linspace(lit[0], lit[-1], _SLICES + 2).round().astype(int)[1:-1]


def _to_ras(affine: np.ndarray) -> tuple[list[int], list[bool]]:
    """Which array axis runs closest to R, A and S, and whether it runs the other way."""
    directions = affine[:3, :3] / voxel_spacing_mm(affine)
    order: list[int] = []
    for world in range(3):
        free = [a for a in range(3) if a not in order]
        order.append(max(free, key=lambda a: abs(directions[world, a])))
    return order, [bool(directions[world, axis] < 0) for world, axis in enumerate(order)]


def _reoriented(data: np.ndarray, order: list[int], flips: list[bool]) -> np.ndarray:
    return np.flip(np.transpose(data, order), [a for a, flip in enumerate(flips) if flip])


def _reoriented_index(index: Sequence[int], shape: Sequence[int], order: list[int], flips: list[bool]) -> list[int]:
    return [shape[a] - 1 - index[a] if flip else index[a] for a, flip in zip(order, flips, strict=True)]


def training_curve(run: Path, path: Path) -> Path | None:
    """Writes a PNG of a run folder's losses and, where it was validated, PSNR over the steps.

    Returns:
        ``path``, or None where the folder has no log, as a SavedModel has none.

    Raises:
        ModelError: if a log is damaged.
    """
    losses, validation = _read_log(run / "log.csv", ["step"]), _read_log(run / "validation.csv", ["step", "psnr"])
    if not losses:
        return None
    figure = Figure(figsize=(6, 3), layout="constrained")
    axis = figure.subplots()
    steps = losses.pop("step")
    losses.pop("steps_per_second", None)
    for name, values in losses.items():
        axis.plot(steps, values, linewidth=0.8, label=name.replace("_", " "))
    axis.set_yscale("log")
    axis.set_xlabel("step")
    axis.set_ylabel("loss, weighted")
    if validation:
        right = axis.twinx()
        right.plot(validation["step"], validation["psnr"], "k.-", label="PSNR")
        right.set_ylabel("PSNR of the validation scans, dB")
    axis.legend(fontsize=7)
    figure.savefig(path, dpi=_DPI, metadata={"Software": None})
    return path


def _read_log(path: Path, needed: Sequence[str]) -> dict[str, list[float]]:
    """Column -> values of a run's log; empty where there is none. It must have the columns ``needed``."""
    if not path.is_file():
        return {}
    columns: dict[str, list[float]] = {}
    with path.open(newline="", encoding="utf-8", errors="replace") as stream:
        reader = csv.DictReader(stream)
        try:
            missing = [name for name in needed if name not in (reader.fieldnames or needed)]
            if missing:
                raise ValueError(f"no column {missing[0]!r}")
            for row in reader:
                if None in row:
                    raise ValueError("more values than columns")
                for name, value in row.items():
                    columns.setdefault(name, []).append(float(value or "nan"))
        except (ValueError, csv.Error) as error:
            raise ModelError(
                f"{path}: line {reader.line_num} is damaged ({error}); delete it, or put back a copy"
            ) from error
    return columns


def distribution(results: Results, path: Path) -> None:
    """Writes a PNG with one panel per metric: a box per method and a dot per scan, but for infinite values."""
    methods = results.methods()
    figure = Figure(figsize=(3 * len(METRICS), 3.2), layout="constrained")
    for axis, metric in zip(figure.subplots(1, len(METRICS)), METRICS, strict=True):
        values = [results.values(method, metric) for method in methods]
        values = [numbers[np.isfinite(numbers)] for numbers in values]
        axis.boxplot(values, tick_labels=methods, showfliers=False)
        for place, points in enumerate(values, start=1):
            axis.plot([place] * len(points), points, "k.", alpha=0.5)
        axis.set_title(metric.upper())
        axis.tick_params(axis="x", labelrotation=30)
    figure.savefig(path, dpi=_DPI, metadata={"Software": None})
