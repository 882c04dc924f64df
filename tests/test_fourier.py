"""Fourier-space convolution against TensorFlow's direct one, values and gradients."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tf_mrsr import fourier
from tf_mrsr.layers import LargeKernelConv3D


def case(shape, kernel, channels, seed=0):
    rng = np.random.default_rng(seed)
    images = tf.constant(rng.normal(size=(2, *shape, channels[0])), tf.float32)
    taps = tf.constant(rng.normal(size=(kernel, kernel, kernel, *channels)) / kernel**1.5, tf.float32)
    return images, taps


def direct(images, taps, dilation):
    return tf.nn.convolution(images, taps, padding="SAME", dilations=dilation, data_format="NDHWC")


def values_and_gradients(function, images, taps, dilation):
    weights = tf.constant(np.random.default_rng(1).normal(size=(*images.shape[:4], taps.shape[-1])), tf.float32)
    with tf.GradientTape() as tape:
        tape.watch([images, taps])
        result = function(images, taps, dilation)
        total = tf.reduce_sum(result * weights)
    return [result, *tape.gradient(total, [images, taps])]


@settings(max_examples=25)
@given(st.tuples(*[st.integers(1, 13)] * 3), st.sampled_from([3, 5, 9]), st.sampled_from([1, 2, 3]), st.integers(0, 99))
def test_equals_the_direct_convolution(shape, kernel, dilation, seed):
    images, taps = case(shape, kernel, (2, 3), seed)
    ours = values_and_gradients(fourier.convolve_same, images, taps, dilation)
    theirs = values_and_gradients(direct, images, taps, dilation)
    for a, b in zip(ours, theirs, strict=True):
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, atol=1e-5 * max(1, np.abs(b).max()))


def test_an_impulse_becomes_the_kernel_turned_around():
    images = np.zeros((1, 7, 7, 7, 1), np.float32)
    images[0, 3, 3, 3] = 1
    taps = np.arange(27, dtype=np.float32).reshape(3, 3, 3, 1, 1)
    result = fourier.convolve_same(tf.constant(images), tf.constant(taps), 2).numpy()[0, ..., 0]
    np.testing.assert_allclose(result[1:7:2, 1:7:2, 1:7:2], taps[::-1, ::-1, ::-1, 0, 0], atol=1e-5)
    assert np.abs(result[::2]).max() < 1e-5


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_layer_is_a_conv3d(policy):
    keras.utils.set_random_seed(0)
    arguments = {"filters": 3, "kernel_size": 5, "padding": "same", "dilation_rate": 2, "dtype": policy}
    layers = LargeKernelConv3D(**arguments), keras.layers.Conv3D(**arguments)
    images = np.random.default_rng(0).normal(size=(1, 6, 7, 8, 2)).astype(np.float32)
    for layer in layers:
        layer.build(images.shape)
    layers[1].set_weights(layers[0].get_weights())
    layers[0].bias.assign([1, 2, 3])
    layers[1].bias.assign([1, 2, 3])
    ours, theirs = (layer(images) for layer in layers)
    assert ours.dtype == theirs.dtype
    np.testing.assert_allclose(
        tf.cast(ours, tf.float32), tf.cast(theirs, tf.float32), atol=1e-5 if policy == "float32" else 0.1
    )
    assert type(layers[0]).from_config(layers[0].get_config()).dilation_rate == (2, 2, 2)


def test_shapes_that_are_known_only_when_it_runs():
    layer = LargeKernelConv3D(2, 7, padding="same", dilation_rate=2)
    layer.build((None, None, None, None, 1))
    function = tf.function(layer, input_signature=[tf.TensorSpec((None, None, None, None, 1))])
    for shape in [(1, 5, 6, 9, 1), (2, 16, 3, 4, 1)]:
        images = tf.random.stateless_normal(shape, (1, 2))
        np.testing.assert_allclose(
            function(images), direct(images, layer.kernel.value, 2) + layer.bias.value, atol=1e-5
        )
