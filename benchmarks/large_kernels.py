"""taloma2020's large kernels in Fourier space against the direct sum: prediction of patches and a training step.

GFLOP counts the products of the direct sum, so the rate of the Fourier rows can exceed the machine's own.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

REPEATS = 3
PATCH = 32


def main() -> None:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from benchmarks.prediction import gemm_rate
    from tf_mrsr.networks import taloma2020

    print("| what | kernels | patches | seconds | GFLOP of the direct sum | share of GEMM rate | faster |")
    print("| --- " * 7 + "|")
    chosen = taloma2020.LARGE_KERNEL
    for batch in (1, 4, 16):
        for what, steps, make in (("prediction", 1, _prediction), ("training step", 3, _training)):
            if what == "training step" and batch == 16:
                continue
            seconds = {}
            for kernels, smallest in (("direct", 99), ("Fourier", chosen)):
                taloma2020.LARGE_KERNEL = smallest
                run, work = make(batch)
                run()
                seconds[kernels] = min(_timed(run) for _ in range(REPEATS))
                rate, faster = steps * work / seconds[kernels], seconds["direct"] / seconds[kernels]
                print(
                    f"| {what} | {kernels} | {batch} | {seconds[kernels]:.2f} | {steps * work:.0f} "
                    f"| {rate / gemm_rate():.0%} | {faster:.1f} |",
                    flush=True,
                )


def _prediction(batch: int) -> tuple[Callable[[], None], float]:
    import tensorflow as tf

    from tf_mrsr.networks import taloma2020
    from tf_mrsr.networks.structure import fold_batch_norm

    generator = taloma2020.generator(residual=True)
    network = tf.function(fold_batch_norm(generator))
    patches = tf.random.stateless_normal((batch, PATCH, PATCH, PATCH, 1), (1, 2))
    return lambda: network(patches).numpy(), _gflop(generator) * batch


def _training(batch: int) -> tuple[Callable[[], None], float]:
    import tensorflow as tf

    from tf_mrsr import recipe
    from tf_mrsr.networks import taloma2020
    from tf_mrsr.training.step import AdversarialStep, make_optimizer

    stage = recipe.load("taloma2020_resgan").stages[0]
    models = taloma2020.generator(residual=True), taloma2020.discriminator((PATCH,) * 3)
    optimizers = [make_optimizer(part.optimizer, 1) for part in (stage.generator, stage.discriminator)]
    for model, optimizer in zip(models, optimizers, strict=True):
        optimizer.build(model.trainable_variables)
    step = tf.function(AdversarialStep(stage, *models, *optimizers))
    patches = tf.random.stateless_normal((2, batch, PATCH, PATCH, PATCH, 1), (1, 2))
    return lambda: step(patches[0], patches[1], tf.constant(0))["generator_loss"].numpy(), _gflop(models[0]) * batch


def _gflop(generator) -> float:
    kernels = [v for v in generator.trainable_variables if v.path.endswith("/kernel")]
    return sum(2 * int(kernel.value.shape.num_elements()) for kernel in kernels) * PATCH**3 / 1e9


def _timed(run: Callable[[], None]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
