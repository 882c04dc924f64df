"""Prediction of whole volumes: share of the machine's matrix multiplication rate, memory, and PyTorch beside it.

Every case runs in a process of its own, which measures the multiplication rate right before and after the network, so
that the share compares like with like on a machine whose speed drifts. The useful work is that of the published
layers, whatever way they are computed, so a share can exceed 1.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks import peers
from benchmarks.machine import fastest, gemm_rate, has_bfloat16, in_process, noisy_ball, peak_mb, timed
from benchmarks.table import Row
from tf_mrsr.limits import DEFAULT_MEMORY, UNLIMITED

GIGABYTE = 2**30


class Case(NamedTuple):
    """A network and the volume that it takes; the first two give the paper's 224 x 224 x 152 voxels."""

    network: str
    arguments: dict[str, Any]
    low_shape: tuple[int, int, int]

    @property
    def name(self) -> str:
        return " ".join([self.network, *(f"{key} {value}" for key, value in self.arguments.items())])


CASES = (
    *(
        Case("sanchez2018", {"scale_factor": 2, "upsampling": upsampling}, (112, 112, 76))
        for upsampling in ("resize", "subpixel", "subpixel_nn")
    ),
    Case("sanchez2018", {"scale_factor": 4, "upsampling": "subpixel_nn"}, (56, 56, 38)),
    Case("li2017", {"scale_factor": 3, "architecture": "3dsrcnn"}, (320, 320, 16)),
)
# For ``quick``: an eighth of the voxels.
SMALLER = 2


