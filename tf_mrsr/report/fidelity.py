"""The page that holds the recipes against their papers and programs: ``python -m tf_mrsr.report.fidelity``."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml

from tf_mrsr import recipe
from tf_mrsr.recipe import Departure, Recipe

HEAD = """# Paper, program, and what is here

Made from the recipes in `train/` by `python -m tf_mrsr.report.fidelity > docs/fidelity.md`.

A line is a value of the recipes, by its place in the file. Recipes of one paper share a table; where they differ, the
values stand in the order of the recipes, with " / " between them. *paper* is what the paper says: the recipe's value
unless a departure is listed. *program* is the authors' program, which recipes ending in `_code` follow; "no recipe"
where there are none (no program of li2017 is public, nor that of taloma2020, but an earlier one of its author, for
slices, shows the losses and the PSNR). *here* holds the paper's recipes, and after a semicolon the program's where they
differ. Below each table stand departures that are not about a single value, and why each departure was made.
"""
CHANGED = ("_quick", "_pretrained")  # endings of recipes that are not the paper's experiment
_SHOWN = ("network", "contrasts", "degradation", "axes", "intensity", "patches", "batch_size", "prediction", "stages")
_SHOWN += ("evaluation",)
_NOT_SHOWN = ("name", "baselines")  # of them more are measured than papers have


def page() -> str:
    """The page in Markdown."""
    loaded = [(recipe.load(name), _content(name)) for name in recipe.names()]
    parts = [HEAD]
    for paper in sorted({r.paper for r, _ in loaded}):
        of_paper = [(r, values) for r, values in loaded if r.paper == paper]
        published = [entry for entry in of_paper if not entry[0].name.endswith(("_code", *CHANGED))]
        programs = [entry for entry in of_paper if entry[0].name.endswith("_code")]
        changed = [entry[0] for entry in of_paper if entry[0].name.endswith(CHANGED)]
        parts.append(f"## {paper}\n")
        parts.append(", ".join(f"`{r.name}`" for r, _ in published + programs) + ":\n")
        parts.append(_table(published, programs))
        parts.append(_reasons([r for r, _ in published + programs]))
        for other in changed:
            parts.append(f"`{other.name}` is not the paper's experiment:\n")
            parts.append(_reasons([other]))
    return "\n".join(parts)


def _table(published: Sequence[tuple[Recipe, Mapping]], programs: Sequence[tuple[Recipe, Mapping]]) -> str:
    lines = ["| value | paper | program | here |", "| --- | --- | --- | --- |"]
    keys = dict.fromkeys(key for _, values in [*published, *programs] for key in values)
    for key in sorted(keys, key=lambda key: _SHOWN.index(key.split(".")[0])):
        here = _joined(values[key] for _, values in published if key in values)
        here_program = _joined(values[key] for _, values in programs if key in values)
        shown = here if here_program in ("", here) else f"{here or '-'}; {here_program}"
        lines.append(f"| {key} | {_source(key, published)} | {_source(key, programs)} | {shown} |")
    return "\n".join(lines) + "\n"


def _reasons(recipes: Sequence[Recipe]) -> str:
    lines = ["| departure | source | here | why |", "| --- | --- | --- | --- |"]
    for d in dict.fromkeys(d for r in recipes for d in r.departures):
        lines.append(f"| {d.what} | {d.source} | {d.here} | {d.why} |")
    return "\n".join(lines) + "\n"


def _source(key: str, entries: Sequence[tuple[Recipe, Mapping]]) -> str:
    """What the source has: what a departure says of the value, else the value itself."""
    if not entries:
        return "no recipe"
    found = []
    for of_source, values in entries:
        departure = _departure_about(key, of_source)
        # A value that a recipe leaves at its default is about something that its source does not have.
        stated = key in values or (departure is not None and key in departure.values)
        if stated:
            found.append(values[key] if departure is None else departure.source)
    return _joined(found) or "-"


def _departure_about(key: str, of_source: Recipe) -> Departure | None:
    """The departure that names the value, or the smallest group of values around it."""
    about = [
        (len(value), departure)
        for departure in of_source.departures
        for value in departure.values
        if f"{key}.".startswith(f"{value}.")
    ]
    return max(about, key=lambda entry: entry[0])[1] if about else None


def _content(name: str) -> dict[str, str]:
    """The values that the recipe's file states, by their places."""
    content = yaml.safe_load((recipe.recipe_directory() / f"{name}.yaml").read_text(encoding="utf-8"))
    values = dict(_leaves({key: value for key, value in content.items() if key in _SHOWN}))
    return {key: value for key, value in values.items() if not key.endswith(_NOT_SHOWN)}


def _leaves(value: Any, place: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        items = value.items()
    elif isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
        items = enumerate(value)
    else:
        yield place, f"{value:g}" if isinstance(value, float) else str(value)
        return
    for key, item in items:
        yield from _leaves(item, f"{place}.{key}" if place else str(key))


def _joined(values: Iterator[str] | Sequence[str]) -> str:
    return " / ".join(dict.fromkeys(values))


if __name__ == "__main__":
    sys.stdout.write(page())
