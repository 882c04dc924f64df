"""Largest difference between our networks and the recorded outputs of the sanchez2018 program, for every case."""

from __future__ import annotations

import numpy as np

from tests import golden
from tests.networks.test_sanchez2018_golden import build_generator
from tf_mrsr.networks import sanchez2018


def main() -> None:
    print("| case | mode | largest difference | of the output's size |")
    print("| --- | --- | --- | --- |")
    for folder in sorted(golden.GOLDEN.glob("gen_*")) + sorted(golden.GOLDEN.glob("disc_*")):
        case = golden.case(folder.name)
        generator = folder.name.startswith("gen_")
        model = build_generator(case) if generator else sanchez2018.discriminator(case["input_shape"][1:4])
        golden.assign_formula(model, case["variables"], case["weight_pattern"], case["weight_gain"])
        image = golden.volume(case["input_shape"])
        for mode, training in (("infer", False), ("train", True)):
            expected = golden.array(folder.name, f"{'out' if generator else 'logits'}_{mode}.npy")
            difference = np.abs(model(image, training=training).numpy() - expected).max()
            print(f"| {folder.name} | {mode} | {difference:.1e} | {difference / np.abs(expected).max():.1e} |")


if __name__ == "__main__":
    main()
