"""The networks against section 4 of the report."""

import keras
import numpy as np
import pytest

from tests.networks import check, impulse
from tf_mrsr import networks
from tf_mrsr.errors import RecipeError
from tf_mrsr.networks import narcomey2018
from tf_mrsr.networks.structure import fold_batch_norm, reach, split


def small(out_channels=1):
    return narcomey2018.generator(out_channels, filters=3, num_residual_blocks=2)


def test_generator_is_srresnet_without_enlargement():
    model = narcomey2018.generator()
    block = ["Conv2D", "BatchNormalization", "ReLU", "Conv2D", "BatchNormalization", "Add"]
    kinds = [type(layer).__name__ for layer in model.layers[1:]]
    assert kinds == ["Conv2D", "ReLU", *block * 16, "Conv2D", "BatchNormalization", "Add", "Conv2D"]
    assert {layer.kernel_size for layer in check.convolutions(model)} == {(3, 3)}
    # Biases in the first and last convolution only.
    assert model.count_params() == 10 * 64 + 33 * (9 * 64 * 64 + 4 * 64) + (9 * 64 + 1)


def test_model_2_has_three_channels_out():
    difference = narcomey2018.generator(3).count_params() - narcomey2018.generator(1).count_params()
    assert difference == 2 * (9 * 64 + 1)


@pytest.mark.parametrize("out_channels", [1, 3])
def test_generator_keeps_any_slice_size(out_channels):
    model = small(out_channels)
    for shape in [(5, 7), (4, 1), (16, 3)]:
        assert model(np.ones((2, *shape, 1))).shape == (2, *shape, out_channels)


def test_trunk_ends_at_the_long_skip():
    model = small()
    check.randomize(model)
    trunk, tail = split(model)
    assert [type(layer).__name__ for layer in tail.layers[1:]] == ["Conv2D"]
    image = check.patch(model, (6, 5))
    np.testing.assert_allclose(tail(trunk(image)), model(image), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("out_channels", [1, 3])
def test_reach(out_channels):
    """A pixel to each side for each of the 1 + 2 * 2 + 1 + 1 convolutions."""
    model = small(out_channels)
    assert reach(model).radius == (7, 7)
    assert reach(model).scale == (1, 1)
    assert impulse.measured_radius(model) == (7, 7)
    assert reach(narcomey2018.generator()).radius == (35, 35)


def test_batch_norms_fold_into_convolutions_without_bias():
    model = small(3)
    check.randomize(model)
    folded = fold_batch_norm(model)
    assert not any(isinstance(layer, keras.layers.BatchNormalization) for layer in folded.layers)
    image = check.patch(model, (6, 5))
    np.testing.assert_allclose(folded(image), model(image, training=False), rtol=1e-5, atol=1e-5)


def test_initial_weights():
    model = narcomey2018.generator()
    kernels = np.concatenate([layer.kernel.numpy().ravel() for layer in check.convolutions(model)])
    assert kernels.std() == pytest.approx(0.02, rel=0.01)
    norms = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    gammas = np.concatenate([layer.gamma.numpy() for layer in norms])
    assert gammas.mean() == pytest.approx(1, abs=0.002)
    assert gammas.std() == pytest.approx(0.02, rel=0.1)


def test_discriminator_layers():
    model = narcomey2018.discriminator((70, 64), 3)
    layers = check.convolutions(model)
    assert [layer.filters for layer in layers] == [64, 128, 256, 512, 1024, 2048, 1024, 512, 128, 128, 512]
    assert [layer.kernel_size[0] for layer in layers] == [4] * 6 + [1, 1, 1, 3, 3]
    assert [layer.strides[0] for layer in layers] == [2] * 6 + [1] * 5
    assert [layer.use_bias for layer in layers] == [True] + [False] * 10
    activations = [layer for layer in model.layers if isinstance(layer, keras.layers.LeakyReLU)]
    assert {layer.negative_slope for layer in activations} == {0.2}
    # No activation before the addition, on neither branch.
    assert [t._keras_history.operation.name for t in model.get_layer("residual_add").input] == [
        "point2_bn",
        "residual3_bn",
    ]


@pytest.mark.parametrize(("shape", "features"), [((64, 64), 512), ((128, 96), 2048), ((65, 1), 1024)])
def test_discriminator_takes_any_slice_size(shape, features):
    model = narcomey2018.discriminator(shape)
    assert model.get_layer("logits").kernel.shape == (features, 1)
    assert model(np.ones((2, *shape, 1))).shape == (2, 1)


def test_discriminator_of_the_programs_size():
    assert narcomey2018.discriminator((512, 512)).get_layer("logits").kernel.shape == (32768, 1)


@pytest.mark.parametrize("build", [lambda: small(3), lambda: narcomey2018.discriminator((9, 8))])
def test_serialisation(build):
    check.assert_survives_serialisation(build(), (9, 8))


def test_by_name_and_in_bfloat16():
    arguments = {"out_channels": 3, "filters": 2, "num_residual_blocks": 1}
    model = networks.build("narcomey2018", "generator", arguments, "mixed_bfloat16")
    assert model.get_layer("conv_first").compute_dtype == "bfloat16"
    assert model.output.dtype == "float32"
    assert networks.build("narcomey2018", "discriminator", {"patch_shape": [8, 8]}).output.shape == (None, 1)


@pytest.mark.parametrize(
    ("part", "arguments", "words"),
    [
        ("generator", {"out_channels": 2}, "out_channels must be 1"),
        ("generator", {"filters": 0}, "filters must be 1 or more"),
        ("discriminator", {"patch_shape": [8, 8], "in_channels": 2}, "in_channels must be 1"),
    ],
)
def test_arguments_are_checked(part, arguments, words):
    with pytest.raises(RecipeError, match=words):
        networks.build("narcomey2018", part, arguments)
