"""The networks against section 2.1 of the paper; what is in its figure 1 only, against what the module says."""

import keras
import numpy as np
import pytest

from tests.networks import check, impulse
from tf_mrsr.layers import CubicUpsampling3D
from tf_mrsr.networks import li2017
from tf_mrsr.networks.structure import reach, split


def test_generator_has_seven_layers_with_one_deconvolution():
    layers = check.convolutions(li2017.generator(3))
    assert [type(layer).__name__ for layer in layers] == ["Conv3D"] * 5 + ["Conv3DTranspose", "FewFiltersConv3D"]
    assert [layer.kernel_size for layer in layers] == [(3, 3, 3)] * 7
    assert [layer.filters for layer in layers] == [64] * 6 + [1]
    assert [layer.strides for layer in layers] == [(1, 1, 1)] * 5 + [(1, 1, 3), (1, 1, 1)]


def test_2d_generator_has_twelve_convolutions_and_a_deconvolution():
    layers = check.convolutions(li2017.generator_2d(3))
    assert [type(layer).__name__ for layer in layers] == ["Conv2D"] * 11 + ["Conv2DTranspose", "Conv2D"]
    assert [layer.kernel_size for layer in layers] == [(3, 3)] * 13
    assert [layer.strides for layer in layers] == [(1, 1)] * 11 + [(1, 3), (1, 1)]


def test_weights_start_by_xavier():
    for model in (li2017.generator(2), li2017.generator_2d(2), li2017.discriminator((4, 4, 4))):
        for layer in check.convolutions(model):
            assert isinstance(layer.kernel_initializer, keras.initializers.GlorotUniform)


@pytest.mark.parametrize(
    ("scale_factor", "kernel", "parameters"),
    [
        # first + 4 in pairs + deconvolution + last + 6 batch norms
        (2, (3, 3, 2), (27 + 1) * 64 + 4 * (27 * 64 + 1) * 64 + (18 * 64 + 1) * 64 + 27 * 64 + 1 + 6 * 4 * 64),
        (3, (3, 3, 3), 558_337),
        (5, (3, 3, 5), (27 + 1) * 64 + 4 * (27 * 64 + 1) * 64 + (45 * 64 + 1) * 64 + 27 * 64 + 1 + 6 * 4 * 64),
    ],
)
def test_generator_for_any_factor(scale_factor, kernel, parameters):
    model = li2017.generator(scale_factor)
    deconvolution = model.get_layer("deconv")
    assert (deconvolution.kernel_size, deconvolution.strides) == (kernel, (1, 1, scale_factor))
    assert model.count_params() == parameters


def test_2d_generator_parameters():
    assert li2017.generator_2d(3).count_params() == 640 + 10 * 36_928 + 36_928 + 577 + 12 * 256


@pytest.mark.parametrize("scale_factor", [2, 3, 4, 5])
@pytest.mark.parametrize("architecture", ["3dsrcnn", "2dsrcnn"])
def test_generator_enlarges_z_alone(scale_factor, architecture):
    model = li2017.generator(scale_factor, architecture, filters=2)
    for x, y, z in [(5, 7, 3), (4, 1, 6)]:
        assert model(np.ones((1, x, y, z, 1))).shape == (1, x, y, scale_factor * z, 1)


@pytest.mark.parametrize("scale_factor", [2, 3, 4])
def test_2d_generator_enlarges_z_alone(scale_factor):
    model = li2017.generator_2d(scale_factor, filters=2)
    assert model(np.ones((3, 5, 7, 1))).shape == (3, 5, 7 * scale_factor, 1)


def test_every_thin_slice_sees_the_scan():
    """A deconvolution whose kernel is shorter than its stride would leave slices without any input."""
    model = li2017.generator(7, filters=2)
    check.randomize(model)
    volume = check.patch(model, (3, 3, 4))
    difference = np.abs(model(volume, training=False) - model(0 * volume, training=False)).max(axis=(0, 1, 2, 4))
    assert difference.shape == (28,)
    assert difference.min() > 0


def test_residual_additions_are_between_the_outputs_of_every_two_layers():
    model = li2017.generator(3, filters=2)
    added = [
        [tensor._keras_history.operation.name for tensor in layer.input]
        for layer in model.layers
        if isinstance(layer, keras.layers.Add)
    ]
    assert added == [["pair1_conv2_bn", "conv_first_act"], ["pair2_conv2_bn", "pair1_add"]]


