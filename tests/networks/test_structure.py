"""Reach against impulses, and folded networks against the networks they come from."""

import keras
import numpy as np
import pytest
from keras import layers

from tests.networks import check, impulse
from tf_mrsr.layers import CubicUpsampling3D, TakeChannel
from tf_mrsr.networks import li2017, sanchez2018
from tf_mrsr.networks.structure import TRUNK_END, fold_batch_norm, reach, split


def through(*stack, channels=1):
    low_res = x = keras.Input((None, None, None, channels))
    for layer in stack:
        x = layer(x)
    return keras.Model(low_res, x)


@pytest.mark.parametrize(
    ("kernel", "stride", "radius"),
    [
        (2, 2, 0),
        (3, 3, 0),
        (4, 2, 1),
        (5, 2, 1),
        (3, 2, 1),
        (6, 2, 1),
        (9, 3, 1),
        (6, 3, 1),
        (8, 3, 1),
        (7, 1, 3),
        (4, 1, 2),
    ],
)
def test_reach_of_a_deconvolution_along_z(kernel, stride, radius):
    size, strides = (3, 1, kernel), (1, 1, stride)
    model = through(layers.Conv3DTranspose(1, size, strides=strides, padding="same"))
    claimed = reach(model)
    assert claimed.scale == (1, 1, stride)
    assert impulse.measured_radius(model) == (1, 0, radius)
    # What lies between two voxels is rounded outwards.
    assert claimed.radius[:2] == (1, 0)
    assert radius <= claimed.radius[2] <= radius + 1


@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("factor", [1, 2, 3, 4])
def test_reach_of_cubic_upsampling(factor, centred):
    image = keras.Input((None, None, None, 1))
    model = keras.Model(image, CubicUpsampling3D((1, factor, 1), centred)(image))
    measured = impulse.measured_radius(model)[1]
    claimed = reach(model)
    assert claimed.scale == (1, factor, 1)
    assert claimed.radius[::2] == (0, 0)
    assert measured <= claimed.radius[1] <= measured + 1


def test_reach_behind_convolutions_that_look_ahead():
    """A kernel of two voxels sees the next one: 2 ahead, and another one from the deconvolution."""
    ahead = [layers.Conv3D(1, (1, 1, 2), padding="same") for _ in range(2)]
    model = through(*ahead, layers.Conv3DTranspose(1, (1, 1, 6), strides=(1, 1, 2), padding="same"))
    assert reach(model).radius == (0, 0, 3)
    assert impulse.measured_radius(model) == (0, 0, 3)


@pytest.mark.parametrize(("kernel", "dilation", "radius"), [(3, 2, 2), (9, 2, 8), (4, 3, 5), (5, 1, 2)])
def test_reach_of_a_dilated_convolution(kernel, dilation, radius):
    model = through(layers.Conv3D(1, (1, kernel, 1), dilation_rate=(1, dilation, 1), padding="same"))
    assert reach(model).radius == (0, radius, 0)
    assert impulse.measured_radius(model) == (0, radius, 0)


def test_reach_through_one_channel():
    model = through(TakeChannel(1), layers.Conv3D(1, 3, padding="same"), channels=3)
    assert reach(model).radius == (1, 1, 1)
    assert impulse.measured_radius(model) == (1, 1, 1)


def test_layers_that_are_used_several_times_are_refused():
    """Folding a norm into one use would change the others."""
    x = low_res = keras.Input((None, None, None, 1))
    convolution = keras.layers.Conv3D(1, 3, padding="same", name="again")
    for _ in range(2):
        x = convolution(x)
    with pytest.raises(TypeError, match="layer again is used several times"):
        reach(keras.Model(low_res, x))


def test_reach_is_not_guessed():
    with pytest.raises(TypeError, match="reach of a MaxPooling3D is not known"):
        reach(through(layers.MaxPooling3D(2)))


def test_layers_that_shrink_a_volume_are_refused():
    with pytest.raises(TypeError, match="needs padding 'same', got 'valid'"):
        reach(through(layers.Conv3D(1, 3, padding="valid")))


def test_one_channel_of_several():
    volume = np.arange(24.0).reshape(2, 2, 1, 2, 3)
    np.testing.assert_array_equal(TakeChannel(2)(volume), volume[..., 2:])
    with pytest.raises(ValueError, match="no channel 3 among 3"):
        through(TakeChannel(3), channels=3)


