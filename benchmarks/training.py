"""One update of sanchez2018's generator and discriminator, x2 by deconvolution, and the same in PyTorch.

Each patch size and precision runs in a process of its own. The useful work is that of the published algorithm, three
times a network's forward work where its weights and its input take gradients: G forward and backward; D forward and
backward on real and on generated patches; D forward and backward to its input by the updated D. Nothing is computed
twice: D's update and G's own share one forward pass of G, and the second backward pass of D makes no gradients of D's
weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from benchmarks import peers
from benchmarks.machine import gemm_rate, has_bfloat16, in_process, peak_mb, timed
from benchmarks.prediction import flop_per_low_voxel
from benchmarks.table import Row

RECIPE = "sanchez2018_srgan3d_x2_subpixel_nn"
BATCH = 2
SHAPES = ((32, 32, 32), (64, 64, 64), (96, 96, 96), (128, 128, 92))
COMPARED = (64, 64, 64)
STEPS = 5


def run(*, quick: bool) -> Iterator[Row]:
    for shape in (COMPARED,) if quick else SHAPES:
        for precision in ("float32", "mixed_bfloat16") if has_bfloat16() else ("float32",):
            ours = in_process(measure, shape=shape, precision=precision)
            yield _row(f"{_name(shape)}, {precision}", precision, ours, f"{ours['retraces']} retraces after the first")
            if shape == COMPARED:
                yield from _peers(shape, precision, ours, quick=quick)


def _peers(shape: tuple[int, int, int], precision: str, ours: dict, *, quick: bool) -> Iterator[Row]:
    def measured(compiled: bool) -> dict[str, Any]:
        return in_process(measure_torch, shape=shape, precision=precision, compiled=compiled)

    def to_row(name: str, found: dict[str, Any]) -> Row:
        pairs = zip(found["losses"], ours["losses"], strict=True)
        difference = max(abs(theirs[loss] / mine[loss] - 1) for theirs, mine in pairs for loss in mine)
        note = f"{found['seconds'] / ours['seconds']:.2f} times our seconds; losses differ by {difference:.1e} at most"
        return _row(name, precision, found, note)

    yield from peers.rows("training", f"{_name(shape)}, PyTorch, {precision}", measured, to_row, quick=quick)


def _name(shape: tuple[int, int, int]) -> str:
    return f"step of G and D, {BATCH} patches of {'x'.join(map(str, shape))}"


def _row(case: str, precision: str, found: dict, note: str) -> Row:
    rate = found["gflop"] / found["seconds"]
    return Row(
        "training",
        case,
        found["seconds"],
        1 / found["seconds"],
        "steps/s",
        rate / found["gemm"],
        f"GEMM in {'float32' if precision == 'float32' else 'bfloat16'}",
        found["peak_mb"],
        note,
    )


def measure(shape: list[int], precision: str) -> dict[str, Any]:
    """Seconds of the fastest step, its work, memory, losses of the steps, and graphs made after the first step."""
    import tensorflow as tf

    from tf_mrsr.training.step import AdversarialStep, Labels

    tf.config.experimental.enable_op_determinism()  # as tf_mrsr.training.loop does
    stage, generator, discriminator, optimizers = _parts(shape, precision)
    adversarial = AdversarialStep(stage, generator, discriminator, *optimizers)
    real_labels, zeros, ones = (tf.constant(n, tf.float32, (BATCH, 1)) for n in (0.9, 0, 1))
    step = tf.function(lambda low, high, n: adversarial(low, high, n, Labels(real_labels, zeros, ones)))
    low_res, high_res = (tf.constant(patches) for patches in _patches(shape))
    number = tf.Variable(0, dtype=tf.int64)

    def update() -> dict[str, float]:
        results = {name: float(value) for name, value in step(low_res, high_res, number).items()}
        number.assign_add(1)
        return {name: results[name] for name in ("generator_loss", "discriminator_loss")}

    found = _timed_steps(update, precision)
    work = _gflop(generator, discriminator, shape)
    return {**found, "gflop": work, "retraces": step.experimental_get_tracing_count() - 1}


def measure_torch(shape: list[int], precision: str, compiled: bool) -> dict[str, Any]:
    """As ``measure``, in PyTorch, from the same weights and with the same patches and labels."""
    import torch

    from benchmarks import torch_peer

    stage, generator, discriminator, _ = _parts(shape, "float32")
    networks = (torch_peer.Network(model).train() for model in (generator, discriminator))
    step = torch_peer.TrainingStep(*networks, precision, stage, compiled=compiled)
    low_res, high_res = (torch_peer.to_torch(patches) for patches in _patches(shape))
    real_labels = torch.full((BATCH, 1), 0.9)
    found = _timed_steps(lambda: step(low_res, high_res, real_labels), precision)
    return {**found, "gflop": _gflop(generator, discriminator, shape)}


def _timed_steps(update, precision: str) -> dict[str, Any]:
    compute = "float32" if precision == "float32" else "bfloat16"
    losses = []
    peak = peak_mb(lambda: losses.append(update()))
    rates = [gemm_rate(compute)]
    seconds = [timed(lambda: losses.append(update())) for _ in range(STEPS - 1)]
    rates.append(gemm_rate(compute))
    return {"seconds": min(seconds), "gemm": max(rates), "peak_mb": peak, "losses": losses}


def _parts(shape: list[int], precision: str):
    import keras

    from tf_mrsr import networks, recipe
    from tf_mrsr.training.step import make_optimizer

    keras.utils.set_random_seed(0)
    chosen = recipe.load(RECIPE)
    stage, network = chosen.stages[0], chosen.network
    arguments = {"patch_shape": shape, **network.discriminator}
    models = (
        networks.build(network.name, "generator", dict(network.generator), precision),
        networks.build(network.name, "discriminator", arguments, precision),
    )
    optimizers = [make_optimizer(part.optimizer, 1) for part in (stage.generator, stage.discriminator)]
    for model, optimizer in zip(models, optimizers, strict=True):
        optimizer.build(model.trainable_variables)
    return stage, *models, optimizers


def _patches(shape: list[int]) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    high_res = rng.uniform(-1, 1, (BATCH, *shape, 1)).astype(np.float32)
    return np.ascontiguousarray(high_res[:, ::2, ::2, ::2]), high_res


def _gflop(generator, discriminator, shape: list[int]) -> float:
    """Of one step; the dense layers of D included, activations and norms left out."""
    import keras

    of_generator = 3 * flop_per_low_voxel(generator) * np.prod(shape) / 8
    forward = 0
    for layer in discriminator.layers:
        if isinstance(layer, (keras.layers.Conv3D, keras.layers.Dense)):
            places = np.prod(layer.output.shape[1:-1]) if isinstance(layer, keras.layers.Conv3D) else 1
            forward += 2 * layer.kernel.shape.num_elements() * places
    # On real and on generated patches forward and backward, and once more forward and backward to the input.
    return float(BATCH * (of_generator + (2 * 3 + 2) * forward) / 1e9)
