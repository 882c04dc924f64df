"""The published networks, one paper per file, and what all of them have in common.

A generator is a functional Keras model from (batch, x, y, z, channel) to the same at the higher resolution, in
narcomey2018 from (batch, x, y, channel). The layer that ends its low-resolution part is named ``structure.TRUNK_END``.
"""

from __future__ import annotations

import importlib
import inspect
import re
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras

from tf_mrsr.errors import RecipeError

NAMES = ("li2017", "narcomey2018", "sanchez2017", "sanchez2018", "taloma2020")

_WORDS = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "a text",
    types.NoneType: "null",
    Sequence[int]: "a list of whole numbers",
}
_ANSI = re.compile(r"\x1b\[[0-9;]*m")


def build(network: str, part: str, arguments: Mapping[str, Any], precision: str = "float32") -> keras.Model:
    """A network by name, as recipes give it.

    Args:
        network: a module of this package.
        part: "generator" or "discriminator".
        arguments: those of the module's builder.
        precision: "float32", or "mixed_bfloat16" for bfloat16 layers with float32 weights.

    Raises:
        RecipeError: if there is no such network or the arguments do not fit it.
    """
    check(network, part, arguments)
    saved = keras.config.dtype_policy()
    keras.config.set_dtype_policy(precision)
    try:
        return _builder(network, part)(**arguments)
    except (TypeError, ValueError) as error:
        raise RecipeError(f"network.{part}: {_reason(error)}") from error
    finally:
        keras.config.set_dtype_policy(saved)


def check(network: str, part: str, arguments: Mapping[str, Any]) -> None:
    """Compares names and types of a builder's arguments, as for ``build``, with its parameters.

    Raises:
        RecipeError: if there is no such network, or an argument is unknown or of another type.
    """
    hints = typing.get_type_hints(_builder(network, part))
    known = parameters(network, part)
    for name, value in arguments.items():
        if name not in known:
            raise RecipeError(f"network.{part}: {network} has no {name!r}; known are {', '.join(known)}")
        kinds = _alternatives(hints.get(name))
        if not set(kinds) <= set(_WORDS):
            continue  # a builder of the user's own, without annotations or with others
        if not any(_is_of(kind, value) for kind in kinds):
            expected = " or ".join(_WORDS[kind] for kind in kinds)
            raise RecipeError(f"network.{part}.{name} must be {expected}, got {value!r}")


def parameters(network: str, part: str) -> Mapping[str, inspect.Parameter]:
    """The parameters of a network's builder by name; raises as ``build``."""
    return inspect.signature(_builder(network, part)).parameters


def _builder(network: str, part: str) -> Callable[..., keras.Model]:
    if network not in NAMES:
        raise RecipeError(f"unknown network {network!r}; known are {', '.join(NAMES)}")
    builder = getattr(importlib.import_module(f"tf_mrsr.networks.{network}"), part, None)
    if builder is None:
        raise RecipeError(f"{network} has no {part}: its module in tf_mrsr/networks needs a function of that name")
    return builder


def _reason(error: Exception) -> str:
    """The line of an error of Keras that says why, without colours."""
    lines = [line.strip() for line in _ANSI.sub("", str(error)).splitlines()]
    telling = [line for line in lines if line and not line.startswith("Exception encountered when calling")]
    return telling[0] if telling else "the arguments do not fit"


def _alternatives(kind: Any) -> Sequence[Any]:
    return typing.get_args(kind) if typing.get_origin(kind) in (types.UnionType, typing.Union) else (kind,)


def _is_of(kind: Any, value: Any) -> bool:
    """Whether ``value``, as YAML gives it, is of one of the ``_WORDS``; a bool is no int."""
    if typing.get_origin(kind) is Sequence:
        (inner,) = typing.get_args(kind)
        return isinstance(value, (list, tuple)) and all(type(item) is inner for item in value)
    return type(value) in ((int, float) if kind is float else (kind,))
