"""What all converters share: names of variables, and giving tensors to a model or saying why not."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import keras
import numpy as np

from tf_mrsr.errors import ModelError

_MOST_LISTED = 20


def translate(table: Mapping[str, str], layer: str) -> str:
    """A layer's name in another program.

    Args:
        table: patterns of our names, whole, to theirs. What a pattern captures as ``n`` and ``i`` stands for ``{n}``
            and ``{i}`` in theirs, and ``{before}`` for n - 1, since the programs count blocks from 0.
        layer: our name.

    Raises:
        KeyError: if no pattern fits.
    """
    for pattern, theirs in table.items():
        match = re.fullmatch(pattern, layer)
        if match:
            numbers = match.groupdict()
            return theirs.format(**numbers, before=int(numbers.get("n", 0)) - 1)
    raise KeyError(layer)


def assign(model: keras.Model, names: Mapping[str, str], tensors: Mapping[str, np.ndarray], source: Path) -> None:
    """Gives the tensors to the model's variables; all or none.

    Args:
        model: the model.
        names: the path of every variable ("conv_first/kernel") to the tensor's name.
        tensors: by name, with our order of axes.
        source: file that they come from, for messages.

    Raises:
        ModelError: if tensors are missing, left over, of another shape, or not finite; it lists them.
    """
    variables = {variable.path: variable for variable in model.weights}
    faults = [f"{theirs} is missing" for theirs in names.values() if theirs not in tensors]
    faults += [f"{name} is left over" for name in tensors if name not in names.values()]
    for ours, theirs in names.items():
        if theirs not in tensors:
            continue
        tensor, shape = tensors[theirs], tuple(variables[ours].shape)
        if tensor.shape != shape:
            faults.append(f"{theirs} is {tensor.shape} instead of {shape}")
        elif not np.all(np.isfinite(tensor)):
            faults.append(f"{theirs} has NaN or infinite values")
    if faults:
        listed = "; ".join(faults[:_MOST_LISTED])
        more = f"; and {len(faults) - _MOST_LISTED} more" if len(faults) > _MOST_LISTED else ""
        raise ModelError(f"{source}: not the weights of this network: {listed}{more}; choose the recipe that fits them")
    for ours, theirs in names.items():
        variables[ours].assign(tensors[theirs])
