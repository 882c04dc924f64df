"""What is known of a trained model: a card that travels with it, is checked against its files and against scans.

A model's folder holds the card twice, ``card.json`` for programs and ``README.md`` for people. What nobody stated says
so ("not stated"); nothing is guessed.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

from tf_mrsr import __version__, storage
from tf_mrsr.errors import DataError, ModelError, RecipeError
from tf_mrsr.geometry import THICK_RATIO, millimetres, slices_last
from tf_mrsr.recipe import Recipe, build, parse
from tf_mrsr.volume import Volume, is_nifti, stem

CARD_FILE = "card.json"
NOT_STATED = "not stated"
# A spacing this much outside of the training's range is not remarked upon; headers round.
SPACING_TOLERANCE = 0.1
# What interpolation leaves under 0, as a share of the largest intensity, is not remarked upon.
MOST_UNDERSHOOT = 0.1
# Last parts of file names that name a contrast, to be compared with what a card states; "T1w" and "T1" are the same.
KNOWN_CONTRASTS = ("t1", "t2", "pd", "flair", "pdt2", "t2star", "inplanet1", "inplanet2")
# Where a run keeps what a card tells of the training.
SPACING_KEY = "high_res_spacing_mm"
_RECORDED = ("tf_mrsr", "seed", "precision", "scans")
_CHUNK = 2**20


@dataclass(frozen=True)
class Facts:
    """What only the person who exports can state: the training data, its licence, its contrasts ("T1w", "FLAIR"), and
    notes in Markdown, for instance what the model is good for and what was measured beyond the table.
    """

    data: str = NOT_STATED
    licence: str = NOT_STATED
    contrasts: tuple[str, ...] = ()
    notes: str = ""


@dataclass(frozen=True)
class SpacingRange:
    """Smallest and largest voxel spacing in mm along the network's axes of the high-resolution training scans."""

    least: tuple[float, float, float]
    most: tuple[float, float, float]


@dataclass(frozen=True)
class Training:
    """How it was trained, as its run folder says; ``steps``: those up to these weights, which may be a best epoch's;
    ``start_from``: name of the model whose weights the training began with.
    """

    tf_mrsr: str
    seed: int
    steps: int
    precision: str
    scans: int
    start_from: str | None = None


@dataclass(frozen=True)
class Measured:
    """An evaluation: lines that say how it was measured; method -> metric -> statistic -> value; scan by scan, other
    method -> mean, least and largest gain of the network over it in dB. With several folds the network's numbers are
    those of as many networks, each trained without the scans that it was measured on.
    """

    protocol: tuple[str, ...]
    scans: int
    summary: dict[str, dict[str, dict[str, float | None]]]
    gains: dict[str, tuple[float, float, float]] = field(default_factory=dict)
    folds: int = 1


