"""The networks against the outputs of the sanchez2018 program."""

import numpy as np
import pytest

from tests import golden
from tf_mrsr.networks import sanchez2018
from tf_mrsr.networks.structure import split

pytestmark = golden.needs_golden

UPSAMPLING = {"nn": "resize", "subpixel": "subpixel", "subpixel_NN": "subpixel_nn"}


def _names(prefix):
    return sorted(p.name for p in golden.GOLDEN.glob(f"{prefix}_*")) if golden.GOLDEN.is_dir() else []


def build_generator(case):
    return sanchez2018.generator(
        case["factor"],
        UPSAMPLING[case["mode"]],
        case["feature_size"],
        case["residual_blocks"],
        output_activation="tanh" if case["mode"] == "nn" else None,
    )


@pytest.mark.parametrize("name", _names("gen"))
def test_generator(name):
    case = golden.case(name)
    model = build_generator(case)
    golden.assign_formula(model, case["variables"], case["weight_pattern"], case["weight_gain"])
    low_res = golden.volume(case["input_shape"])

    inferred = model(low_res, training=False).numpy()
    trunk = split(model)[0](low_res, training=False).numpy()
    trained = model(low_res, training=True).numpy()

    np.testing.assert_allclose(inferred, golden.array(name, "out_infer.npy"), atol=golden.suggested_atol(name, "infer"))
    np.testing.assert_allclose(trained, golden.array(name, "out_train.npy"), atol=golden.suggested_atol(name, "train"))
    expected = golden.array(name, "trunk_infer.npy")
    np.testing.assert_allclose(trunk, expected, atol=1e-5 * np.abs(expected).max())
    expected = golden.array(name, "moving_after_train.npy")
    np.testing.assert_allclose(golden.moving_averages(model), expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("name", _names("disc"))
def test_discriminator(name):
    case = golden.case(name)
    model = sanchez2018.discriminator(case["input_shape"][1:4])
    golden.assign_formula(model, case["variables"], case["weight_pattern"], case["weight_gain"])
    patch = golden.volume(case["input_shape"])

    inferred = model(patch, training=False).numpy()
    trained = model(patch, training=True).numpy()

    np.testing.assert_allclose(
        inferred, golden.array(name, "logits_infer.npy"), atol=golden.suggested_atol(name, "infer")
    )
    np.testing.assert_allclose(
        trained, golden.array(name, "logits_train.npy"), atol=golden.suggested_atol(name, "train")
    )
    expected = golden.array(name, "moving_after_train.npy")
    np.testing.assert_allclose(golden.moving_averages(model), expected, atol=1e-5 * np.abs(expected).max())