def run(*, quick: bool) -> Iterator[Row]:
    precisions = ("float32", "bfloat16") if has_bfloat16() else ("float32",)
    for case in CASES:
        shape = [n // SMALLER for n in case.low_shape] if quick else case.low_shape
        about = {"network": case.network, "arguments": case.arguments, "shape": list(shape)}
        base = {}
        for precision in precisions:
            for memory in (UNLIMITED, GIGABYTE // (8 if quick else 1)):
                found = in_process(measure, **about, precision=precision, memory=memory)
                yield _row(case.name, shape, precision, memory, found, base)
                base[precision, memory] = found["seconds"]
        ours = {precision: base[precision, UNLIMITED] for precision in precisions}
        yield from _peers(case.name, about, ours, quick=quick)
    yield from _linearity(quick=quick)
    yield _from_file_to_file(quick=quick)


def _row(name: str, shape: list[int], precision: str, memory: int, found: dict, base: dict) -> Row:
    notes = []
    if memory != UNLIMITED:
        notes.append(f"{found['seconds'] / base[precision, UNLIMITED]:.2f} of the time without a limit")
    elif precision != "float32":
        notes.append(f"{base['float32', UNLIMITED] / found['seconds']:.2f} times as fast as float32")
        notes.append(f"largest difference to float32 {found['difference']:.1e} of the output's size")
    limit = "unlimited" if memory == UNLIMITED else f"{memory / GIGABYTE:g} GB"
    return Row(
        "prediction",
        f"{name}, {'x'.join(map(str, shape))}, {precision}, {limit}",
        found["seconds"],
        found["gflop"] / found["seconds"],
        "GFLOP/s",
        found["gflop"] / found["seconds"] / found["gemm"],
        f"GEMM in {precision}",
        found["peak_mb"],
        "; ".join(notes),
    )


def _peers(name: str, about: dict, ours: dict[str, float], *, quick: bool) -> Iterator[Row]:
    for precision in ours:
        yield from peers.rows(
            "prediction",
            f"{name}, PyTorch, {precision}",
            partial(_in_torch, about, precision),
            partial(_peer_row, precision, ours[precision]),
            quick=quick,
        )


def _in_torch(about: dict, precision: str, compiled: bool) -> dict[str, float]:
    return in_process(measure_torch, **about, precision=precision, compiled=compiled)


def _peer_row(precision: str, our_seconds: float, name: str, found: dict[str, float]) -> Row:
    rate = found["gflop"] / found["seconds"]
    return Row(
        "prediction",
        name,
        found["seconds"],
        rate,
        "GFLOP/s",
        rate / found["gemm"],
        f"GEMM in {precision}",
        found["peak_mb"],
        f"{found['seconds'] / our_seconds:.2f} times our seconds in {precision}; "
        f"largest difference to our float32 {found['difference']:.1e} of the output's size",
    )


def _linearity(*, quick: bool) -> Iterator[Row]:
    """Seconds per voxel of growing volumes, up to a result of 512 x 512 x 400, within the default of ``predict``."""
    first = None
    for shape in [(40, 40, 28), (80, 80, 56)] if quick else [(64, 64, 50), (128, 128, 100), (256, 256, 200)]:
        arguments = {"scale_factor": 2, "upsampling": "subpixel_nn"}
        found = in_process(
            measure,
            network="sanchez2018",
            arguments=arguments,
            shape=list(shape),
            precision="float32",
            memory=DEFAULT_MEMORY,
            repeats=1,
        )
        per_voxel = found["seconds"] * found["gemm"] / np.prod(shape)
        first = first or per_voxel
        yield Row(
            "prediction",
            f"x2 subpixel_nn to {'x'.join(str(2 * n) for n in shape)}, float32, {DEFAULT_MEMORY / GIGABYTE:g} GB",
            found["seconds"],
            8 * np.prod(shape) / found["seconds"] / 1e6,
            "million voxels/s",
            per_voxel / first,
            "the first one's time per voxel, at the same GEMM rate",
            found["peak_mb"],
        )


def _from_file_to_file(*, quick: bool) -> Row:
    shape = [n // SMALLER for n in CASES[2].low_shape] if quick else list(CASES[2].low_shape)
    found = in_process(measure_files, shape=shape)
    return Row(
        "prediction",
        f"x2 subpixel_nn, {'x'.join(map(str, shape))}, from .nii.gz to .nii.gz, float32",
        found["seconds"],
        ratio=found["seconds"] / found["resolve"],
        to="the time without reading and writing",
        note=f"reading {found['read']:.2f} s, writing {found['write']:.2f} s",
    )


def measure(
    network: str, arguments: dict[str, Any], shape: list[int], precision: str, memory: int, repeats: int = 3
) -> dict[str, float]:
    """The fastest of some runs, useful work in GFLOP, GEMM rate, memory in MB, and the difference to float32."""
    resolver, generator = _resolver(network, arguments, precision)
    volume = noisy_ball(tuple(shape)).astype(np.float32)
    resolver(volume[:16, :16, :16], np.eye(4), memory)
    # First of all, so that what multiplying matrices leaves behind is not taken for free memory.
    peak = peak_mb(lambda: resolver(volume, np.eye(4), memory))
    rates = [gemm_rate(precision)]
    seconds = [timed(lambda: resolver(volume, np.eye(4), memory)) for _ in range(repeats)]
    rates.append(gemm_rate(precision))
    crop = noisy_ball((32, 32, 32)).astype(np.float32)
    expected = _resolver(network, arguments, "float32")[0](crop, np.eye(4), UNLIMITED)["volume"].numpy()
    difference = np.abs(resolver(crop, np.eye(4), UNLIMITED)["volume"].numpy() - expected).max()
    return {
        "seconds": min(seconds),
        "gflop": flop_per_low_voxel(generator) * volume.size / 1e9,
        "gemm": max(rates),
        "peak_mb": peak,
        "difference": float(difference / np.abs(expected).max()),
    }


def measure_torch(
    network: str, arguments: dict[str, Any], shape: list[int], precision: str, compiled: bool
) -> dict[str, float]:
    """As ``measure``, of the network alone in PyTorch."""
    import torch

    from benchmarks import torch_peer
    from tf_mrsr.networks.structure import fold_batch_norm

    generator = make_generator(network, arguments)
    folded = fold_batch_norm(generator)
    peer = torch_peer.Network(folded).eval()
    run = torch.compile(peer) if compiled else peer

    @torch.inference_mode()
    def predict(volume: np.ndarray) -> np.ndarray:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision != "float32"):
            return run(torch_peer.to_torch(volume[None, ..., None]))[0, 0].float().numpy()

    volume = np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)
    predict(volume[:16, :16, :16])
    peak = peak_mb(lambda: predict(volume))
    rates = [gemm_rate(precision)]
    seconds = [timed(lambda: predict(volume)) for _ in range(3)]
    rates.append(gemm_rate(precision))
    crop = np.ascontiguousarray(volume[:24, :24, :16])
    expected = generator(crop[None, ..., None], training=False).numpy()[0, ..., 0]
    difference = np.abs(predict(crop) - expected).max() / np.abs(expected).max()
    return {
        "seconds": min(seconds),
        "gflop": flop_per_low_voxel(generator) * volume.size / 1e9,
        "gemm": max(rates),
        "peak_mb": peak,
        "difference": float(difference),
    }


def measure_files(shape: list[int]) -> dict[str, float]:
    """Seconds of reading, resolving and writing one scan, apart and together."""
    from tf_mrsr.volume import Volume, read_volume, write_volume

    resolver, _ = _resolver(CASES[2].network, CASES[2].arguments, "float32")
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "scan.nii.gz"), Path(folder, "result.nii.gz")
        write_volume(Volume(noisy_ball(tuple(shape)).astype(np.float32), np.eye(4)), source)
        results = {}

        def resolve() -> None:
            scan = results["scan"] = read_volume(source)
            results["fine"] = resolver(scan.data, scan.affine, DEFAULT_MEMORY)

        fine = fastest(resolve, 2)
        read = fastest(lambda: read_volume(source), 2)
        volume = Volume(results["fine"]["volume"].numpy(), results["fine"]["affine"].numpy())
        write = timed(lambda: write_volume(volume, target))
    return {"seconds": fine + write, "resolve": fine - read, "read": read, "write": write}


def make_generator(network: str, arguments: dict[str, Any], precision: str = "float32"):
    import keras

    from tf_mrsr import networks

    keras.utils.set_random_seed(0)
    policy = "mixed_bfloat16" if precision == "bfloat16" else precision
    return networks.build(network, "generator", arguments, policy)


def _resolver(network: str, arguments: dict[str, Any], precision: str):
    from tf_mrsr.geometry import GridMap
    from tf_mrsr.inference.super_resolver import SuperResolver
    from tf_mrsr.networks.structure import reach

    generator = make_generator(network, arguments, precision)
    grid_map = GridMap.block_average(reach(generator).scale).inverse()
    return SuperResolver(generator, grid_map, "half_max"), generator


def flop_per_low_voxel(generator) -> int:
    """Multiplications and additions of the convolutions per voxel of the network's input."""
    import keras

    total, scale = 0, 1
    for layer in generator.layers:
        if isinstance(layer, keras.layers.Conv3DTranspose):
            total += 2 * layer.kernel.shape.num_elements() * scale
            scale *= int(np.prod(layer.strides))
        elif isinstance(layer, keras.layers.Conv3D):
            scale *= int(np.prod(getattr(layer, "size", 1)))
            total += 2 * layer.kernel.shape.num_elements() * scale
        else:
            scale *= int(np.prod(getattr(layer, "size", getattr(layer, "factors", 1))))
    return total
