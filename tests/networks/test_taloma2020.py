"""The networks against sections III, VII and VIII of the report."""

import keras
import numpy as np
import pytest

from tests.networks import check, impulse
from tf_mrsr.networks import taloma2020
from tf_mrsr.networks.structure import fold_batch_norm, reach, split

NARROW = (2, 2, 2, 2, 2, 2, 2, 2, 1)


def test_generator_has_the_nine_layers_of_the_report():
    model = taloma2020.generator()
    layers = check.convolutions(model)
    assert [layer.kernel_size for layer in layers] == [(k, k, k) for k in (9, 3, 3, 3, 9, 3, 3, 7, 3)]
    assert [layer.filters for layer in layers] == [32, 32, 32, 64, 64, 64, 32, 32, 1]
    assert [layer.dilation_rate for layer in layers] == [(d, d, d) for d in (1, 2, 2, 2, 2, 2, 2, 2, 1)]
    assert {layer.strides for layer in layers} == {(1, 1, 1)}
    kinds = [type(layer).__name__ for layer in model.layers[1:]]
    assert kinds == ["Conv3D", "BatchNormalization", "LeakyReLU"] * 8 + ["Conv3D"]
    assert layers[-1].activation is keras.activations.linear


@pytest.mark.parametrize(("in_channels", "residual"), [(1, False), (1, True), (2, True)])
def test_generator_parameters(in_channels, residual):
    convolutions = 2 * 27_680 + 55_360 + 2_986_048 + 110_656 + 55_328 + 351_264 + 865
    first = 9**3 * in_channels * 32 + 32
    batch_norms = 4 * (3 * 32 + 3 * 64 + 2 * 32)
    assert taloma2020.generator(in_channels, residual).count_params() == first + convolutions + batch_norms


@pytest.mark.parametrize("in_channels", [1, 2, 3])
@pytest.mark.parametrize("residual", [False, True])
def test_generator_keeps_the_shape(in_channels, residual):
    model = taloma2020.generator(in_channels, residual, NARROW)
    for shape in [(5, 7, 3), (4, 1, 6)]:
        assert model(np.ones((1, *shape, in_channels))).shape == (1, *shape, 1)


def test_residual_adds_the_source_to_the_last_layers_output():
    model = taloma2020.generator(2, residual=True, filters=NARROW)
    volume = check.patch(model, (5, 4, 3))
    model.get_layer("conv9").set_weights([np.zeros((3, 3, 3, 2, 1)), np.full(1, 0.5)])
    np.testing.assert_allclose(model(volume, training=False), volume[..., :1] + 0.5, rtol=1e-6)


def test_all_is_trunk():
    assert split(taloma2020.generator(filters=NARROW)).tail is None


@pytest.mark.parametrize(("in_channels", "residual"), [(1, False), (2, True)])
def test_reach(in_channels, residual):
    """4 + 2 + 2 + 2 + 8 + 2 + 2 + 6 + 1: half a kernel each, twice that where the dilation is 2."""
    model = taloma2020.generator(in_channels, residual, NARROW)
    assert reach(model).radius == (29, 29, 29)
    assert reach(model).scale == (1, 1, 1)
    assert impulse.measured_radius(model) == (29, 29, 29)


def test_batch_norms_fold_into_dilated_convolutions():
    model = taloma2020.generator(2, residual=True, filters=NARROW)
    check.randomize(model)
    folded = fold_batch_norm(model)
    assert not any(isinstance(layer, keras.layers.BatchNormalization) for layer in folded.layers)
    volume = check.patch(model, (6, 5, 4))
    expected = model(volume, training=False).numpy()
    np.testing.assert_allclose(folded(volume, training=False), expected, rtol=1e-5, atol=1e-5)


def test_discriminator_is_three_stages_a_convolution_and_three_dense_layers():
    model = taloma2020.discriminator((32, 32, 32))
    stage = ["Conv3D", "BatchNormalization", "LeakyReLU", "MaxPooling3D"]
    dense = ["Flatten", "Dense", "LeakyReLU", "Dense", "LeakyReLU", "Dense"]
    assert [type(layer).__name__ for layer in model.layers[1:]] == [*stage * 3, "Conv3D", *dense]
    layers = check.convolutions(model)
    assert [layer.filters for layer in layers] == [32, 64, 128, 256]
    assert [layer.kernel_size for layer in layers] == [(3, 3, 3)] * 4
    assert [layer.units for layer in model.layers if isinstance(layer, keras.layers.Dense)] == [512, 128, 1]
    convolutions = (27 * 2 + 1) * 32 + 55_360 + 221_312 + 884_992
    dense = (4**3 * 256 + 1) * 512 + (512 + 1) * 128 + 129
    assert model.count_params() == convolutions + 4 * (32 + 64 + 128) + dense


def test_discriminator_looks_at_source_and_target():
    model = taloma2020.discriminator((9, 8, 11))
    check.randomize(model)
    pair = check.patch(model, (9, 8, 11))
    logits = model(pair, training=False).numpy()
    assert logits.shape == (2, 1)
    for channel in (0, 1):
        other = pair.copy()
        other[..., channel] = 0
        assert np.abs(model(other, training=False) - logits).min() > 1e-4


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (lambda: taloma2020.generator(2, residual=True, filters=NARROW), (4, 5, 3)),
        (lambda: taloma2020.discriminator((8, 8, 8)), (8, 8, 8)),
    ],
)
def test_serialisation(model, shape):
    check.assert_survives_serialisation(model(), shape)


@pytest.mark.parametrize("filters", [(2, 2, 1), (2, 2, 2, 2, 2, 2, 2, 2, 2)])
def test_filters_are_checked(filters):
    with pytest.raises(ValueError, match="filters must be 9 numbers, the last 1"):
        taloma2020.generator(filters=filters)
