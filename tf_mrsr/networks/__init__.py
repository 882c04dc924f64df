"""The published networks, one paper per file, and what all of them have in common.

A generator is a functional Keras model from (batch, x, y, z, channel) to the same at the higher resolution, in
narcomey2018 from (batch, x, y, channel). The layer that ends its low-resolution part is named ``structure.TRUNK_END``.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import keras

from tf_mrsr.errors import RecipeError

NAMES = ("li2017", "narcomey2018", "sanchez2017", "sanchez2018", "taloma2020")


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
    builder, known = _builder(network, part), parameters(network, part)
    for name, value in arguments.items():
        if name not in known:
            raise RecipeError(f"network.{part}: {network} has no {name!r}; known are {', '.join(known)}")
        annotation = known[name].annotation
        if annotation == "int" and type(value) is not int:
            raise RecipeError(f"network.{part}.{name} must be a whole number, got {value!r}")
        is_list = isinstance(value, (list, tuple)) and all(type(item) is int for item in value)
        if annotation == "Sequence[int]" and not is_list:
            raise RecipeError(f"network.{part}.{name} must be a list of whole numbers, got {value!r}")
    saved = keras.config.dtype_policy()
    keras.config.set_dtype_policy(precision)
    try:
        return builder(**arguments)
    except (TypeError, ValueError) as error:
        raise RecipeError(f"network.{part}: {error}") from error
    finally:
        keras.config.set_dtype_policy(saved)


def parameters(network: str, part: str) -> Mapping[str, inspect.Parameter]:
    """The parameters of a network's builder by name; raises as ``build``."""
    return inspect.signature(_builder(network, part)).parameters


def _builder(network: str, part: str) -> Callable[..., keras.Model]:
    if network not in NAMES:
        raise RecipeError(f"unknown network {network!r}; known are {', '.join(NAMES)}")
    return getattr(importlib.import_module(f"tf_mrsr.networks.{network}"), part)
