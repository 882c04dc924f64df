"""``python -m tf_mrsr.demo``: the whole way, from a head that comes with nilearn to a table and a picture."""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tf_mrsr import cli
from tf_mrsr.errors import DataError, MrsrError, OutputError

if TYPE_CHECKING:
    from tf_mrsr.volume import Volume

RECIPE = "sanchez2018_srgan3d_x2_quick"
CHANGES = ("network.generator.filters=16", "network.generator.num_residual_blocks=3")  # learns faster per minute
STEPS = 700
_MARK = "demo.txt"
EPILOG = """\
The head is the ICBM152 T1 template. A network is trained for a short while on its back half, then super-resolves the
whole head, and is measured on the front half, which it has not seen.
"""


def main(argv: Sequence[str] | None = None) -> int:
    arguments = cli.parser("demo", "Train shortly, super-resolve a head that comes with nilearn, and measure it.")
    arguments.epilog = EPILOG
    arguments.add_argument(
        "-o", "--output", type=cli.path, default=Path("demo_output"), help="folder (default demo_output)"
    )
    arguments.add_argument("--steps", type=cli.positive, default=STEPS, help=f"training steps (default {STEPS})")
    arguments.add_argument("--overwrite", action="store_true", help="replace an output folder that exists")
    return cli.run(_demo, arguments.parse_args(argv))


def _demo(arguments: argparse.Namespace) -> None:
    from tf_mrsr import evaluate, metrics, predict, recipe, train
    from tf_mrsr.volume import Volume, write_volume

    output = arguments.output
    truth = _template()
    if output.exists() and not output.is_dir():
        raise OutputError(f"{output}: is a file; give the name of a folder")
    if output.exists():
        if not arguments.overwrite:
            raise OutputError(f"{output}: exists already; give another --output or --overwrite")
        if any(output.iterdir()) and not (output / _MARK).is_file():
            raise OutputError(f"{output}: is not a demo's output, so it is not replaced; give another name")
        shutil.rmtree(output)
    (output / "masks").mkdir(parents=True)
    (output / _MARK).write_text("Made by tf-mrsr demo; --overwrite replaces the folder.\n")
    back, front = _halves(truth)
    chosen = recipe.load(RECIPE)
    degradation = chosen.testing_degradation()
    low_res = truth.resampled(degradation(truth.data), degradation.grid_map(truth.shape))
    brain = metrics.foreground_mask(truth.data)
    brain[:, : front.start] = False
    files = {
        "back_half": output / "back_half.nii.gz",
        "high_res": output / "head.nii.gz",
        "low_res": output / "head_low_res.nii.gz",
        "super_resolved": output / "head_super_resolved.nii.gz",
    }
    write_volume(Volume(truth.data[:, back], truth.affine), files["back_half"])
    write_volume(truth, files["high_res"])
    write_volume(low_res, files["low_res"])
    write_volume(Volume(brain, truth.affine), output / "masks" / files["high_res"].name)

    run = str(output / "run")
    started = time.monotonic()
    _do(
        train.main,
        [
            *("--recipe", RECIPE, "--data", str(files["back_half"]), "--run", run, "--steps", str(arguments.steps)),
            *(word for change in CHANGES for word in ("--set", change)),
        ],
    )
    seconds = time.monotonic() - started
    _do(predict.main, [str(files["low_res"]), "-o", str(files["super_resolved"]), "--model", run])
    results = output / "results"
    _do(
        evaluate.main,
        ["--model", run, "--data", str(files["high_res"]), "--mask", str(output / "masks"), "-o", str(results)],
    )
    print(
        f"Trained: recipe {RECIPE} with a smaller network, {arguments.steps} steps in {seconds:.0f} s, on the\n"
        "back half of one head, an average of 152 people and so smoother than any scan. Measured: on the\n"
        "brain in its front half. This shows that the parts work, not how good a network gets.\n"
        f"Low-resolution scan:   {files['low_res']}\nSuper-resolved scan:   {files['super_resolved']}\n"
        f"Picture and table:     {results}/figures/head.png, {results}/table.md"
    )


def _do(command: Callable[[list[str]], int], argv: list[str]) -> None:
    if command(argv) != 0:
        raise MrsrError("the demo stopped at the step above")


def _template() -> Volume:
    """The ICBM152 T1 template of nilearn, skull-stripped, 1 mm, cut to the brain with a margin of 4 voxels."""
    try:
        from nilearn.datasets import load_mni152_template
    except ImportError as error:
        raise DataError("the demo's head comes with nilearn; install it with pip install 'tf-mrsr[demo]'") from error
    import numpy as np
    from scipy import ndimage

    from tf_mrsr.geometry import GridMap
    from tf_mrsr.volume import Volume

    image = load_mni152_template(resolution=1)
    whole = Volume(1000 * np.asarray(image.dataobj, np.float32), image.affine)
    (brain,) = ndimage.find_objects((whole.data > 0).astype(np.int8))
    cut = tuple(slice(max(s.start - 4, 0), s.stop + 4) for s in brain)
    return whole.resampled(whole.data[cut], GridMap((1, 1, 1), tuple(s.start for s in cut)))


def _halves(truth: Volume) -> tuple[slice, slice]:
    """Back and front along y, 16 voxels apart, so that the network has not seen what it is measured on."""
    middle = truth.shape[1] // 2
    return slice(0, middle - 8), slice(middle + 8, None)


if __name__ == "__main__":
    sys.exit(main())
