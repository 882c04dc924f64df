"""``python -m tf_mrsr.models``: the trained models that come with the package."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tf_mrsr import cli

if TYPE_CHECKING:
    from tf_mrsr.card import Card

_HEADINGS = ("name", "makes", "contrast", "trained on voxels of", "PSNR, SSIM (best interpolation)")


def main(argv: Sequence[str] | None = None) -> int:
    arguments = cli.parser("models", "List the trained models that come with tf_mrsr; --model takes their names.")
    return cli.run(_models, arguments.parse_args(argv))


def _models(arguments: argparse.Namespace) -> None:
    from tf_mrsr import card, model_folder

    weights = model_folder.weights_directory()
    rows = [(name, *_row(card.read(weights / name))) for name in model_folder.shipped()]
    if not rows:
        print(f"No trained model comes with this version (looked in {weights}); train one with tf-mrsr train.")
        return
    widths = [max(map(len, column)) for column in zip(_HEADINGS, *rows, strict=True)]
    for row in (_HEADINGS, *rows):
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _row(card: Card) -> tuple[str, str, str, str]:
    from tf_mrsr import card_page

    return (
        card_page.what_it_makes(card),
        card_page.contrast_words(card),
        card_page.spacing_words(card),
        card_page.numbers_in_short(card),
    )


if __name__ == "__main__":
    sys.exit(main())
