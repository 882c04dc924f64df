"""The networks against the outputs of the narcomey2018 program."""

import numpy as np
import pytest

from tests import golden
from tf_mrsr import networks
from tf_mrsr.networks import narcomey2018

pytestmark = golden.needs_golden
_MODELS = {"m1": 1, "m2": 3}


def _names(part):
    return sorted(p.name for p in golden.NARCOMEY.glob(f"m?_srgan_{part}_*")) if golden.NARCOMEY.is_dir() else []


def _array(name, file):
    return golden.array(name, file, golden.NARCOMEY)


def _atol(name, mode):
    return golden.suggested_atol(name, mode, golden.NARCOMEY)


@pytest.mark.parametrize("name", _names("g"))
def test_generator(name):
    case = golden.case(name, golden.NARCOMEY)
    model = narcomey2018.generator(_MODELS[name[:2]])
    golden.assign_formula(model, case["variables"], case["weight_pattern"], case["weight_gain"])
    low_res = golden.volume(case["input_shape"])

    inferred = model(low_res, training=False).numpy()
    trained = model(low_res, training=True).numpy()

    np.testing.assert_allclose(inferred, _array(name, "out_infer.npy"), atol=_atol(name, "infer"))
    np.testing.assert_allclose(trained, _array(name, "out_train.npy"), atol=_atol(name, "train"))
    expected = _array(name, "moving_after_train.npy")
    np.testing.assert_allclose(golden.moving_averages(model), expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("name", _names("d"))
def test_discriminator(name):
    """Where deep batch norms see two values per channel, float32 decides nothing: there the network runs in float64."""
    case = golden.case(name, golden.NARCOMEY)
    well_conditioned = golden.conditioning("outputs")[f"narcomey/{name}:train"]["well_conditioned"]
    arguments = {"patch_shape": case["input_shape"][1:3], "in_channels": _MODELS[name[:2]]}
    model = networks.build("narcomey2018", "discriminator", arguments, "float32" if well_conditioned else "float64")
    golden.assign_formula(model, case["variables"], case["weight_pattern"], case["weight_gain"])
    patch = golden.volume(case["input_shape"])

    inferred = model(patch, training=False).numpy()
    trained = model(patch, training=True).numpy()

    np.testing.assert_allclose(inferred, _array(name, "logits_infer.npy"), atol=_atol(name, "infer"))
    np.testing.assert_allclose(trained, _array(name, "logits_train.npy"), atol=_atol(name, "train"))
    # Kept are the averages of layers with 512 channels at most.
    stored = [layer for layer in golden.batch_norms(model) if layer.gamma.shape[0] <= 512]
    averages = np.concatenate([v.numpy() for layer in stored for v in (layer.moving_mean, layer.moving_variance)])
    expected = _array(name, "moving_after_train.npy")
    tolerance = 1e-5 if well_conditioned else 1e-3
    np.testing.assert_allclose(averages, expected, atol=tolerance * np.abs(expected).max())
