"""``python -m tf_mrsr.doctor``: what this machine has for tf_mrsr, what is missing, and how to get it."""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import os
import platform
import sys
import time
from collections.abc import Iterator, Sequence

from tf_mrsr import __version__, cli
from tf_mrsr.errors import DeviceError

_PACKAGES = ("keras", "numpy", "scipy", "scikit-image", "matplotlib", "nibabel", "pydicom")
_PACKAGES += ("h5py", "pyyaml", "protobuf", "grpcio")
_DISTRIBUTIONS_OF_TENSORFLOW = ("tensorflow", "tensorflow-cpu", "tensorflow-intel", "tensorflow-macos")
# Module -> what it is for, how to get it.
_OPTIONAL = {
    "nilearn": ("tf-mrsr demo", "pip install '.[demo]' in tf_mrsr's folder"),
    "tensorboard": ("TensorBoard's view of a training", "pip install '.[tensorboard]' in tf_mrsr's folder"),
    **dict.fromkeys(
        ("tf2onnx", "onnx", "onnxruntime"),
        ("tf-mrsr export --format onnx", "pip install '.[onnx]' in tf_mrsr's folder"),
    ),
}
# Module -> transfer syntaxes that pydicom reads with it.
_CODECS = {
    "openjpeg": ("JPEG 2000", "pip install '.[codecs]' in tf_mrsr's folder"),
    "jpeg_ls": ("JPEG-LS", "pip install '.[codecs]' in tf_mrsr's folder"),
}


def main(argv: Sequence[str] | None = None) -> int:
    arguments = cli.parser("doctor", "Tell what this machine has for tf_mrsr, what is missing and how to get it.")
    cli.add_device_option(arguments)
    return cli.run(_doctor, arguments.parse_args(argv))


def _doctor(arguments: argparse.Namespace) -> None:
    for part in (_python, _optional, _weights, _memory, lambda: _tensorflow(arguments.device)):
        for what, finding in part():
            print(f"{what:24}{finding}")


def _python() -> Iterator[tuple[str, str]]:
    yield "tf_mrsr", __version__
    yield "Python", f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    for name in _PACKAGES:
        yield name, _version(name) or f"missing: pip install {name}"


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _optional() -> Iterator[tuple[str, str]]:
    for module, (purpose, remedy) in _OPTIONAL.items():
        found = importlib.util.find_spec(module) is not None
        yield module, f"found, for {purpose}" if found else f"not installed; for {purpose}: {remedy}"
    if importlib.util.find_spec("pydicom") is not None:
        for module, (syntax, remedy) in _CODECS.items():
            found = importlib.util.find_spec(module) is not None
            yield f"DICOM, {syntax}", "can be read" if found else f"cannot be read; {remedy}"


def _weights() -> Iterator[tuple[str, str]]:
    try:
        from tf_mrsr import model_folder
    except ImportError as error:
        yield "shipped models", f"cannot be listed ({error}); install what is missing or broken anew"
        return
    names = model_folder.shipped()
    yield "shipped models", ", ".join(names) or f"none (looked in {model_folder.weights_directory()})"


def _memory() -> Iterator[tuple[str, str]]:
    yield "processor cores", str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count())
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        yield "memory", f"{total / 2**30:.1f} GB"


def _tensorflow(device: str) -> Iterator[tuple[str, str]]:
    if importlib.util.find_spec("tensorflow") is None:
        yield "TensorFlow", "missing: pip install tensorflow, or tensorflow-cpu"
        return
    started = time.monotonic()
    try:
        cli.load_tensorflow(device)
    except DeviceError:
        yield "--device gpu", "TensorFlow finds no GPU"
        cli.load_tensorflow()
    except ImportError as error:
        yield "TensorFlow", f"cannot be loaded ({error}); install it anew"
        return
    import tensorflow as tf

    seconds = time.monotonic() - started
    names = [name for name in _DISTRIBUTIONS_OF_TENSORFLOW if _version(name) is not None]
    yield "TensorFlow", f"{tf.__version__} ({', '.join(names)}), loaded in {seconds:.1f} s"
    yield "oneDNN", _one_dnn()
    yield from _gpus()
    yield "convolution", _tried(jit=False)
    yield "convolution by XLA", _tried(jit=True)
    yield "bfloat16", _bfloat16()


def _one_dnn() -> str:
    setting = os.environ.get("TF_ENABLE_ONEDNN_OPTS")
    if setting is None:  # see cli.switch_on_onednn
        return "left to TensorFlow, as on all but x86 processors"
    if setting == "1":
        return "on (TF_ENABLE_ONEDNN_OPTS=1)"
    return f"switched off by TF_ENABLE_ONEDNN_OPTS={setting}; 3D convolutions on CPUs are slower without it"


def _gpus() -> Iterator[tuple[str, str]]:
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    for gpu in gpus:
        details = tf.config.experimental.get_device_details(gpu)
        capability = ".".join(map(str, details.get("compute_capability", ())))
        yield gpu.name.removeprefix("/physical_device:"), f"{details.get('device_name', 'unknown')} ({capability})"
    if gpus:
        return
    if not tf.test.is_built_with_cuda():
        yield "GPU", "none: this TensorFlow is built without CUDA; pip install '.[gpu]' in a fresh one"
    else:
        yield "GPU", "none found; check nvidia-smi, and pip install '.[gpu]' for the CUDA libraries"


def _tried(*, jit: bool) -> str:
    """Whether a small 3D convolution runs, and where."""
    import tensorflow as tf

    @tf.function(jit_compile=jit)
    def convolution(volume: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        return tf.nn.conv3d(volume, kernel, [1] * 5, "SAME")

    try:
        result = convolution(tf.ones((1, 8, 8, 8, 1)), tf.ones((3, 3, 3, 1, 1)))
    except tf.errors.OpError as error:
        return f"fails: {error.message.splitlines()[0]}"
    if float(result[0, 4, 4, 4, 0]) != 27:
        return f"gives {float(result[0, 4, 4, 4, 0])} where 27 is right; do not trust this installation"
    return f"runs, on {result.device.rpartition('device:')[2]}"


def _bfloat16() -> str:
    import tensorflow as tf

    from tf_mrsr import bfloat16

    try:
        return f"{bfloat16.speed():.2g} times the speed of float32 (for --precision)"
    except tf.errors.OpError as error:
        return f"fails: {error.message.splitlines()[0]}"


if __name__ == "__main__":
    sys.exit(main())
