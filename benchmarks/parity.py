"""Largest difference between our networks and the recorded outputs of the original programs, for every case."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np

from tests import golden
from tests.networks.test_sanchez2018_golden import build_generator
from tf_mrsr.networks import narcomey2018, sanchez2018


def main() -> int:
    if not golden.GOLDEN.is_dir():
        print(
            f"{golden.GOLDEN}: the original programs' numbers are not here; set TF_MRSR_SHARED to the folder that has "
            "golden/ in it",
            file=sys.stderr,
        )
        return 1
    print("| case | mode | largest difference | of the output's size |")
    print("| --- | --- | --- | --- |")
    for name, family, model, what in _cases():
        case = golden.case(name, family)
        golden.assign_formula(model, case["variables"], case["weight_pattern"], case["weight_gain"])
        image = golden.volume(case["input_shape"])
        for mode, training in (("infer", False), ("train", True)):
            expected = golden.array(name, f"{what}_{mode}.npy", family)
            difference = np.abs(model(image, training=training).numpy() - expected).max()
            print(f"| {name} | {mode} | {difference:.1e} | {difference / np.abs(expected).max():.1e} |")
    return 0


def _cases() -> Iterator[tuple[str, Path, keras.Model, str]]:
    """Name and family of every case, its model, and what of the model is recorded."""
    for folder in sorted(golden.GOLDEN.glob("gen_*")):
        yield folder.name, golden.GOLDEN, build_generator(golden.case(folder.name)), "out"
    for folder in sorted(golden.GOLDEN.glob("disc_*")):
        shape = golden.case(folder.name)["input_shape"]
        yield folder.name, golden.GOLDEN, sanchez2018.discriminator(shape[1:4]), "logits"
    for folder in sorted(golden.NARCOMEY.glob("m?_srgan_*")):
        shape = golden.case(folder.name, golden.NARCOMEY)["input_shape"]
        if "_g_" in folder.name:
            channels = golden.array(folder.name, "out_infer.npy", golden.NARCOMEY).shape[-1]
            yield folder.name, golden.NARCOMEY, narcomey2018.generator(channels), "out"
        else:
            yield folder.name, golden.NARCOMEY, narcomey2018.discriminator(shape[1:3], shape[3]), "logits"


if __name__ == "__main__":
    sys.exit(main())
