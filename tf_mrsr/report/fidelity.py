"""The page that lists where recipes depart from their papers and programs: ``python -m tf_mrsr.report.fidelity``."""

from __future__ import annotations

import sys

from tf_mrsr import recipe

HEAD = """# Where the recipes depart from their sources

Made from the recipes in `train/` by `python -m tf_mrsr.report.fidelity > docs/fidelity.md`. Recipes whose departures
are the same share a table. A recipe's source is its paper; that of a recipe ending in `_code` is the authors' program.
"""


def page() -> str:
    """The page in Markdown."""
    tables: dict[tuple[str, str], list[str]] = {}
    for name in recipe.names():
        loaded = recipe.load(name)
        rows = "\n".join(f"| {d.what} | {d.source} | {d.here} | {d.why} |" for d in loaded.departures)
        tables.setdefault((loaded.paper, rows), []).append(name)
    parts = [HEAD]
    for paper in sorted({paper for paper, _ in tables}):
        parts.append(f"## {paper}\n")
        for (of_paper, rows), names in tables.items():
            if of_paper == paper:
                parts.append(", ".join(f"`{name}`" for name in names) + ":\n")
                parts.append(f"| what | source | here | why |\n| --- | --- | --- | --- |\n{rows}\n")
    return "\n".join(parts)


if __name__ == "__main__":
    sys.stdout.write(page())
