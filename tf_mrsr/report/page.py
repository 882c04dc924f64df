"""One prediction's report: a page for people, a file for programs, and a table of all that lie in a folder."""

from __future__ import annotations

import base64
import csv
import dataclasses
import html
import io
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tf_mrsr import __version__, storage
from tf_mrsr.baselines import interpolate
from tf_mrsr.card import Card
from tf_mrsr.card_page import numbers_in_short, spacing_words, what_it_makes
from tf_mrsr.errors import DataError, OutputError
from tf_mrsr.geometry import GridMap, millimetres
from tf_mrsr.report import figures
from tf_mrsr.report.trust import MOST_DETAIL, Found, Trust
from tf_mrsr.volume import Volume

TABLE_FILE = "reports.csv"
_KIND = "tf_mrsr report"
_STYLE = (
    "body{font-family:sans-serif;max-width:70em;margin:2em auto;padding:0 1em}"
    "td,th{text-align:left;padding:.2em 1em .2em 0;vertical-align:top}img{max-width:100%}.against{color:#a00}"
)
_COLUMNS = ("scan", "model", "gain", "detail", "contradiction", "mean_ratio", "remarks")


@dataclass(frozen=True)
class Report:
    """What is known of one prediction.

    Attributes:
        name: the scan's.
        card: the model's.
        scan, result: what went in and came out.
        found: see ``tf_mrsr.report.trust``.
        warnings: in words, where the scan is unlike those of the model's training.
        flips: whether the result is a mean over mirror images.
    """

    name: str
    card: Card
    scan: Volume
    result: Volume
    found: Found
    warnings: Sequence[str] = ()
    flips: bool = False

    @property
    def remarks(self) -> list[str]:
        return [*self.warnings, *self.found.trust.remarks()]

    def to_json(self) -> str:
        trust = self.found.trust
        content = {
            "kind": _KIND,
            "tf_mrsr": __version__,
            "scan": self.name,
            "model": self.card.name,
            "flips": self.flips,
            **{
                side: {"voxels": list(volume.shape), "spacing_mm": list(volume.spacing_mm)}
                for side, volume in (("input", self.scan), ("output", self.result))
            },
            "gain": trust.gain,
            "detail": trust.detail,
            **dataclasses.asdict(trust),
            "remarks": self.remarks,
        }
        # JSON has no infinite PSNR.
        known = {key: None if isinstance(v, float) and not math.isfinite(v) else v for key, v in content.items()}
        return json.dumps(known, indent=2, allow_nan=False) + "\n"

    def to_html(self) -> str:
        against = "".join(f"<li>{html.escape(words)}</li>" for words in self.remarks)
        against = f'<ul class="against">{against}</ul>' if against else "<p>Nothing that was looked for.</p>"
        picture = base64.b64encode(self._picture()).decode()
        flips = ", mean over mirror images" if self.flips else ""
        return (
            f'<!DOCTYPE html><html lang="en"><meta charset="utf-8"><title>{html.escape(self.name)}</title>'
            f"<style>{_STYLE}</style><h1>{html.escape(self.name)}</h1>"
            f"<p>Made by a network, not measured: {html.escape(self.card.name)}{flips}, tf_mrsr {__version__}. It "
            "shows what is likely; not for diagnosis.</p>"
            f"<h2>What speaks against it</h2>{against}"
            f"<h2>The scan and the result</h2>{_table(self._facts())}"
            f"{_table(_numbers(self.found.trust)) or _UNTESTED}"
            f'<p><img alt="three planes" src="data:image/png;base64,{picture}"></p>'
            f"<h2>The model</h2>{_table(self._of_model())}{_HOW_TO_READ}</html>\n"
        )

    def _facts(self) -> list[tuple[str, str]]:
        trust = self.found.trust
        mean = "" if trust.mean_ratio is None else f"; mean {trust.mean_ratio:.3f} times the scan's"
        return [
            ("voxels", f"{_by(self.scan.shape)} to {_by(self.result.shape)}"),
            ("spacing", f"{millimetres(self.scan.spacing_mm)} to {millimetres(self.result.spacing_mm)}"),
            (
                "intensities",
                f"{trust.scan_lowest:.4g} to {trust.scan_highest:.4g} in the scan, {trust.lowest:.4g} to "
                f"{trust.highest:.4g} in the result{mean}",
            ),
        ]

    def _of_model(self) -> list[tuple[str, str]]:
        return [
            ("makes", what_it_makes(self.card)),
            ("trained on", self.card.facts.data),
            ("voxels of its training", spacing_words(self.card)),
            ("measured, people kept aside", numbers_in_short(self.card)),
            ("licence", self.card.facts.licence),
        ]

    def _picture(self) -> bytes:
        result, cubic = self.result, self.found.cubic
        to_scan = np.linalg.inv(self.scan.affine) @ result.affine
        grid_map = GridMap(tuple(np.diag(to_scan)[:3]), tuple(to_scan[:3, 3]))
        images = {"scan": interpolate(self.scan.data, grid_map, result.shape, "nearest")}
        if cubic is not None:
            images["cubic spline"] = cubic
        images["result"] = result.data
        return figures.prediction(images, result.affine, None if cubic is None else result.data - cubic)