@pytest.mark.parametrize("build", [lambda: li2017.generator(3, filters=3), lambda: li2017.generator_2d(2, filters=3)])
def test_batch_norms_fold_into_convolutions_and_deconvolutions(build):
    model = build()
    check.randomize(model)
    folded = fold_batch_norm(model)
    assert not any(isinstance(layer, layers.BatchNormalization) for layer in folded.layers)
    volume = check.patch(model, (6, 5, 4)[: len(model.input.shape) - 2])
    expected = model(volume, training=False).numpy()
    np.testing.assert_allclose(folded(volume, training=False), expected, rtol=1e-5, atol=1e-5)


def test_a_model_that_was_split_still_folds():
    model = li2017.generator(3, filters=2)
    check.randomize(model)
    split(model)
    folded = fold_batch_norm(model)
    assert not any(isinstance(layer, layers.BatchNormalization) for layer in folded.layers)


def test_batch_norm_behind_an_activation_is_kept():
    model = through(layers.Conv3D(2, 3, padding="same"), layers.ReLU(), layers.BatchNormalization(), layers.Flatten())
    model = keras.Model(model.input, model.layers[-2].output)
    check.randomize(model)
    folded = fold_batch_norm(model)
    assert [type(layer) for layer in folded.layers] == [type(layer) for layer in model.layers]
    volume = check.patch(model, (4, 3, 5))
    np.testing.assert_allclose(folded(volume, training=False), model(volume, training=False), rtol=1e-5, atol=1e-6)


def test_convolution_that_two_layers_read_keeps_its_batch_norm():
    low_res = keras.Input((None, None, None, 1))
    x = layers.Conv3D(2, 3, padding="same")(low_res)
    model = keras.Model(low_res, layers.Add()([x, layers.BatchNormalization()(x)]))
    check.randomize(model)
    volume = check.patch(model, (4, 3, 5))
    expected = model(volume, training=False).numpy()
    np.testing.assert_allclose(fold_batch_norm(model)(volume, training=False), expected, rtol=1e-5, atol=1e-6)


def test_a_skip_past_the_trunk_is_refused():
    scan = keras.Input((None, None, None, 1))
    trunk = layers.Conv3D(1, 3, padding="same", name=TRUNK_END)(scan)
    with pytest.raises(TypeError, match="passes by layer trunk_end"):
        split(keras.Model(scan, layers.Add()([layers.ReLU()(trunk), scan])))


@pytest.mark.parametrize("scale_factor", [2, 4])
def test_a_residual_generator_adds_to_the_interpolated_scan(scale_factor):
    model = sanchez2018.generator(scale_factor, filters=4, num_residual_blocks=1, residual=True)
    scan = np.random.default_rng(0).normal(size=(1, 6, 5, 4, 1)).astype(np.float32)
    model.get_layer("conv_last").set_weights([np.zeros((3, 3, 3, 64, 1)), np.full(1, 0.25)])
    interpolated = CubicUpsampling3D((scale_factor,) * 3)(scan).numpy()
    np.testing.assert_allclose(model(scan, training=False), interpolated + 0.25, atol=1e-6)
    trunk, tail = split(model)  # the interpolation leads past all enlargements
    np.testing.assert_allclose(tail(trunk(scan)), interpolated + 0.25, atol=1e-6)


@pytest.mark.parametrize("upsampling", sanchez2018.UPSAMPLINGS)
def test_each_enlargement_is_a_part(upsampling):
    model = sanchez2018.generator(4, upsampling, filters=4, num_residual_blocks=1)
    check.randomize(model)
    parts = split(model)
    assert [reach(part).scale for part in parts] == [(1, 1, 1), (2, 2, 2), (2, 2, 2)]
    x = scan = np.random.default_rng(0).normal(size=(1, 6, 5, 4, 1)).astype(np.float32)
    for part in parts:
        x = part(x)
    np.testing.assert_allclose(x, model(scan), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("batch_norm", "scales"), [(False, True), (True, False)])
def test_without_batch_norms_what_comes_out_scales_with_what_goes_in(batch_norm, scales):
    model = sanchez2018.generator(2, filters=4, num_residual_blocks=1, batch_norm=batch_norm)
    scan = np.random.default_rng(0).normal(size=(1, 6, 5, 4, 1)).astype(np.float32)
    once, twice = (model(factor * scan, training=True).numpy() for factor in (1, 2))
    assert np.allclose(twice, 2 * once, rtol=1e-4, atol=1e-7) == scales
