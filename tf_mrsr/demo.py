"""``python -m tf_mrsr.demo``: the whole way, from a head that comes with nilearn to a table and a picture."""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tf_mrsr import cli, evaluate, storage
from tf_mrsr.errors import DataError, MrsrError, OutputError

if TYPE_CHECKING:
    from tf_mrsr.volume import Volume

MODEL = "sanchez2018_x2"
_MARK = "demo.txt"
_RESULTS = "results"
_SCANS = {
    "high_res": "head.nii.gz",
    "low_res": "head_low_res.nii.gz",
    "super_resolved": "head_super_resolved.nii.gz",
}
EPILOG = """\
The head is the ICBM152 T1 template. It is degraded, super-resolved by a model that comes with tf_mrsr and has not seen
it, and compared with what it was.
"""


def main(argv: Sequence[str] | None = None) -> int:
    arguments = cli.parser("demo", "Super-resolve a head that comes with nilearn by a shipped model, and measure it.")
    arguments.epilog = EPILOG
    arguments.add_argument(
        "-o", "--output", type=cli.path, default=Path("demo_output"), help="folder (default demo_output)"
    )
    arguments.add_argument("--overwrite", action="store_true", help="replace an output folder that exists")
    return cli.run(_demo, arguments.parse_args(argv))


def _demo(arguments: argparse.Namespace) -> None:
    from tf_mrsr import model_folder, predict
    from tf_mrsr.volume import write_volume

    output = arguments.output
    truth = _template()
    if output.exists() and not output.is_dir():
        raise OutputError(f"{output}: is a file; give the name of a folder")
    if output.exists():
        if not arguments.overwrite:
            raise OutputError(f"{output}: exists already; give another --output or --overwrite")
        if any(output.iterdir()) and not (output / _MARK).is_file():
            raise OutputError(f"{output}: is not a demo's output, so it is not replaced; give another name")
        foreign = storage.foreign_file(output, _is_ours)
        if foreign is not None:
            raise OutputError(f"{output}: holds {foreign}, which no demo made, so it is not replaced; move it")
        shutil.rmtree(output)
    output.mkdir(parents=True)
    (output / _MARK).write_text("Made by tf-mrsr demo; --overwrite replaces the folder.\n")
    model = str(model_folder.weights_directory() / MODEL)
    degradation = model_folder.read_recipe(Path(model)).testing_degradation()
    low_res = truth.resampled(degradation(truth.data), degradation.grid_map(truth.shape))
    files = {key: output / name for key, name in _SCANS.items()}
    write_volume(truth, files["high_res"])
    write_volume(low_res, files["low_res"])

    _do(predict.main, [str(files["low_res"]), "-o", str(files["super_resolved"]), "--model", model])
    results = output / _RESULTS
    _do(evaluate.main, ["--model", model, "--data", str(files["high_res"]), "-o", str(results)])
    print(
        f"Model: {MODEL}, trained on scans of two people. The head is an average of 152 people and so smoother\n"
        "than any scan; docs/measurements.md has numbers of real ones.\n"
        f"Low-resolution scan:   {files['low_res']}\nSuper-resolved scan:   {files['super_resolved']}\n"
        f"Picture and table:     {results}/figures/head.png, {results}/table.md"
    )


def _is_ours(path: Path) -> bool:
    """Whether a demo makes such a file; its path below the output folder."""
    if path.parts[0] == _RESULTS:
        return evaluate.is_result(path.relative_to(_RESULTS))
    return path.as_posix() in (_MARK, *_SCANS.values())


def _do(command: Callable[[list[str]], int], argv: list[str]) -> None:
    if command(argv) != 0:
        raise MrsrError("the demo stopped at the step above")


def _template() -> Volume:
    """The ICBM152 T1 template of nilearn, skull-stripped, 1 mm, cut to the brain with a margin of 4 voxels."""
    try:
        from nilearn.datasets import load_mni152_template
    except ImportError as error:
        raise DataError(
            "the demo's head comes with nilearn; install it with pip install '.[demo]' in tf_mrsr's folder"
        ) from error
    import numpy as np
    from scipy import ndimage

    from tf_mrsr.geometry import GridMap
    from tf_mrsr.volume import Volume

    image = load_mni152_template(resolution=1)
    whole = Volume(1000 * np.asarray(image.dataobj, np.float32), image.affine)
    (brain,) = ndimage.find_objects((whole.data > 0).astype(np.int8))
    cut = tuple(slice(max(s.start - 4, 0), s.stop + 4) for s in brain)
    return whole.resampled(whole.data[cut], GridMap((1, 1, 1), tuple(s.start for s in cut)))


if __name__ == "__main__":
    sys.exit(main())
