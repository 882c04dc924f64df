"""Evaluation results as CSV, JSON and Markdown."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from tf_mrsr.metrics import METRICS

STATISTICS = ("mean", "std", "min", "max", "median")
COLUMNS = (*METRICS, "seconds")


@dataclass
class Results:
    """What an evaluation found.

    Attributes:
        protocol: lines that say how it was measured.
        rows: one mapping per case and method with "case", "method" and a value per name in ``COLUMNS``.
    """

    protocol: Sequence[str]
    rows: list[Mapping[str, object]] = field(default_factory=list)

    def methods(self) -> list[str]:
        return list(dict.fromkeys(str(row["method"]) for row in self.rows))

    def values(self, method: str, column: str) -> np.ndarray:
        return np.array([row[column] for row in self.rows if row["method"] == method], np.float64)

    def summary(self) -> dict[str, dict[str, dict[str, float]]]:
        """Method -> column -> statistic -> value; a column with an infinite value has no "std", but NaN."""
        with np.errstate(invalid="ignore"):
            return {
                method: {
                    column: {name: float(getattr(np, name)(self.values(method, column))) for name in STATISTICS}
                    for column in COLUMNS
                }
                for method in self.methods()
            }

    def to_csv(self) -> str:
        stream = io.StringIO()
        writer = csv.DictWriter(stream, ["case", "method", *COLUMNS], lineterminator="\n")
        writer.writeheader()
        writer.writerows({k: f"{v:.7g}" if isinstance(v, float) else v for k, v in row.items()} for row in self.rows)
        return stream.getvalue()

    def to_json(self) -> str:
        content = {"protocol": list(self.protocol), "summary": self.summary(), "cases": list(self.rows)}
        return json.dumps(_finite(content), indent=2, allow_nan=False) + "\n"

    def to_markdown(self) -> str:
        count = len({row["case"] for row in self.rows})
        lines = [
            "# Evaluation",
            "",
            *(f"- {line}" for line in self.protocol),
            f"- scans: {count}",
            "",
            "| method | PSNR (dB): mean (std) | min | max | median | SSIM: mean (std) | min | max | median "
            "| MAE | MSE | s / volume |",
            "| --- " * 12 + "|",
        ]
        for method, columns in self.summary().items():
            cells = [method]
            for name, digits in (("psnr", 2), ("ssim", 4)):
                value = columns[name]
                spread = "" if math.isnan(value["std"]) else f" ({value['std']:.{digits}f})"
                cells.append(f"{value['mean']:.{digits}f}{spread}")
                cells += [f"{value[s]:.{digits}f}" for s in ("min", "max", "median")]
            cells += [f"{columns[name]['mean']:.4g}" for name in ("mae", "mse")]
            cells.append(f"{columns['seconds']['mean']:.2f}")
            lines.append("| " + " | ".join(cells) + " |")
        return "\n".join(lines) + "\n"


def _finite(value: object) -> object:
    """``value`` with null for the infinite PSNR of a perfect estimate, which JSON cannot hold."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
