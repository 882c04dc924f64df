"""Pictures: a scan in three planes beside its estimates, and an evaluation's distribution."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
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


def three_planes(truth: Volume, estimates: Mapping[str, np.ndarray], path: Path) -> None:
    """Writes a PNG: truth and estimates in three planes through the middle, and below each estimate its absolute error.

    Args:
        truth: the scan.
        estimates: title -> data (x, y, z) on the truth's grid.
        path: the PNG file.
    """
    order, flips = _to_ras(truth.affine)
    center = [n // 2 for n in truth.shape]
    gray = _gray(truth.data)
    worst = max(float(np.percentile(np.abs(e - truth.data), 99.5)) for e in estimates.values())
    spacing = np.array(voxel_spacing_mm(truth.affine))[order]
    images = {**estimates, "truth": truth.data}
    figure = Figure(figsize=(2.6 * len(images), 2.6 * 6), layout="constrained")
    axes = figure.subplots(6, len(images))
    for column, (title, data) in enumerate(images.items()):
        shown = _reoriented(data, order, flips)
        error = _reoriented(np.abs(data - truth.data), order, flips)
        at = _reoriented_index(center, truth.shape, order, flips)
        for row in range(3):
            _show(axes[row, column], shown, row, at, spacing, gray)
            if title == "truth":
                axes[row + 3, column].axis("off")
            else:
                _show(axes[row + 3, column], error, row, at, spacing, {"cmap": "magma", "vmin": 0, "vmax": worst})
        axes[0, column].set_title(title)
        if title != "truth":
            axes[3, column].set_title(f"|error|, 0 to {worst:.3g}", fontsize=8)
    figure.savefig(path, dpi=_DPI, metadata={"Software": None})


def prediction(images: Mapping[str, np.ndarray], affine: np.ndarray, added: np.ndarray | None) -> bytes:
    """A PNG: scan, interpolation, result and the like in three planes through the middle.

    Args:
        images: title -> data (x, y, z), all on one grid.
        affine: of that grid.
        added: what the network added to the interpolation, shown from blue to red; or None, and then every image has a
            window of grey values of its own, else that of the first.
    """
    order, flips = _to_ras(affine)
    spacing = np.array(voxel_spacing_mm(affine))[order]
    first = next(iter(images.values()))
    at = _reoriented_index([n // 2 for n in first.shape], first.shape, order, flips)
    columns = [(title, data, _gray(data if added is None else first)) for title, data in images.items()]
    if added is not None:
        most = float(np.percentile(np.abs(added[::2, ::2, ::2]), 99.5)) or 1.0
        style = {"cmap": "RdBu_r", "vmin": -most, "vmax": most}
        columns.append((f"added, -{most:.3g} to {most:.3g}", added, style))
    figure = Figure(figsize=(3.2 * len(columns), 3.2 * 3), layout="constrained")
    axes = figure.subplots(3, len(columns), squeeze=False)
    for column, (title, data, style) in zip(axes.T, columns, strict=True):
        shown = _reoriented(data, order, flips)
        for row in range(3):
            _show(column[row], shown, row, at, spacing, style)
        column[0].set_title(title)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=_DPI, metadata={"Software": None})
    return stream.getvalue()


def _gray(data: np.ndarray) -> dict[str, object]:
    low, high = np.percentile(data[::2, ::2, ::2], (0.2, 99.8))
    return {"cmap": "gray", "vmin": min(0.0, float(low)), "vmax": max(0.0, float(high))}


def differences(truth: Volume, estimates: Mapping[str, np.ndarray], folder: Path, name: str) -> None:
    """Writes one PNG per plane, ``NAME_differences_PLANE.png``: estimate less truth in slices through the volume.

    Every picture states the slice's mean squared error as a share of the truth's variance over the whole volume.

    Args:
        truth, estimates: see ``three_planes``.
        folder: where the files go.
        name: first part of their names.
    """
    order, flips = _to_ras(truth.affine)
    spacing = np.array(voxel_spacing_mm(truth.affine))[order]
    whole = _reoriented(truth.data, order, flips)
    errors = {title: _reoriented(e - truth.data, order, flips) for title, e in estimates.items()}
    worst = max(float(np.percentile(np.abs(error), 99.5)) for error in errors.values())
    gray = _gray(truth.data)
    signed = {"cmap": "RdBu_r", "vmin": -worst, "vmax": worst}
    variance = float(truth.data.var())
    for plane, plane_name in enumerate(_PLANES):
        places = _spread(whole, plane)
        figure = Figure(figsize=(2.2 * _SLICES, 2.4 * (1 + len(errors))), layout="constrained")
        rows = figure.subplots(1 + len(errors), _SLICES)
        for column, place in enumerate(places):
            at = [place] * 3
            _show(rows[0, column], whole, plane, at, spacing, gray)
            rows[0, column].set_title(f"slice {place}", fontsize=8)
            for row, error in zip(rows[1:, column], errors.values(), strict=True):
                _show(row, error, plane, at, spacing, signed)
                of_slice = float(np.mean(np.square(np.take(error, place, axis=plane)))) / variance
                row.set_title(f"MSE {of_slice:.4f}", fontsize=8)
        for row, title in zip(rows[:, 0], ["truth", *errors], strict=True):
            row.set_ylabel(title, fontsize=8)
        for axis in rows[:, 1:].ravel():
            axis.set_ylabel("")
        figure.suptitle(f"{plane_name}: estimate less truth, -{worst:.3g} (blue) to {worst:.3g} (red)", fontsize=9)
        figure.savefig(folder / f"{name}_differences_{plane_name}.png", dpi=_DPI, metadata={"Software": None})


def _spread(data: np.ndarray, plane: int) -> np.ndarray:
    """Numbers of slices, evenly spread over those that show something."""
    brightest = data.max(axis=tuple(a for a in range(3) if a != plane))
    lit = np.flatnonzero(brightest > _LIT * brightest.max())
    return np.linspace(lit[0], lit[-1], _SLICES + 2).round().astype(int)[1:-1]


def _show(axis: Axes, data: np.ndarray, plane: int, at: Sequence[int], spacing: np.ndarray, style: dict) -> None:
    across, up = [a for a in range(3) if a != plane]
    image = np.take(data, at[plane], axis=plane)
    axis.imshow(image.T, origin="lower", aspect=spacing[up] / spacing[across], interpolation="nearest", **style)
    axis.set_xticks([])
    axis.set_yticks([])
    axis.set_ylabel(_PLANES[plane], fontsize=8)


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
