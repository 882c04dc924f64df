"""Numbers that the original programs produced, and the formulae of their weights and inputs.

The folder is found through ``TF_MRSR_SHARED`` or beside the checkout; without it the tests that need it are skipped.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import keras
import numpy as np
import pytest

SHARED = Path(os.environ.get("TF_MRSR_SHARED", Path(__file__).parents[2] / "shared"))
FAMILIES = SHARED / "golden"
GOLDEN = FAMILIES / "imatge"
NARCOMEY = FAMILIES / "narcomey"
needs_golden = pytest.mark.skipif(
    not GOLDEN.is_dir(), reason="the original programs' numbers (shared/golden) are not here"
)
needs_scans = pytest.mark.skipif(
    not (SHARED / "data" / "mni").is_dir(), reason="the real scans (shared/data) are not here"
)

_A, _B = 0.7, 0.37


def volume(shape, dtype=np.float32):
    k = np.arange(np.prod(shape), dtype=np.float64)
    return (np.sin(0.05 * k) + 0.3 * np.cos(0.013 * k)).reshape(shape).astype(dtype)


def volume2(shape, dtype=np.float32):
    k = np.arange(np.prod(shape), dtype=np.float64)
    return (0.8 * np.sin(0.031 * k + 0.4) + 0.25 * np.cos(0.017 * k)).reshape(shape).astype(dtype)


def formula_value(index, shape, role, fan_in, pattern, gain):
    k = np.arange(np.prod(shape), dtype=np.int64)
    if pattern == "sine" or not role.endswith("kernel"):
        sine = np.sin(_A * (index + 1) + _B * k)
    if role in ("bias", "beta", "moving_mean"):
        value = 0.1 * sine
    elif role == "gamma":
        value = 1 + 0.1 * sine
    elif role == "moving_variance":
        value = 1 + 0.5 * np.abs(sine)
    elif pattern == "sine":
        value = gain * fan_in**-0.5 * sine
    else:
        # k (k + 1) / 2 modulo the odd number 9973 repeats after 9973 values.
        k = k[:9973]
        phase = 2 * np.pi * ((k * (k + 1) // 2) % 9973) / 9973
        value = np.resize(gain * fan_in**-0.5 * np.sin(_A * (index + 1) + phase), np.prod(shape))
    return value.reshape(shape).astype(np.float32)


def variables_in_program_order(model):
    """Kernel, bias per convolution or dense layer; beta, gamma, moving mean, moving variance per batch norm."""
    ordered = []
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            ordered += [layer.beta, layer.gamma, layer.moving_mean, layer.moving_variance]
        else:
            ordered += layer.weights
    return ordered


def assign_formula(model, specs, pattern, gain):
    ordered = variables_in_program_order(model)
    assert [tuple(v.shape) for v in ordered] == [tuple(s["shape"]) for s in specs]
    for variable, spec in zip(ordered, specs, strict=True):
        variable.assign(formula_value(spec["index"], spec["shape"], spec["role"], spec.get("fan_in"), pattern, gain))


def batch_norms(model):
    return [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]


def moving_averages(model):
    return np.concatenate(
        [v.numpy() for layer in batch_norms(model) for v in (layer.moving_mean, layer.moving_variance)]
    )


def case(name, family=GOLDEN):
    return json.loads((family / name / "case.json").read_text())


def array(name, file, family=GOLDEN):
    return np.load(family / name / file)


def conditioning(kind):
    return json.loads((FAMILIES / "conditioning.json").read_text())[kind]


def suggested_atol(name, mode, family=GOLDEN):
    return conditioning("outputs")[f"{family.name}/{name}:{mode}"]["suggested_atol"]