def check_place(folder: Path, place: Path, *, overwrite: bool) -> None:
    """Looks, before the work, at what ``write`` would replace.

    Args:
        folder, place: as for ``write``.
        overwrite: whether an earlier report may be replaced; what is none may not.

    Raises:
        OutputError: if something stands there.
        DataError: if a JSON file in the report's place cannot be read.
    """
    table, (page, numbers) = folder / TABLE_FILE, _files(folder, place)
    taken = next((path for path in (page, numbers) if path.exists() and not overwrite), None)
    if taken is not None:
        raise OutputError(f"{taken}: exists already; give another folder, --overwrite or --skip-existing")
    foreign = None
    if numbers.exists() and not _is_report(_read(numbers)):
        foreign = numbers
    elif table.exists() and not table.read_bytes().startswith(_COLUMNS[0].encode() + b","):
        foreign = table
    if foreign is not None:
        raise OutputError(f"{foreign}: was not made by a report and would be lost; give another folder")


def write(report: Report, folder: Path, place: Path) -> None:
    """Writes ``folder/place.html`` and ``.json``, and ``reports.csv`` of all reports in the folder.

    Args:
        report: the report.
        folder: made if it does not exist.
        place: of the report below the folder, without an ending.

    Raises:
        OutputError: if something cannot be written.
        DataError: as ``table_of``.
    """
    page, numbers = _files(folder, place)
    storage.make_folder(page.parent)
    storage.write_text(page, report.to_html())
    storage.write_text(numbers, report.to_json())
    _write_table(folder)


def remove(folder: Path, place: Path) -> None:
    """Takes back what ``write`` wrote.

    Raises:
        OutputError, DataError: as ``write``.
    """
    for file in _files(folder, place):
        file.unlink(missing_ok=True)
    _write_table(folder)


def _files(folder: Path, place: Path) -> tuple[Path, Path]:
    target = folder / place
    return target.with_name(f"{target.name}.html"), target.with_name(f"{target.name}.json")


def _write_table(folder: Path) -> None:
    """The table of all reports in the folder. Other tasks may write reports there: whoever comes last must have seen
    all of them.
    """
    written = None
    while (table := table_of(folder)) != written:
        storage.write_text(folder / TABLE_FILE, table)
        written = table


def table_of(folder: Path) -> str:
    """CSV of the reports in a folder and below it, those with the most against them first.

    Raises:
        DataError: if the folder, or a JSON file in it, cannot be read.
    """
    found = [(path, _read(path)) for path in storage.files_below(folder) if path.suffix == ".json"]
    rows = [
        {**content, "scan": path.relative_to(folder).with_suffix("").as_posix()}
        for path, content in found
        if _is_report(content)
    ]
    rows.sort(key=lambda row: (-len(row["remarks"]), row["scan"]))
    stream = io.StringIO()
    writer = csv.DictWriter(stream, _COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for row in rows:
        shown = {key: f"{value:.4g}" if isinstance(value, float) else value for key, value in row.items()}
        writer.writerow({**shown, "remarks": "; ".join(row["remarks"])})
    return stream.getvalue()


def _read(path: Path) -> object:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as a report ({error}); move it out of the folder") from error


def _is_report(content: object) -> bool:
    return isinstance(content, dict) and content.get("kind") == _KIND and isinstance(content.get("remarks"), list)


def _numbers(trust: Trust) -> list[tuple[str, str]]:
    lines = []
    if trust.gain is not None:
        lines += [
            (
                "the scan, one step coarser",
                f"network {trust.network_psnr:.2f} dB, SSIM {trust.network_ssim:.4f}; cubic spline "
                f"{trust.cubic_psnr:.2f} dB, {trust.cubic_ssim:.4f}: {trust.gain:+.2f} dB",
            ),
        ]
    if trust.added is not None:
        test = "" if trust.detail is None else f", {trust.detail:.2f} times what it added one step coarser"
        lines += [
            ("detail that the network added", f"{trust.added:.2%} of the bright tissue{test}"),
            (
                "the result, degraded, against the scan",
                f"{trust.contradiction:.2%} of the bright tissue; the cubic spline {trust.cubic_contradiction:.2%}",
            ),
        ]
    return lines


def _table(lines: Sequence[tuple[str, str]]) -> str:
    rows = "".join(f"<tr><th>{html.escape(name)}<td>{html.escape(value)}" for name, value in lines)
    return f"<table>{rows}</table>" if rows else ""


def _by(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))


_UNTESTED = "<p>The model leaves the grid as it is, so the scan cannot be estimated from a coarser one as a test.</p>"
_HOW_TO_READ = (
    "<h2>How to read this</h2><p><b>One step coarser</b>: the scan itself was degraded as those of the training were, "
    "estimated again and compared with itself, inside its foreground. It is the only truth at hand, of another size "
    "than the detail in the result: a network that fails here fails on such scans, one that does well here may still "
    "fail on the finer step. <b>Added detail</b>: finer detail is weaker, so about as much as in that test or less is "
    f"to be expected; over {MOST_DETAIL:g} times is remarked on. <b>Degraded, against the scan</b>: what the scan "
    "measured should come out again. A small number does not make the added detail true, a large one makes it false. "
    "All numbers are root mean squares over the foreground; bright tissue is its 99th percentile.</p>"
)
