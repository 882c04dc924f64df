"""The networks against the outputs of the sanchez2018 program."""

import numpy as np
import pytest

from tests import golden
from tf_mrsr import networks
from tf_mrsr.networks.structure import split

pytestmark = golden.needs_golden

UPSAMPLING = {"nn": "resize", "subpixel": "subpixel", "subpixel_NN": "subpixel_nn"}


def _names(prefix):
    return sorted(p.name for p in golden.GOLDEN.glob(f"{prefix}_*")) if golden.GOLDEN.is_dir() else []


def build_generator(case, precision="float32"):
    arguments = {
        "scale_factor": case["factor"],
        "upsampling": UPSAMPLING[case["mode"]],
        "filters": case["feature_size"],
        "num_residual_blocks": case["residual_blocks"],
        "output_activation": "tanh" if case["mode"] == "nn" else None,
    }
    return networks.build("sanchez2018", "generator", arguments, precision)


def precision(case):
    """Sines nearly cancel out in a stack of convolutions, so that the processor's rounding would decide in float32."""
    return {"chirp": "float32", "sine": "float64"}[case["weight_pattern"]]


@pytest.mark.parametrize("name", _names("gen"))
def test_generator(name):
    case = golden.case(name)
    model = build_generator(case, precision(case))
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
    arguments = {"patch_shape": case["input_shape"][1:4]}
    model = networks.build("sanchez2018", "discriminator", arguments, precision(case))
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
