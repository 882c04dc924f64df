"""Reading ``.npy`` and ``.npz`` files whose arrays are pickled, without letting a pickle run anything.

``numpy.load(allow_pickle=True)`` executes whatever a file says. Here the unpickler knows four names, those with which
numpy rebuilds an array, and they lead to the plain classes below instead of numpy's.
"""

from __future__ import annotations

import io
import math
import pickle
import tokenize
import warnings
import zipfile
import zlib
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from tf_mrsr.errors import ModelError

MOST_BYTES = 2**30  # of one member; VGG19 with its dense layers has 575 MB
MOST_AXES = 8
_NUMBERS = ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8")
_TEMPLATE = "ndarray"  # what the name numpy.ndarray leads to
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def read(path: Path) -> dict[str, Any]:
    """What a ``.npz`` file holds by name, or what a ``.npy`` file holds under the name "".

    Returns:
        Arrays of numbers as ``numpy.ndarray``; arrays of objects as nested lists, dictionaries and ``PickledArray``;
        an object array without axes as the object.

    Raises:
        ModelError: if the file is missing, damaged, too large, or holds a pickle of anything but arrays.
    """
    try:
        with path.open("rb") as stream:
            if not zipfile.is_zipfile(stream):
                stream.seek(0)
                return {"": _read_npy(stream)}
        with zipfile.ZipFile(path) as archive:
            return {name.removesuffix(".npy"): _read_member(archive, name) for name in archive.namelist()}
    except _Refused as error:
        raise ModelError(f"{path}: {error}") from error
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror or error})") from error
    except _DAMAGED as error:
        raise ModelError(f"{path}: damaged, or not a .npy or .npz file of arrays; fetch it again") from error


def numbers(value: Any) -> np.ndarray:
    """An array of numbers out of what ``read`` returns.

    Raises:
        ModelError: if it is anything else.
    """
    if isinstance(value, np.ndarray):
        return value
    if isinstance(value, PickledArray):
        return value.numpy()
    raise ModelError(f"a {type(value).__name__} stands where an array of numbers was expected")


class _Refused(Exception):
    """A pickle that is whole but holds what is not read here."""


class PickledArray:
    """An array as a pickle describes it, read into numpy only when it is asked for."""

    _state: tuple | None = None

    def __init__(self, template: object, shape: object, code: object) -> None:
        """What ``numpy.core.multiarray._reconstruct`` is called with; all is empty until the state is set."""
        if template != _TEMPLATE:
            raise _Refused("it holds an array of another class than numpy's; expected plain arrays")

    def __setstate__(self, state: object) -> None:
        """The state of a numpy array: version, shape, dtype, Fortran order, and bytes or a list of objects."""
        known = isinstance(state, tuple) and len(state) == 5 and isinstance(state[2], _PickledDtype)
        if not known or (state[2].numpy is None and not state[2].is_object):
            raise _Refused("it holds an array in a form that is not known here")
        _, shape, dtype, fortran, data = state
        if not (isinstance(shape, tuple) and len(shape) <= MOST_AXES and all(type(n) is int and n > 0 for n in shape)):
            raise _Refused("it holds an array without elements, or with too many axes")
        if not isinstance(data, list if dtype.is_object else (bytes, str)):
            raise _Refused("it holds an array whose data do not fit its kind")
        size = math.prod(shape)
        if len(data) != size * (1 if dtype.is_object else dtype.numpy.itemsize):
            raise _Refused("it holds an array whose data do not fit its shape")
        self._state = (shape, dtype, bool(fortran), data)

    def numpy(self) -> np.ndarray:
        """The array.

        Raises:
            ModelError: if it is not one of numbers.
        """
        if self._state is None or self._state[1].is_object:
            raise ModelError("an array of objects stands where numbers were expected")
        shape, dtype, fortran, data = self._state
        # A pickle of Python 2 has bytes as text.
        raw = data.encode("latin1") if isinstance(data, str) else data
        return np.frombuffer(raw, dtype.numpy).reshape(shape, order="F" if fortran else "C")

    def objects(self) -> Any:
        """The list of an array of objects with one axis, the object of one with none."""
        if self._state is None or not self._state[1].is_object or len(self._state[0]) > 1:
            raise _Refused("its pickle is an array of numbers or a table; expected a list of arrays")
        shape, _, _, data = self._state
        return data if shape else data[0]


class _PickledDtype:
    """The dtype of a pickled array: numbers, or object."""

    is_object = False
    numpy: np.dtype | None = None

    def __init__(self, code: object, align: object = False, copy: object = False) -> None:
        code = code.decode("latin1") if isinstance(code, bytes) else code
        if code in ("O", "O4", "O8"):
            self.is_object = True
        elif code in _NUMBERS:
            self.numpy = np.dtype(code)
        else:
            raise _Refused(f"it holds an array of dtype {str(code)[:40]!r}; expected numbers")

    def __setstate__(self, state: object) -> None:
        """A numpy dtype's state; only the byte order, its second item, matters for numbers."""
        order = state[1] if isinstance(state, tuple) and len(state) > 1 else None
        order = order.decode("latin1") if isinstance(order, bytes) else order
        if order not in ("<", ">", "|", "="):
            raise _Refused("it holds an array whose byte order is not known")
        if self.numpy is not None:
            self.numpy = self.numpy.newbyteorder(order)


class _Latin1:
    """``_codecs.encode(text, "latin1")``, with which Python 3 writes bytes for Python 2."""

    def __new__(cls, text: object, encoding: object = None) -> bytes:
        if not isinstance(text, str) or encoding != "latin1":
            raise _Refused("it encodes text otherwise than numpy does")
        return text.encode("latin1")

    def __setstate__(self, state: object) -> None:
        raise _Refused("it sets a state where numpy does not")


_NAMES: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): _TEMPLATE,
    ("numpy", "dtype"): _PickledDtype,
    ("numpy.core.multiarray", "_reconstruct"): PickledArray,
    ("numpy._core.multiarray", "_reconstruct"): PickledArray,
    ("_codecs", "encode"): _Latin1,
}


class _ArrayUnpickler(pickle.Unpickler):
    """Knows numpy's array reconstruction and refuses every other name."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _NAMES:
            raise _Refused(
                f"its pickle asks for {module}.{name}; it may hold numpy arrays alone, do not trust this file"
            )
        return _NAMES[module, name]


# What reading damaged bytes raises: the unpickler takes opcodes as they come, and numpy parses a header as Python.
_DAMAGED = (
    pickle.UnpicklingError,
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)


def _read_member(archive: zipfile.ZipFile, name: str) -> Any:
    size = archive.getinfo(name).file_size
    if size > MOST_BYTES:
        raise ModelError(f"{archive.filename}: {name} has {size} bytes, over {MOST_BYTES}; it is not a network's")
    with archive.open(name) as stream:
        return _read_npy(io.BytesIO(stream.read(size)))


def _read_npy(stream: BinaryIO) -> Any:
    version = np.lib.format.read_magic(stream)
    if version not in _HEADERS:
        raise ValueError(f"version {version} of the format")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numpy says that Python 2 wrote the file, which is no fault
        *_, dtype = _HEADERS[version](stream)
    if not dtype.hasobject:
        stream.seek(0)
        return np.lib.format.read_array(stream, allow_pickle=False)
    array = _ArrayUnpickler(stream, encoding="latin1").load()
    if not isinstance(array, PickledArray):
        raise _Refused(f"its pickle holds a {type(array).__name__}; expected an array")
    return array.objects()
