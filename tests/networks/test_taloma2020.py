"""The networks against sections III, VII and VIII of the report."""

import keras
import numpy as np
import pytest

from tests.networks import check, impulse
from tf_mrsr.networks import taloma2020
from tf_mrsr.networks.structure import fold_batch_norm, reach, split, stage, stage_count, up_to_stage

NARROW = (2, 2, 2, 2, 2, 2, 2, 2, 1)


def test_generator_has_the_nine_layers_of_the_report():
    model = taloma2020.generator()
    layers = check.convolutions(model)
    assert [layer.kernel_size for layer in layers] == [(k, k, k) for k in (9, 3, 3, 3, 9, 3, 3, 7, 3)]
    assert [layer.filters for layer in layers] == [32, 32, 32, 64, 64, 64, 32, 32, 1]
    assert [layer.dilation_rate for layer in layers] == [(d, d, d) for d in (1, 2, 2, 2, 2, 2, 2, 2, 1)]
    assert {layer.strides for layer in layers} == {(1, 1, 1)}
    kinds = [type(layer).__name__.replace("LargeKernel", "") for layer in model.layers[1:]]
    assert kinds == ["Conv3D", "BatchNormalization", "LeakyReLU"] * 8 + ["Conv3D"]
    assert layers[-1].activation is keras.activations.linear


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("stages", [1, 2, 3])
def test_generator_parameters(stages, residual):
    convolutions = 2 * 27_680 + 55_360 + 2_986_048 + 110_656 + 55_328 + 351_264 + 865
    batch_norms = 4 * (3 * 32 + 3 * 64 + 2 * 32)
    first = 9**3 * 32 + 32
    others = (stages - 1) * (9**3 * 2 * 32 + 32)
    expected = first + others + stages * (convolutions + batch_norms)
    assert taloma2020.generator(residual, stages).count_params() == expected


@pytest.mark.parametrize("stages", [1, 2])
@pytest.mark.parametrize("residual", [False, True])
def test_generator_keeps_the_shape(stages, residual):
    model = taloma2020.generator(residual, stages, NARROW)
    for shape in [(5, 7, 3), (4, 1, 6)]:
        assert model(np.ones((1, *shape, 1))).shape == (1, *shape, 1)


def test_residual_adds_the_source_to_the_last_layers_output():
    model = taloma2020.generator(residual=True, stages=2, filters=NARROW)
    volume = check.patch(model, (5, 4, 3))
    model.get_layer("stage2_conv9").set_weights([np.zeros((3, 3, 3, 2, 1)), np.full(1, 0.5)])
    np.testing.assert_allclose(model(volume, training=False), volume + 0.5, rtol=1e-6)


def test_every_stage_takes_the_source_and_the_output_of_the_one_before():
    model = taloma2020.generator(residual=True, stages=3, filters=NARROW)
    check.randomize(model)
    volume = check.patch(model, (6, 5, 4))
    assert stage_count(model) == 3
    first, second, third = (stage(model, number) for number in (1, 2, 3))
    assert first.context is None
    output = first.network(volume, training=False)
    np.testing.assert_allclose(output, up_to_stage(model, 1)(volume, training=False), rtol=1e-6)
    for part in (second, third):
        joined = np.concatenate([volume, output], axis=-1)
        np.testing.assert_allclose(part.context(volume, training=False), joined, rtol=1e-5, atol=1e-5)
        output = part.network(joined, training=False)
    np.testing.assert_allclose(output, model(volume, training=False), rtol=1e-5, atol=1e-5)
    weights = [{id(v) for v in part.network.weights} for part in (first, second, third)]
    assert not weights[0] & weights[1]
    assert len(set.union(*weights)) == len(model.weights)


def test_all_is_trunk():
    assert len(split(taloma2020.generator(filters=NARROW))) == 1


@pytest.mark.parametrize("residual", [False, True])
def test_reach(residual, monkeypatch):
    """4 + 2 + 2 + 2 + 8 + 2 + 2 + 6 + 1: half a kernel each, twice that where the dilation is 2."""
    # Rounding in Fourier space reaches everywhere; an impulse is followed through direct convolutions.
    monkeypatch.setattr(taloma2020, "LARGE_KERNEL", 10)
    model = taloma2020.generator(residual, filters=NARROW)
    assert reach(model).radius == (29, 29, 29)
    assert reach(model).scale == (1, 1, 1)
    assert impulse.measured_radius(model) == (29, 29, 29)


def test_stages_add_their_reach():
    assert reach(taloma2020.generator(stages=2, filters=NARROW)).radius == (58, 58, 58)


def test_large_kernels_in_fourier_space_change_nothing(monkeypatch):
    models = [taloma2020.generator(residual=True, filters=NARROW)]
    monkeypatch.setattr(taloma2020, "LARGE_KERNEL", 10)
    models.append(taloma2020.generator(residual=True, filters=NARROW))
    for model in models:
        check.randomize(model)
    assert reach(models[0]) == reach(models[1])
    volume = check.patch(models[0], (9, 12, 7))
    ours, direct = (model(volume, training=False).numpy() for model in models)
    np.testing.assert_allclose(ours, direct, atol=1e-5 * np.abs(direct).max())


def test_batch_norms_fold_into_dilated_convolutions():
    model = taloma2020.generator(residual=True, stages=2, filters=NARROW)
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
        (lambda: taloma2020.generator(residual=True, stages=2, filters=NARROW), (4, 5, 3)),
        (lambda: taloma2020.discriminator((8, 8, 8)), (8, 8, 8)),
    ],
)
def test_serialisation(model, shape):
    check.assert_survives_serialisation(model(), shape)


@pytest.mark.parametrize("filters", [(2, 2, 1), (2, 2, 2, 2, 2, 2, 2, 2, 2)])
def test_filters_are_checked(filters):
    with pytest.raises(ValueError, match="filters must be 9 numbers, the last 1"):
        taloma2020.generator(filters=filters)
