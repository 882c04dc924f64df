"""What all commands share: errors as one line, quiet TensorFlow, sizes, common options. Loads nothing heavy itself."""

from __future__ import annotations

import argparse
import os
import platform
import re
import signal
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from tf_mrsr import __version__, limits
from tf_mrsr.errors import DeviceError, MrsrError, OutputError, VolumeWarning

MODEL_HELP = "run folder, SavedModel folder, or the name of a model that comes with tf_mrsr (tf-mrsr models lists them)"
# Keras imports these where they are installed, for features that no command uses: a quarter of TensorFlow's import.
_KERAS_EXTRAS = ("matplotlib", "pandas", "sklearn")
_Result = TypeVar("_Result")
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def parser(command: str, description: str) -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(
        prog=f"tf-mrsr {command}", description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    result.add_argument("--version", action="version", version=f"tf_mrsr {__version__}")
    return result


def run(work: Callable[[argparse.Namespace], None], arguments: argparse.Namespace) -> int:
    """Does the work; returns the exit code: 0, 1 after an error that the user can mend, 130 after Ctrl-C,
    141 when the reader of the output has gone, as shells report it.

    SIGTERM, which batch systems send, ends the work like an error, so that nothing half done is left.
    """
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    if hasattr(sys.stdout, "reconfigure"):  # where it cannot hold a letter, as Python's stderr does
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("default", category=VolumeWarning)
            warnings.showwarning = _show_warning
            work(arguments)
        sys.stdout.flush()
    except MrsrError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except ImportError as error:
        print(f"error: a package is missing or broken ({error}); tf-mrsr doctor lists what is needed", file=sys.stderr)
        return 1
    except BrokenPipeError:  # the reader of our output, as "| head", has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        print(f"error: {error.filename or 'input or output'}: {error.strerror or error}", file=sys.stderr)
        return 1
    except MemoryError:
        print("error: not enough memory; lower --memory or --cache, or take smaller scans", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0


def interruptible(work: Callable[[], _Result]) -> _Result:
    """Does the work in a thread of its own and returns what it gives or raises.

    Python hears of Ctrl-C and SIGTERM in the main thread only, and there not before TensorFlow comes back from a
    computation, which may take minutes. A thread left behind ends with the process.
    """
    done: Future[_Result] = Future()

    def fill() -> None:
        try:
            done.set_result(work())
        except BaseException as error:
            done.set_exception(error)

    threading.Thread(target=fill, daemon=True).start()
    return done.result()


def warn(message: str) -> None:
    clear = "\r\x1b[K" if sys.stderr.isatty() else ""  # a line of progress that may stand there
    print(f"{clear}warning: {message}", file=sys.stderr)


def _show_warning(message: Warning | str, category: type[Warning], *place: object) -> None:
    """Ours as one line; others as Python would show them."""
    if issubclass(category, VolumeWarning):
        warn(str(message))
    else:
        print(warnings.formatwarning(message, category, *place[:2]), end="", file=sys.stderr)


def add_nan_option(arguments: argparse.ArgumentParser) -> None:
    arguments.add_argument(
        "--nan",
        choices=("refuse", "zero"),
        default="refuse",
        help="NaN or infinite voxels: refuse the scan (default), or set them to 0",
    )


def add_memory_option(arguments: argparse.ArgumentParser) -> None:
    arguments.add_argument(
        "--memory",
        type=memory_size,
        default=limits.DEFAULT_MEMORY,
        metavar="SIZE",
        help="what computing one volume may take, for instance 1GB, or 'unlimited' "
        f"(default {_in_gb(limits.DEFAULT_MEMORY)}); a slab as small as the network's reach allows may take more",
    )


def add_model_option(arguments: argparse.ArgumentParser) -> None:
    arguments.add_argument("--model", type=path, required=True, help=MODEL_HELP)


def add_device_option(arguments: argparse.ArgumentParser) -> None:
    arguments.add_argument(
        "--device",
        choices=("auto", "cpu", "gpu"),
        default="auto",
        help="auto (default): a GPU where there is one that TensorFlow can use",
    )


def add_stride_option(arguments: argparse.ArgumentParser) -> None:
    arguments.add_argument(
        "--stride",
        type=positive,
        metavar="VOXELS",
        help="for models that average overlapping patches: from one patch to the next; larger is faster, a whole patch "
        "leaves no overlap (default: the recipe's)",
    )


def add_tta_option(arguments: argparse.ArgumentParser) -> None:
    arguments.add_argument(
        "--tta",
        action="store_true",
        help="average over the scan and its seven mirror images: 8 times the work for a little less error",
    )


def add_cache_option(arguments: argparse.ArgumentParser) -> None:
    arguments.add_argument(
        "--cache",
        type=memory_size,
        default=limits.DEFAULT_CACHE,
        metavar="SIZE",
        help=f"memory for decoded scans (default {_in_gb(limits.DEFAULT_CACHE)})",
    )


def _in_gb(size: int) -> str:
    return f"{size / 2**30:g}GB"


def positive(text: str) -> int:
    """A whole number over 0, and no slip."""
    number = int(text) if text.isdecimal() else 0
    if not 1 <= number <= limits.MOST:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 to {limits.MOST}")
    return number


def memory_size(text: str) -> int:
    """Bytes of "2GB", "500 MB", "1.5G" or "unlimited"."""
    if text.strip().lower() == "unlimited":
        return limits.UNLIMITED
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)i?B?\s*", text, re.IGNORECASE)
    size = 0 if match is None else int(float(match[1]) * _UNITS[match[2].upper()])
    if size < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size; expected for instance 1GB, 500MB or unlimited")
    return min(size, limits.UNLIMITED)


def path(text: str) -> Path:
    """A path that an empty shell variable cannot turn into the current folder."""
    if not text:
        raise argparse.ArgumentTypeError("the path is empty")
    return Path(text)


def check_writable(folder: Path) -> None:
    """Raises an OutputError if no file can be made in ``folder``."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OutputError(f"{folder}: cannot be written ({error.strerror}); choose another place") from error


def check_can_hold(folder: Path) -> None:
    """Raises an OutputError if ``folder`` cannot be made, with those above it that are missing, or not be written."""
    existing = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())
    if not existing.is_dir():
        raise OutputError(f"{existing}: is a file, where the output needs a folder; give another name")
    check_writable(existing)


def load_tensorflow(device: str = "auto") -> None:
    """Imports TensorFlow and Keras without the lines that they print about themselves before any log level holds.

    What a user set for Keras elsewhere, another backend or channels first, does not hold here.

    Args:
        device: "auto", "cpu" or "gpu". Memory of a GPU is taken as it is needed, not all at once.

    Raises:
        DeviceError: if "gpu" is asked for and there is none, or TensorFlow runs on something else already.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ["KERAS_BACKEND"] = "tensorflow"
    switch_on_onednn()
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with tempfile.TemporaryFile() as sink:
            os.dup2(sink.fileno(), 2)
            with _as_if_not_installed(*_KERAS_EXTRAS):
                import keras
                import tensorflow as tf

            keras.config.set_image_data_format("channels_last")
            _choose_device(device)
            tf.zeros(1)  # the first operation prints as well
            tf.get_logger().setLevel("ERROR")
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def warn_of_slow_bfloat16(remedy: str) -> None:
    """A warning, and what to do, where the machine is much faster in float32; TensorFlow must be loaded."""
    from tf_mrsr import bfloat16

    ratio = bfloat16.speed()
    if ratio < limits.SLOW_BFLOAT16:
        warn(f"in bfloat16 this machine has {ratio:.2g} times its speed in float32; {remedy}")


@contextmanager
def _as_if_not_installed(*modules: str) -> Iterator[None]:
    """Importing these fails meanwhile, unless they are loaded already."""
    hidden = [module for module in modules if module not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # Python's mark of a module that is not there
    try:
        yield
    finally:
        for module in hidden:
            del sys.modules[module]


def switch_on_onednn() -> None:
    """Has TensorFlow, to be loaded next, compute with oneDNN on x86 processors, unless the user says otherwise.

    By itself it does so on those with AVX512-VNNI or newer instructions only. On one with AVX2, training was 2.5 times
    slower without, and a deconvolution took memory for all of its products at once.
    """
    if platform.machine() in ("x86_64", "AMD64"):
        os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")


def _choose_device(device: str) -> None:
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    if device == "gpu" and not gpus:
        raise DeviceError("--device gpu: TensorFlow finds no GPU; tf-mrsr doctor says what is missing")
    try:
        if device == "cpu":
            tf.config.set_visible_devices([], "GPU")
        for gpu in gpus:
            tf.config.experimental.set_memory_growth(gpu, True)
    except RuntimeError as error:  # TensorFlow is running; what it chose then holds
        if device == "cpu" and tf.config.list_logical_devices("GPU"):
            raise DeviceError("--device cpu: TensorFlow already runs on a GPU in this process") from error
