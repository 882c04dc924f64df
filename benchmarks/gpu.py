"""The networks on a GPU: float32, TF32 and bfloat16, with XLA and without, and the same in PyTorch.

The network alone, on a volume that lies on the device; what comes back to the host is the result's sum. Where there is
no GPU one row says so.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

from benchmarks import peers
from benchmarks.machine import fastest, gemm_rate, in_process
from benchmarks.prediction import CASES, SMALLER, Case, flop_per_low_voxel, make_generator
from benchmarks.table import Row

MODES = ("float32", "TF32", "bfloat16")
REPEATS = 5


def run(*, quick: bool) -> Iterator[Row]:
    if not in_process(count):
        yield Row("gpu", "all", note="no GPU that TensorFlow can use")
        return
    yield from rows(CASES, "GPU", quick=quick)


def count() -> int:
    import tensorflow as tf

    return len(tf.config.list_physical_devices("GPU"))


def rows(cases: tuple[Case, ...], device: str, *, quick: bool) -> Iterator[Row]:
    """The rows of some cases on a device, "GPU" or, to try the measurement itself, "CPU"."""
    for case in cases:
        shape = [n // SMALLER for n in case.low_shape] if quick else list(case.low_shape)
        for mode in MODES:
            about = {"network": case.network, "arguments": case.arguments, "shape": shape, "mode": mode}
            name = f"{case.name}, {'x'.join(map(str, shape))}, {mode}"
            found = [in_process(measure, **about, device=device, xla=xla) for xla in (False, True)]
            for one, how in zip(found, ("without XLA", "XLA"), strict=True):
                yield _row(f"{name}, {how}", mode, one)
            ours = {"seconds": min(one["seconds"] for one in found), "gemm": found[0]["gemm"]}
            yield from peers.rows(
                "gpu",
                f"{name}, PyTorch",
                partial(_in_torch, {**about, "device": device}),
                partial(_peer_row, mode, ours),
                quick=quick,
            )


def _in_torch(about: dict[str, Any], compiled: bool) -> dict[str, Any]:
    return in_process(measure_torch, **about, compiled=compiled)


def _peer_row(mode: str, ours: dict[str, float], name: str, found: dict[str, Any]) -> Row:
    times = found["seconds"] / ours["seconds"]
    return _row(name, mode, {**found, "gemm": ours["gemm"]}, f"{times:.2f} times ours; ")


def _row(name: str, mode: str, found: dict[str, Any], note: str = "") -> Row:
    rate = found["gflop"] / found["seconds"]
    note += f"largest difference to float32 on the CPU {found['difference']:.1e} of the output's size"
    peak = found["peak_mb"]
    return Row("gpu", name, found["seconds"], rate, "GFLOP/s", rate / found["gemm"], f"GEMM in {mode}", peak, note)


def measure(
    network: str, arguments: dict[str, Any], shape: list[int], mode: str, device: str, xla: bool
) -> dict[str, Any]:
    """Seconds, useful work, rate of multiplying matrices in the same mode, memory on the device, difference."""
    import tensorflow as tf

    from tf_mrsr.networks.structure import fold_batch_norm

    for gpu in tf.config.list_physical_devices("GPU"):
        tf.config.experimental.set_memory_growth(gpu, True)
    tf.config.experimental.enable_tensor_float_32_execution(mode == "TF32")
    precision = "bfloat16" if mode == "bfloat16" else "float32"
    generator = make_generator(network, arguments, precision)
    folded = fold_batch_norm(generator)
    resolve = tf.function(folded, jit_compile=xla)
    add_up = tf.function(lambda volume: tf.reduce_sum(folded(volume)), jit_compile=xla)
    with tf.device(f"/{device}:0"):
        volume = tf.constant(_volume(shape))
        seconds = fastest(lambda: add_up(volume).numpy(), REPEATS)
        peak = tf.config.experimental.get_memory_info("GPU:0")["peak"] / 2**20 if device == "GPU" else None
        crop = resolve(tf.constant(_volume(_crop(shape)))).numpy()
        gemm = gemm_rate(precision)
    return {
        "seconds": seconds,
        "gflop": flop_per_low_voxel(generator) * float(np.prod(shape)) / 1e9,
        "gemm": gemm,
        "peak_mb": peak,
        "difference": _difference(crop, network, arguments, shape),
    }


def measure_torch(
    network: str, arguments: dict[str, Any], shape: list[int], mode: str, device: str, compiled: bool
) -> dict[str, Any]:
    """As ``measure``, in PyTorch, channels last; TensorFlow, which makes the weights, stays on the CPU."""
    import tensorflow as tf
    import torch

    from benchmarks import torch_peer
    from tf_mrsr.networks.structure import fold_batch_norm

    tf.config.set_visible_devices([], "GPU")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = mode == "TF32"
    torch.backends.cudnn.benchmark = True
    place = "cuda" if device == "GPU" else "cpu"
    generator = make_generator(network, arguments)
    peer = torch_peer.Network(fold_batch_norm(generator)).eval().to(place)
    resolve = torch.compile(peer) if compiled else peer

    @torch.inference_mode()
    def predict(volume: torch.Tensor) -> torch.Tensor:
        with torch.autocast(place, torch.bfloat16, enabled=mode == "bfloat16"):
            return resolve(volume).float()

    volume = torch_peer.to_torch(_volume(shape)).to(place)
    seconds = fastest(lambda: predict(volume).sum().item(), REPEATS)
    crop = predict(torch_peer.to_torch(_volume(_crop(shape))).to(place)).permute(0, 2, 3, 4, 1).cpu().numpy()
    return {
        "seconds": seconds,
        "gflop": flop_per_low_voxel(generator) * float(np.prod(shape)) / 1e9,
        "peak_mb": torch.cuda.max_memory_allocated() / 2**20 if device == "GPU" else None,
        "difference": _difference(crop, network, arguments, shape),
    }


def _volume(shape: list[int]) -> np.ndarray:
    return np.random.default_rng(0).uniform(-1, 1, (1, *shape, 1)).astype(np.float32)


def _crop(shape: list[int]) -> list[int]:
    return [min(n, 24) for n in shape]


def _difference(result: np.ndarray, network: str, arguments: dict[str, Any], shape: list[int]) -> float:
    import tensorflow as tf

    with tf.device("/CPU:0"):
        expected = make_generator(network, arguments)(_volume(_crop(shape)), training=False).numpy()
    return float(np.abs(result - expected).max() / np.abs(expected).max())
