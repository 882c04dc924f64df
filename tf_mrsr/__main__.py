"""``tf-mrsr COMMAND ...`` and ``python -m tf_mrsr COMMAND ...``."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

from tf_mrsr import __version__

COMMANDS = {
    "prepare": "list pairs of a thick and a thin series and their slices",
    "train": "train a recipe's networks on scans",
    "predict": "super-resolve scans with a trained model",
    "evaluate": "measure a model and interpolation on scans",
    "convert": "make a model of weights that an original program trained",
    "export": "write a model as a self-contained SavedModel with its card",
    "models": "list the trained models that come with tf_mrsr",
    "doctor": "tell what this machine has, and what is missing",
    "demo": "super-resolve a head that comes with nilearn with a shipped model",
}


def main(argv: Sequence[str] | None = None) -> int:
    argv = list(sys.argv[1:] if argv is None else argv)
    if argv and argv[0] in COMMANDS:
        return importlib.import_module(f"tf_mrsr.{argv[0]}").main(argv[1:])
    if argv == ["--version"]:
        print(f"tf_mrsr {__version__}")
        return 0
    lines = [f"  {name:10}{what}" for name, what in COMMANDS.items()]
    text = "\n".join(["usage: tf-mrsr COMMAND [options]", "", *lines, "", "tf-mrsr COMMAND --help says more."])
    if argv and argv[0] not in ("-h", "--help"):
        print(f"{text}\n\nerror: unknown command {argv[0]!r}", file=sys.stderr)
        return 2
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
