"""Operation time of li2017's methods on one volume, three slices out of each: the last column of the paper's table 1.

Methods take turns, so that a change of the machine's speed meets all of them. The paper's ratios to the 4th-order
B-spline: 3DSRGAN 0.012, 2DSRCNN 0.021.
"""

from __future__ import annotations

import os
import time

import numpy as np

LOW_SHAPE = (320, 320, 16)
ROUNDS = 3


def main() -> None:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from tf_mrsr import baselines, recipe
    from tf_mrsr.inference import models
    from tf_mrsr.limits import UNLIMITED
    from tf_mrsr.volume import Volume

    data = np.random.default_rng(0).uniform(0, 1000, LOW_SHAPE).astype(np.float32)
    volume = Volume(data, np.diag([0.7, 0.7, 9.0, 1.0]))
    methods = {}
    for name in ("3dsrgan", "2dsrcnn"):
        chosen = recipe.load(f"li2017_{name}_r3")
        model = models.Model(chosen, models.resolver_for(chosen, models.build_generator(chosen)))
        model.warm_up()
        methods[name] = lambda model=model: model.super_resolve(volume, UNLIMITED)
    grid_map = chosen.testing_degradation().network_grid_map()
    shape = tuple(n * f for n, f in zip(LOW_SHAPE, (1, 1, 3), strict=True))
    for method in baselines.ORDERS:
        methods[method] = lambda method=method: baselines.interpolate(data, grid_map, shape, method)
    seconds = dict.fromkeys(methods, float("inf"))
    for _ in range(ROUNDS):
        for name, run in methods.items():
            start = time.perf_counter()
            run()
            seconds[name] = min(seconds[name], time.perf_counter() - start)
    print("| method | seconds | share of the B-spline's | share of 2DSRCNN's |")
    print("| --- | --- | --- | --- |")
    for name, least in seconds.items():
        print(f"| {name} | {least:.2f} | {least / seconds['bspline4']:.2f} | {least / seconds['2dsrcnn']:.2f} |")


if __name__ == "__main__":
    main()