@dataclass(frozen=True)
class Card:
    """One model.

    Attributes:
        name: of the model; where nobody gave one, the recipe's.
        recipe, paper, changes: which published experiment, and what was changed of it.
        factors: high-resolution voxels per low-resolution one along the network's axes.
        axes: "stored" or "slices_last", see ``tf_mrsr.recipe.Recipe``.
        by_slice: whether the network takes slices one by one.
        contrasts: ("T1w", "T2w") for a model from one contrast to another, else empty.
        intensity: how a scan comes into the network's range, a key of ``tf_mrsr.intensity.KINDS``, or None.
        facts: what a person stated.
        spacing_mm: of the training scans, or None.
        training, measured: or None.
        tf_mrsr: version that wrote the files.
        files: path in the model's folder -> sha256, for every file but ``card.json``.
    """

    name: str
    recipe: str
    paper: str
    changes: tuple[str, ...]
    factors: tuple[int, int, int]
    axes: str
    by_slice: bool = False
    contrasts: tuple[str, ...] = ()
    intensity: str | None = None
    facts: Facts = field(default_factory=Facts)
    spacing_mm: SpacingRange | None = None
    training: Training | None = None
    measured: Measured | None = None
    tf_mrsr: str = __version__
    files: dict[str, str] = field(default_factory=dict)

    def with_files(self, folder: Path) -> Card:
        """The card that vouches for what lies in ``folder`` now."""
        return dataclasses.replace(self, files={name: sha256(folder / name) for name in _files(folder)})

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def of_recipe(recipe: Recipe, facts_of_run: Mapping[str, Any] | None = None, steps: int | None = None) -> Card:
    """The card of a model that a recipe describes.

    Args:
        recipe: the recipe.
        facts_of_run: what the run's ``run.json`` holds; what it lacks stays unstated.
        steps: after how many the weights are those of the model; None where that is not known.

    Raises:
        RecipeError: if the run's facts are not of the kind that they should be.
    """
    run = facts_of_run or {}
    pair = recipe.contrasts
    recorded = {name: run[name] for name in _RECORDED if name in run}
    complete = steps is not None and len(recorded) == len(_RECORDED)
    return Card(
        name=recipe.name,
        recipe=recipe.name,
        paper=recipe.paper,
        changes=recipe.changes,
        factors=recipe.training_degradation().factors,
        axes=recipe.axes,
        by_slice=recipe.training_degradation().by_slice,
        contrasts=() if pair is None else (pair.source, pair.target),
        intensity=recipe.intensity.kind,
        spacing_mm=build(SpacingRange | None, run.get(SPACING_KEY)),
        training=build(Training, {**recorded, "steps": steps, "start_from": run.get("start_from")})
        if complete
        else None,
    )


def spacing_range(spacings: Sequence[Sequence[float]]) -> dict[str, list[float]]:
    """The ``SpacingRange`` of spacings (n, 3) in mm, to a micrometre, as ``run.json`` keeps it."""
    return {name: np.round(side(spacings, axis=0), 3).tolist() for name, side in (("least", np.min), ("most", np.max))}


def read(folder: Path) -> Card:
    """The card of a model's folder, after its files were checked against it.

    This finds damage and careless change. It is no protection from somebody who rewrites the card as well.

    Raises:
        ModelError: if there is no card, it is damaged, or a file is missing, changed or not listed.
        DataError: if a folder in it cannot be read.
    """
    try:
        content = json.loads((folder / CARD_FILE).read_text(encoding="utf-8"))
        card = build(Card, content)
    except OSError as error:
        raise ModelError(f"{folder}: {CARD_FILE} cannot be read ({error.strerror}); export the model again") from error
    except (ValueError, RecipeError) as error:
        raise ModelError(f"{folder}: {CARD_FILE} is damaged ({error}); fetch or export the model again") from error
    found = set(_files(folder))
    listed = set(card.files)
    for names, fault in ((listed - found, "is missing"), (found - listed, f"is not listed in {CARD_FILE}")):
        if names:
            raise ModelError(f"{folder}: the file {min(names)} {fault}; fetch or export the model again")
    for name, expected in card.files.items():
        if storage.is_broken_link(folder / name):
            raise ModelError(f"{folder}: the file {name} is {storage.BROKEN_LINK}")
        if sha256(folder / name) != expected:
            raise ModelError(
                f"{folder}: the file {name} is damaged or was changed (its sha256 is not that of {CARD_FILE}); "
                "fetch or export the model again"
            )
    return card


def sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _files(folder: Path) -> list[str]:
    """Paths of all files but the card, relative, sorted; hidden files (.DS_Store, .gitattributes) do not count."""
    names = (path.relative_to(folder).as_posix() for path in storage.files_below(folder))
    return sorted(name for name in names if name != CARD_FILE)