def test_trunk_is_all_that_is_at_low_resolution():
    model = li2017.generator(3, filters=2)
    check.randomize(model)
    trunk, tail = split(model)
    assert [layer.name for layer in tail.layers[1:]] == ["deconv", "deconv_bn", "deconv_act", "conv_last"]
    volume = check.patch(model, (5, 4, 3))
    expected = model(volume, training=False).numpy()
    np.testing.assert_allclose(tail(trunk(volume, training=False), training=False), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("architecture", ["3dsrcnn", "2dsrcnn"])
def test_a_residual_generator_adds_to_the_interpolated_scan(architecture):
    model = li2017.generator(3, architecture, filters=3, residual=True, batch_norm=False)
    assert not any(isinstance(layer, keras.layers.BatchNormalization) for layer in model.layers)
    scan = np.random.default_rng(0).normal(size=(1, 5, 4, 6, 1)).astype(np.float32)
    last = model.get_layer("conv_last")
    last.set_weights([np.zeros(last.kernel.shape), np.full(1, 0.25)])
    interpolated = CubicUpsampling3D((1, 1, 3), centred=True)(scan).numpy()
    np.testing.assert_allclose(model(scan, training=False), interpolated + 0.25, atol=1e-6)
    trunk, tail = split(model)
    np.testing.assert_allclose(tail(trunk(scan)), interpolated + 0.25, atol=1e-6)


def test_2dsrcnn_on_a_volume_is_the_2d_network_slice_by_slice():
    slices, volumes = li2017.generator_2d(3, filters=3), li2017.generator(3, "2dsrcnn", filters=3)
    check.randomize(slices)
    volumes.set_weights([w[:, None] if w.ndim == 4 else w for w in slices.get_weights()])
    volume = check.patch(volumes, (6, 4, 5))
    result = volumes(volume, training=False).numpy()
    for y in range(4):
        expected = slices(volume[:, :, y], training=False)
        np.testing.assert_allclose(result[:, :, y], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("model", "radius"),
    [
        (lambda: li2017.generator(2, filters=2), (7, 7, 6)),
        (lambda: li2017.generator(3, filters=2), (7, 7, 6)),
        (lambda: li2017.generator(5, filters=2), (7, 7, 6)),
        (lambda: li2017.generator(3, "2dsrcnn", filters=2), (13, 0, 12)),
        (lambda: li2017.generator_2d(3, filters=2), (13, 12)),
    ],
)
def test_reach(model, radius):
    model = model()
    assert reach(model).radius == radius
    assert impulse.measured_radius(model) == radius


def test_filters_per_layer():
    model = li2017.generator(3, filters=[4, 5, 4, 6, 4, 7])
    assert [layer.filters for layer in check.convolutions(model)] == [4, 5, 4, 6, 4, 7, 1]


def test_discriminator_is_six_blocks_of_convolution_relu_batch_norm():
    model = li2017.discriminator((15, 15, 9))
    chain = model.layers[1:]
    kinds = [type(layer).__name__ for layer in chain]
    assert kinds == ["Conv3D", "ReLU", "BatchNormalization"] * 6 + ["Flatten"]
    assert all(after.input is before.output for before, after in zip(model.layers, chain, strict=False))
    layers = check.convolutions(model)
    assert [layer.filters for layer in layers] == [64, 64, 128, 128, 256, 1]
    assert [layer.strides[0] for layer in layers] == [1, 2, 1, 2, 1, 1]
    assert [layer.kernel_size for layer in layers] == [(3, 3, 3)] * 5 + [(4, 4, 3)]
    assert {layer.activation for layer in layers} == {keras.activations.linear}
    convolutions = 1_792 + 110_656 + 221_312 + 442_496 + 884_992 + 4 * 4 * 3 * 256 + 1
    assert model.count_params() == convolutions + 4 * (64 + 64 + 128 + 128 + 256 + 1)


def test_discriminator_gives_one_logit_of_either_sign_per_patch():
    keras.utils.set_random_seed(1)  # with one filter and a ReLU at its end, some draws see nothing of the patch
    model = li2017.discriminator((7, 6, 9), filters=(4, 4, 4, 4, 4))
    logits = model(np.random.default_rng(0).normal(size=(8, 7, 6, 9, 1)), training=True).numpy()
    assert logits.shape == (8, 1)
    assert logits.min() < 0 < logits.max()
    # Why real and generated patches have to share a batch.
    assert logits.mean() == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (lambda: li2017.generator(3, filters=2), (4, 5, 3)),
        (lambda: li2017.generator_2d(2, filters=2), (4, 5)),
        (lambda: li2017.discriminator((5, 4, 6), filters=(2, 2, 2, 2, 2)), (5, 4, 6)),
    ],
)
def test_serialisation(model, shape):
    check.assert_survives_serialisation(model(), shape)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: li2017.generator(1), "scale_factor must be 2 or more"),
        (lambda: li2017.generator_2d(0), "scale_factor must be 2 or more"),
        (lambda: li2017.generator(3, "4dsrcnn"), "architecture must be one of 3dsrcnn, 2dsrcnn"),
        (lambda: li2017.generator(3, filters=[4, 4]), "filters must be one number or 6"),
        (lambda: li2017.discriminator((5, 5, 5), (4, 4)), "filters must be 5 numbers"),
    ],
)
def test_arguments_are_checked(build, message):
    with pytest.raises(ValueError, match=message):
        build()
