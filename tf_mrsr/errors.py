"""The typed errors that users meet. Every message says what came, what was expected and what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class MrsrError(Exception):
    """Base of all errors caused by input or settings; commands print it as one line and exit with 1."""


class VolumeError(MrsrError):
    """A file that is not a usable scan: unreadable, damaged, wrong kind, bad header or bad voxels."""


class VolumeWarning(UserWarning):
    """Something odd in a scan that is usable all the same; commands print it as one line and go on."""


class GeometryError(MrsrError):
    """An affine or a grid that cannot be used, or two that do not fit together."""


class RecipeError(MrsrError):
    """A recipe that is not valid, or that does not fit what it is used with."""


class ModelError(MrsrError):
    """A run or SavedModel folder that cannot be loaded."""


class DataError(MrsrError):
    """A set of scans that cannot be found, listed or used for the task."""


class OutputError(MrsrError):
    """A place that cannot be written, or that holds something already."""


class ServerError(MrsrError):
    """A server that cannot be reached, does not have the model, or answers with something else."""


class DeviceError(MrsrError):
    """A device that is asked for and not there."""


@contextmanager
def naming(path: object) -> Iterator[None]:
    """Puts the path of the file that it is about in front of a VolumeError from within."""
    try:
        yield
    except VolumeError as error:
        raise VolumeError(f"{path}: {error}") from error


# What TensorFlow puts around the line that says why a graph refused its input.
_AROUND = ("Graph execution error", "Detected at node", "<stack traces", "[[", "WARNING:")


def graph_reason(message: str) -> str:
    """The line of a TensorFlow error's message that says why, shortened if it is long."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    telling = [line for line in lines if not line.startswith(_AROUND)] or lines or ["no reason given"]
    told = next((line for line in telling if line.startswith("assertion failed: ")), telling[0])
    return told.removeprefix("assertion failed: ")[:300]