def read_facts(path: Path) -> Facts:
    """The facts of a YAML file with the keys data, licence, contrasts (a list) and notes, any of them.

    Raises:
        DataError: if it cannot be read, or holds anything else.
    """
    try:
        facts = build(Facts, parse(path.read_text(encoding="utf-8")))
        json.dumps(dataclasses.asdict(facts), ensure_ascii=False).encode()  # as it will be written
        return facts
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    except (yaml.YAMLError, ValueError, RecursionError, RecipeError) as error:
        raise DataError(f"{path}: not a list of facts ({' '.join(str(error).split())})") from error


def read_evaluation(results: Sequence[Path], recipe: Recipe) -> Measured:
    """What ``tf-mrsr evaluate`` found, from the ``table.json`` of its results folders, those of several folds joined.

    Raises:
        DataError: if one is no such folder, the evaluation was of another recipe, or they were measured differently.
    """
    if len({folder.resolve() for folder in results}) < len(results):
        raise DataError("the same results folder is given twice; give each fold's once")
    protocols, rows, methods = [], [], []
    for fold, folder in enumerate(results):
        protocol, found = _read_table(folder, recipe)
        protocols.append(protocol)
        methods.append(list(dict.fromkeys(row["method"] for row in found)))
        if (protocol, methods[fold]) != (protocols[0], methods[0]):
            raise DataError(f"{folder}: measured differently from {results[0]}; evaluate both in the same way")
        rows += [{**row, "case": (fold, row["case"])} for row in found]
    summary = {method: _statistics([row for row in rows if row["method"] == method]) for method in methods[0]}
    return Measured(protocols[0], len({row["case"] for row in rows}), summary, _gains(rows), len(results))


def _read_table(results: Path, recipe: Recipe) -> tuple[tuple[str, ...], list[dict[str, Any]]]:
    file = results / "table.json"
    try:
        table = json.loads(file.read_text(encoding="utf-8"))
        protocol = build(tuple[str, ...], table["protocol"])
        rows = [
            {"case": row["case"], "method": row["method"]}
            | {metric: math.inf if row[metric] is None else float(row[metric]) for metric in ("psnr", "ssim")}
            for row in table["cases"]
        ]
    except OSError as error:
        raise DataError(
            f"{results}: not a results folder of an evaluation (table.json: {error.strerror}); give what "
            "tf-mrsr evaluate -o wrote"
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError, RecipeError) as error:
        raise DataError(f"{file}: not a table of an evaluation; give the folder that tf-mrsr evaluate wrote") from error
    evaluated = next((line.removeprefix("recipe: ") for line in protocol if line.startswith("recipe: ")), "")
    name = evaluated.partition(", changed: ")[0]
    if name != recipe.name:
        raise DataError(
            f"{file}: an evaluation of {name or 'no known recipe'}, but the model is of {recipe.name}; give that "
            "model's own evaluation"
        )
    degraded = f"degradation: {recipe.testing_degradation()}"
    if degraded not in protocol:
        found = next((line for line in protocol if line.startswith("degradation: ")), "no known degradation")
        raise DataError(f"{file}: an evaluation with {found}, but the model's is {degraded}; give its own evaluation")
    return protocol, rows


def _statistics(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float | None]]:
    found = {}
    for metric in ("psnr", "ssim"):
        values = np.array([row[metric] for row in rows])
        finite = np.all(np.isfinite(values))  # the PSNR of a perfect estimate is infinite, which JSON cannot hold
        found[metric] = {name: float(getattr(np, name)(values)) if finite else None for name in ("mean", "std")}
    return found


def _gains(rows: Sequence[Mapping[str, Any]]) -> dict[str, tuple[float, float, float]]:
    """Other method -> mean, least and largest difference in PSNR, network minus that method on the same scan."""
    psnr = {(row["method"], row["case"]): row["psnr"] for row in rows}
    gains = {}
    for other in dict.fromkeys(row["method"] for row in rows):
        pairs = [(psnr.get(("network", case)), value) for (method, case), value in psnr.items() if method == other]
        gain = [ours - value for ours, value in pairs if ours is not None and math.isfinite(ours - value)]
        if gain and not other.startswith("network"):
            gains[other] = (float(np.mean(gain)), min(gain), max(gain))
    return gains


