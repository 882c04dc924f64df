"""``python -m benchmarks`` (``make bench``): speed and memory in one table, as Markdown and CSV."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks import data, gpu, large_kernels, machine, prediction, start_up, table, training
from benchmarks.table import Row

SECTIONS: dict[str, Callable[..., Iterator[Row]]] = {
    "machine": machine.limits,
    "prediction": prediction.run,
    "training": training.run,
    "data": data.run,
    "large-kernels": large_kernels.run,
    "start-up": start_up.run,
    "gpu": gpu.run,
}


def main() -> None:
    arguments = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.partition(": ")[2])
    arguments.add_argument(
        "--only", nargs="+", choices=SECTIONS, default=list(SECTIONS), help="sections to run, besides machine"
    )
    arguments.add_argument("--quick", action="store_true", help="small volumes, few repeats, no torch.compile")
    arguments.add_argument(
        "-o", "--output", type=Path, default=Path("bench_output"), help="folder of bench.csv and bench.md"
    )
    chosen = arguments.parse_args()
    rows: list[Row] = []
    print(table.header(), flush=True)
    for name, section in SECTIONS.items():
        if name != "machine" and name not in chosen.only:
            continue
        for row in section(quick=chosen.quick):
            rows.append(row)
            print(table.line(row), flush=True)
            table.write(chosen.output, rows)  # what is there survives an interruption


if __name__ == "__main__":
    main()
