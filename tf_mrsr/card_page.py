"""A model's card for people to read: the README.md of its folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tf_mrsr.card import CARD_FILE, NOT_STATED, Card, Measured, thin_slices
from tf_mrsr.geometry import millimetres

README_FILE = "README.md"


PICTURES_FOLDER = "pictures"


def to_markdown(card: Card, pictures: Sequence[str] = ()) -> str:
    """The card for people to read; ``pictures`` are names of files in ``PICTURES_FOLDER``."""
    facts = card.facts
    lines = [
        f"# {card.name}",
        "",
        f"Recipe {card.recipe}{', changed: ' + ', '.join(card.changes) if card.changes else ''}.",
        f"Method: {card.paper}.",
        "",
        "| | |",
        "| --- | --- |",
        f"| makes | {what_it_makes(card)} |",
        f"| training data | {_cell(facts.data)} |",
        f"| licence | {_cell(facts.licence)} |",
        f"| contrast | {_cell(contrast_words(card))} |",
        f"| voxels of the training scans | {spacing_words(card)} |",
        f"| training | {_training_words(card)} |",
        f"| written by | tf_mrsr {card.tf_mrsr} |",
        "",
        "## Measured",
        "",
        *_measured_lines(card.measured),
        "",
        *([facts.notes.strip(), ""] if facts.notes.strip() else []),
        *(line for name in pictures for line in (f"![{name}]({PICTURES_FOLDER}/{name})", "")),
        "## Use",
        "",
        "```",
        "tf-mrsr predict scan.nii.gz -o scan_sr.nii.gz --model THIS_FOLDER",
        "```",
        "",
        f"TensorFlow alone runs it as well, and TensorFlow Serving. `{CARD_FILE}` lists the sha256 of every file. A",
        "network invents detail that is likely, not detail that was measured: not for diagnosis.",
    ]
    return "\n".join(lines) + "\n"


def what_it_makes(card: Card) -> str:
    if card.contrasts:
        return f"{card.contrasts[1]} out of {card.contrasts[0]}, on the same grid"
    if card.axes == "slices_last":
        return thin_slices(card)
    return f"{' x '.join(map(str, card.factors))} voxels out of each one"


def contrast_words(card: Card) -> str:
    return ", ".join(card.facts.contrasts or card.contrasts[:1]) or NOT_STATED


def numbers_in_short(card: Card) -> str:
    """The network's means and those of the best other method, as 31.20 dB, 0.9100 (cubic 30.10 dB, 0.8900)."""
    best = None if card.measured is None else best_other(card.measured)
    if best is None or "network" not in card.measured.summary:
        return "not measured"
    summary = card.measured.summary
    return f"{_means(summary['network'])} ({best} {_means(summary[best])})"


def best_other(measured: Measured) -> str | None:
    """The method other than the network with the highest mean PSNR; None if there is no other."""
    others = [method for method in measured.summary if not method.startswith("network")]
    return max(others, key=lambda method: _mean_psnr(measured.summary[method]), default=None)


def _mean_psnr(values: Mapping[str, Mapping[str, float | None]]) -> float:
    if "psnr" not in values:
        return float("-inf")
    mean = values["psnr"].get("mean")
    return float("inf") if mean is None else mean


def _means(values: Mapping[str, Mapping[str, float | None]]) -> str:
    return f"{_number(values, 'psnr', 'mean', 2)} dB, {_number(values, 'ssim', 'mean', 4)}"


def spacing_words(card: Card) -> str:
    if card.spacing_mm is None:
        return NOT_STATED
    least, most = card.spacing_mm.least, card.spacing_mm.most
    words = millimetres(least) if least == most else f"{millimetres(least)} to {millimetres(most)}"
    return words + (" (slices last)" if card.axes == "slices_last" else "")


def _training_words(card: Card) -> str:
    run = card.training
    if run is None:
        return NOT_STATED
    start = "" if run.start_from is None else f", begun with the weights of {run.start_from}"
    return f"{run.scans} scans, {run.steps} steps{start}, seed {run.seed}, {run.precision}, tf_mrsr {run.tf_mrsr}"


def _measured_lines(measured: Measured | None) -> list[str]:
    if measured is None:
        return ["Not measured."]
    rows = []
    for method, values in measured.summary.items():
        cells = [f"{_number(values, 'psnr', 'mean', 2)} ({_number(values, 'psnr', 'std', 2)})"]
        cells += [f"{_number(values, 'ssim', 'mean', 4)} ({_number(values, 'ssim', 'std', 4)})"]
        rows.append(f"| {method} | {' | '.join(cells)} |")
    return [
        *(f"- {line}" for line in measured.protocol),
        f"- scans: {measured.scans}",
        *_fold_lines(measured),
        "",
        "| method | PSNR (dB): mean (std) | SSIM: mean (std) |",
        "| --- | --- | --- |",
        *rows,
        *_gain_lines(measured),
    ]


def _fold_lines(measured: Measured) -> list[str]:
    if measured.folds == 1:
        return []
    return [
        f"- folds: {measured.folds}. The network's numbers are not of these very weights, but of {measured.folds} "
        "networks of the same recipe, each trained without the people whom it was measured on"
    ]


def _gain_lines(measured: Measured) -> list[str]:
    best = best_other(measured)
    if best not in measured.gains:
        return []
    mean, least, most = measured.gains[best]
    if measured.scans == 1:
        return ["", f"Network minus {best}: {mean:+.2f} dB."]
    return ["", f"Network minus {best}, scan by scan: {mean:+.2f} dB on average, {least:+.2f} to {most:+.2f} dB."]


def _number(values: Mapping[str, Mapping[str, float | None]], metric: str, statistic: str, digits: int) -> str:
    value = values.get(metric, {}).get(statistic)
    return "infinite" if value is None else f"{value:.{digits}f}"


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "/").split())