class _Axes(NamedTuple):
    spacing: np.ndarray
    thick: bool


def mismatches(card: Card, scan: Volume, path: Path) -> list[str]:
    """In words, where a scan is unlike those that the model was trained on; empty if nothing speaks against it.

    Args:
        card: the model's card; what it does not state is not compared.
        scan: the low-resolution scan, axes as stored.
        path: the scan's file; a NIfTI name that ends in a contrast (_T2w) is compared with the card's, names of DICOM
            are not: they follow no rule.
    """
    axes = _network_axes(card, scan)
    about_voxels = [*_thickness(card, axes), *_spacing(card, axes), *_intensity(card, scan)]
    return [*about_voxels, *_modality(card, scan), *_contrast(card, path)]


def _network_axes(card: Card, scan: Volume) -> _Axes:
    if card.axes == "slices_last":
        scan = scan.with_axes(slices_last(scan.affine, keep_in_plane=card.by_slice))
    spacing = np.array(scan.spacing_mm)
    return _Axes(spacing, bool(spacing[2] > THICK_RATIO * spacing[:2].max()))


def _thickness(card: Card, axes: _Axes) -> list[str]:
    if card.axes != "slices_last" or axes.thick:
        return []
    return [f"the scan's voxels of {millimetres(axes.spacing)} have no thick axis; the model makes {thin_slices(card)}"]


def thin_slices(card: Card) -> str:
    """What a model of thick slices makes, in words."""
    if max(card.factors) == 1:
        return "a thin slice in the place of each thick one"
    return f"{card.factors[2]} thin slices out of each thick one"


def _spacing(card: Card, axes: _Axes) -> list[str]:
    if card.spacing_mm is None:
        return []
    result = axes.spacing / card.factors
    least, most = np.array(card.spacing_mm.least), np.array(card.spacing_mm.most)
    if np.all(result > least * (1 - SPACING_TOLERANCE)) and np.all(result < most * (1 + SPACING_TOLERANCE)):
        return []
    pairs = zip(least, most, strict=True)
    ranges = " x ".join(f"{a:.2f}" if math.isclose(a, b) else f"{a:.2f}-{b:.2f}" for a, b in pairs)
    if max(card.factors) == 1:
        return [f"the scan has voxels of {millimetres(result)}; the model was trained on scans of {ranges} mm"]
    return [
        f"the result would have voxels of {millimetres(result)}; the model was trained on scans of {ranges} mm, so "
        f"expects voxels {'x'.join(map(str, card.factors))} times that"
    ]


def _intensity(card: Card, scan: Volume) -> list[str]:
    low, high = float(scan.data.min()), float(scan.data.max())
    if card.intensity != "half_max" or low >= -MOST_UNDERSHOOT * high:
        return []
    return [
        f"the scan's intensities lie between {low:.4g} and {high:.4g}; the model was trained on magnitude images, "
        "which have none under 0: take the scan as it was before it was standardised"
    ]


def _modality(card: Card, scan: Volume) -> list[str]:
    expected = _expected_contrasts(card)
    if scan.source is None or not scan.source.is_ct or not expected or "ct" in map(_plain, expected):
        return []
    return [f"the scan is CT; the model was trained on {', '.join(expected)}"]


def _expected_contrasts(card: Card) -> tuple[str, ...]:
    return card.contrasts[:1] or card.facts.contrasts


def _contrast(card: Card, path: Path) -> list[str]:
    if not is_nifti(path):
        return []
    ending = re.split("[_-]", stem(path))[-1]
    expected = _expected_contrasts(card)
    named = _plain(ending)
    if named not in KNOWN_CONTRASTS or not expected or named in map(_plain, expected):
        return []
    return [f"the file's name says {ending}; the model was trained on {', '.join(expected)}"]


def _plain(contrast: str) -> str:
    return contrast.lower().removesuffix("w")
