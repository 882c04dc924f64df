"""taloma2020's large kernels in Fourier space against the direct sum: prediction of patches and a training step.

GFLOP counts the products of the direct sum, so the rate of the Fourier rows can exceed the machine's own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from benchmarks.machine import fastest, gemm_rate, in_process
from benchmarks.table import Row

PATCH = 32
# (what, patches at a time)
CASES = (("prediction", 1), ("prediction", 16), ("training step", 1), ("training step", 4))


def run(*, quick: bool) -> Iterator[Row]:
    for what, batch in CASES[:1] if quick else CASES:
        for row in in_process(measure, what=what, batch=batch):
            yield Row(*row)


def measure(what: str, batch: int) -> list[Row]:
    """Rows of both ways of computing, the direct one first."""
    from tf_mrsr.networks import taloma2020

    seconds = {}
    rows = []
    for kernels, smallest in (("direct", 99), ("Fourier", taloma2020.LARGE_KERNEL)):
        taloma2020.LARGE_KERNEL = smallest
        work, gflop = (_prediction if what == "prediction" else _training)(batch)
        seconds[kernels] = fastest(work, 2)
        rate = gflop / seconds[kernels]
        rows.append(
            Row(
                "large-kernels",
                f"taloma2020, {what}, patches of {PATCH} voxels a side, {batch} at a time, {kernels}",
                seconds[kernels],
                rate,
                "GFLOP/s of the direct sum",
                rate / gemm_rate(),
                "GEMM in float32",
                note="" if kernels == "direct" else f"{seconds['direct'] / seconds[kernels]:.1f} times as fast",
            )
        )
    return rows


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
    work = 3 * _gflop(models[0]) * batch
    return lambda: step(patches[0], patches[1], tf.constant(0))["generator_loss"].numpy(), work


def _gflop(generator) -> float:
    kernels = [v for v in generator.trainable_variables if v.path.endswith("/kernel")]
    return sum(2 * int(kernel.value.shape.num_elements()) for kernel in kernels) * PATCH**3 / 1e9
