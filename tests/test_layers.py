import keras
import numpy as np
import pytest
import tensorflow as tf

from tests import golden
from tf_mrsr.layers import (
    CubicUpsampling3D,
    FewFiltersConv3D,
    LargeKernelConv3D,
    NearestConv3D,
    PixelShuffle3D,
    ResizeFromCorner2D,
    SubpixelNNInitializer,
)


@golden.needs_golden
@pytest.mark.parametrize("shape", [(1, 2, 3, 2, 64), (2, 3, 2, 4, 64)])
def test_pixel_shuffle_has_the_programs_channel_order(shape):
    numbers = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    expected = np.load(golden.GOLDEN / "data" / f"subpixel_{'x'.join(map(str, shape))}.npy")
    np.testing.assert_array_equal(PixelShuffle3D()(numbers), expected)


def test_pixel_shuffle_by_hand():
    """Channel 4 hy + 2 hx + hz of one voxel goes to voxel (hx, hy, hz)."""
    shuffled = PixelShuffle3D()(np.arange(8, dtype=np.float32).reshape(1, 1, 1, 1, 8)).numpy()[0, ..., 0]
    for hx in (0, 1):
        for hy in (0, 1):
            for hz in (0, 1):
                assert shuffled[hx, hy, hz] == 4 * hy + 2 * hx + hz


def test_pixel_shuffle_along_one_axis():
    shuffled = PixelShuffle3D((1, 1, 3))(np.arange(12, dtype=np.float32).reshape(1, 1, 1, 2, 6)).numpy()
    assert shuffled.shape == (1, 1, 1, 6, 2)
    np.testing.assert_array_equal(shuffled[0, 0, 0, :, 0], [0, 2, 4, 6, 8, 10])


def test_pixel_shuffle_refuses_channels_that_do_not_divide():
    with pytest.raises(ValueError, match="shuffled"):
        PixelShuffle3D()(keras.Input((None, None, None, 12)))


@pytest.mark.parametrize("strides", [(2, 2, 2), (1, 1, 3), (1, 2, 4)])
def test_fresh_deconvolution_is_a_small_convolution_then_nearest_neighbour(strides):
    kernel_size = tuple(3 * s for s in strides)
    deconvolution = keras.layers.Conv3DTranspose(
        5,
        kernel_size,
        strides,
        padding="same",
        kernel_initializer=SubpixelNNInitializer(strides, seed=1),
        use_bias=False,
    )
    image = np.random.default_rng(0).normal(size=(1, 6, 5, 7, 2)).astype(np.float32)
    output = deconvolution(image).numpy()

    taps = deconvolution.kernel.numpy()[:: strides[0], :: strides[1], :: strides[2]]  # one of each repeated tap
    # A transposed convolution correlates with the kernel turned around.
    small = np.transpose(taps[::-1, ::-1, ::-1], (0, 1, 2, 4, 3))
    low = tf.nn.conv3d(image, small, (1, 1, 1, 1, 1), "SAME").numpy()
    nearest = low.repeat(strides[0], 1).repeat(strides[1], 2).repeat(strides[2], 3)
    np.testing.assert_allclose(output, nearest, atol=1e-6)


def test_cubic_upsampling_by_hand():
    """Halfway between voxels the weights are -1/16, 9/16, 9/16, -1/16; cubic convolution is exact for parabolas."""
    row = np.array([0, 1, 4, 9, 16, 25], np.float32).reshape(1, 6, 1, 1, 1)
    fine = CubicUpsampling3D((2, 1, 1))(row).numpy().ravel()
    np.testing.assert_array_equal(fine[::2], row.ravel())  # input voxels stay
    np.testing.assert_allclose(fine[3:8:2], [2.25, 6.25, 12.25])
    assert fine[1] == pytest.approx((-0 + 9 * 0 + 9 * 1 - 4) / 16)  # mirrored: the voxel before the first is the first
    assert fine[9] == pytest.approx((-9 + 9 * 16 + 9 * 25 - 25) / 16)


def test_cubic_upsampling_is_separable_and_keeps_lines():
    x, y, z = np.meshgrid(*(np.arange(n, dtype=np.float32) for n in (7, 6, 8)), indexing="ij")
    plane = (2 * x - y + 3 * z)[None, ..., None]
    fine = CubicUpsampling3D((4, 2, 3))(plane).numpy()[0, ..., 0]
    assert fine.shape == (28, 12, 24)
    x, y, z = np.meshgrid(np.arange(28) / 4, np.arange(12) / 2, np.arange(24) / 3, indexing="ij")
    inner = np.s_[4:20, 2:8, 3:18]  # away from the mirrored borders
    np.testing.assert_allclose(fine[inner], (2 * x - y + 3 * z)[inner], atol=1e-5)


def test_centred_cubic_upsampling_by_hand():
    """Twice as many: output voxels lie a quarter before and behind the input voxel's place."""
    row = np.array([0, 1, 4, 9, 16, 25], np.float32).reshape(1, 1, 1, 6, 1)
    fine = CubicUpsampling3D((1, 1, 2), centred=True)(row).numpy().ravel()
    np.testing.assert_allclose(fine[4:8], [1.75**2, 2.25**2, 2.75**2, 3.25**2])  # exact for parabolas
    # Keys' weights at distances 7/4, 3/4, 1/4, 5/4 are -3, 29, 111, -9 in 128ths; the mirrored row begins 1, 0, 0, 1.
    assert fine[0] == pytest.approx((-3 * 1 + 29 * 0 + 111 * 0 - 9 * 1) / 128)
    assert fine[11] == pytest.approx((-3 * 16 + 29 * 25 + 111 * 25 - 9 * 16) / 128)


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_centred_cubic_upsampling_turns_with_the_volume(factor):
    """What is in the middle stays there when the slices come in the other order."""
    volume = np.random.default_rng(0).normal(size=(1, 3, 2, 7, 2)).astype(np.float32)
    enlarge = CubicUpsampling3D((1, 1, factor), centred=True)
    np.testing.assert_allclose(enlarge(volume[:, :, :, ::-1])[:, :, :, ::-1], enlarge(volume), atol=1e-6)
    if factor % 2:
        np.testing.assert_array_equal(enlarge(volume)[:, :, :, factor // 2 :: factor], volume)


def test_initializer_spreads_and_refuses():
    kernel = SubpixelNNInitializer((2, 2, 2), stddev=0.02, seed=3)((6, 6, 6, 16, 16)).numpy()
    assert kernel.std() == pytest.approx(0.02, rel=0.05)
    with pytest.raises(ValueError, match="multiple"):
        SubpixelNNInitializer((2, 2, 2))((5, 6, 6, 1, 1))


def test_serialisation():
    layer = PixelShuffle3D.from_config(PixelShuffle3D((1, 2, 3)).get_config())
    assert layer.factors == (1, 2, 3)
    initializer = SubpixelNNInitializer((1, 1, 3), 0.1, 5)
    copy = SubpixelNNInitializer.from_config(initializer.get_config())
    np.testing.assert_array_equal(copy((3, 3, 9, 1, 1)), initializer((3, 3, 9, 1, 1)))


def test_resizing_from_the_corner_by_hand():
    """Output i lies at input 2 i / 3; what lies behind the last pixel has its value."""
    image = np.array([[0, 6], [12, 18]], np.float32)[None, :, :, None]
    resized = ResizeFromCorner2D((3, 3))(image).numpy()[0, ..., 0]
    np.testing.assert_allclose(resized, [[0, 4, 6], [8, 12, 14], [12, 16, 18]], rtol=1e-6)


def test_resizing_keeps_the_policys_type_and_takes_any_size():
    image = keras.Input((None, None, 3))
    layer = ResizeFromCorner2D((5, 7), dtype="mixed_bfloat16")
    model = keras.Model(image, layer(image))
    assert model.output.shape == (None, 5, 7, 3)
    assert model(np.ones((2, 9, 4, 3))).dtype == tf.bfloat16
    assert ResizeFromCorner2D.from_config(layer.get_config()).size == (5, 7)


@golden.needs_golden
@pytest.mark.parametrize("name", ["resize_1x512x512x1", "resize_1x64x64x3", "resize_1x150x230x1"])
def test_resizing_of_the_narcomey2018_program(name):
    image = golden.volume([int(n) for n in name.removeprefix("resize_").split("x")])
    expected = golden.array("vgg", f"{name}.npy", golden.NARCOMEY)
    np.testing.assert_allclose(ResizeFromCorner2D((224, 224))(image)[:, ::4, ::4], expected, atol=1e-5)


def _results(function, image, weights):
    """Output, and the gradients of image and weights."""
    with tf.GradientTape() as tape:
        tape.watch(image)
        output = function(image)
        loss = tf.reduce_sum(tf.sin(output))
    return [output, *tape.gradient(loss, [image, *weights])]


def _assert_same(ours, theirs):
    for our, their in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(our, their, atol=1e-5 * np.abs(their).max())


@pytest.mark.parametrize("kernel", [(3, 3, 3), (3, 1, 3), (5, 3, 1), (1, 1, 1)])
@pytest.mark.parametrize("filters", [1, 2])
@pytest.mark.parametrize("on_cpu", [True, False])
def test_few_filters_convolve_as_keras_does(kernel, filters, on_cpu, monkeypatch):
    monkeypatch.setattr("tf_mrsr.layers._on_cpu", lambda: on_cpu)
    image = tf.random.stateless_normal((2, 6, 5, 7, 3), (1, 2))
    arguments = {"padding": "same", "activation": "tanh", "bias_initializer": "random_normal"}
    ours, theirs = FewFiltersConv3D(filters, kernel, **arguments), keras.layers.Conv3D(filters, kernel, **arguments)
    for layer in (ours, theirs):
        layer.build(image.shape)
    theirs.set_weights(ours.get_weights())
    _assert_same(*(_results(layer, image, layer.trainable_weights) for layer in (ours, theirs)))


@pytest.mark.parametrize(("kernel", "size"), [(3, (2, 2, 2)), (5, (2, 3, 1)), ((1, 3, 7), (3, 1, 2))])
@pytest.mark.parametrize("on_cpu", [True, False])
def test_nearest_convolution_is_both_layers(kernel, size, on_cpu, monkeypatch):
    monkeypatch.setattr("tf_mrsr.layers._on_cpu", lambda: on_cpu)
    image = tf.random.stateless_normal((2, 4, 3, 5, 3), (1, 2))
    nearest, convolution = keras.layers.UpSampling3D(size), keras.layers.Conv3D(4, kernel, padding="same")
    ours = NearestConv3D(4, kernel, size=size, bias_initializer="random_normal")
    for layer in (ours, convolution):
        layer.build(image.shape)
    convolution.set_weights(ours.get_weights())
    expected = _results(lambda x: convolution(nearest(x)), image, convolution.trainable_weights)
    _assert_same(_results(ours, image, ours.trainable_weights), expected)


def test_nearest_convolution_tells_its_shape_and_comes_back_from_its_config():
    layer = NearestConv3D(4, 3, size=(2, 1, 3))
    assert layer(keras.Input((None, 5, 6, 2))).shape == (None, None, 5, 18, 4)
    assert NearestConv3D.from_config(layer.get_config()).get_config() == layer.get_config()


SAME = {"padding": "same"}


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: FewFiltersConv3D(1, 3), "padding must be 'same', got 'valid'"),
        (lambda: FewFiltersConv3D(1, 3, **SAME, strides=2), "strides must be"),
        (lambda: FewFiltersConv3D(1, 4, **SAME), "odd along each axis"),
        (lambda: FewFiltersConv3D(1, 3, **SAME, dilation_rate=2), "dilation_rate must be 1"),
        (lambda: FewFiltersConv3D(2, 3, **SAME, groups=2), "groups must be 1"),
        (lambda: LargeKernelConv3D(1, 3), "padding must be 'same'"),
        (lambda: LargeKernelConv3D(1, (3, 3, 5), **SAME), "the same along all axes"),
        (lambda: LargeKernelConv3D(1, 3, **SAME, dilation_rate=(1, 2, 1)), "the same along all axes"),
        (lambda: NearestConv3D(1, 3, dilation_rate=2), "dilation_rate must be 1"),
        (lambda: NearestConv3D(1, 2), "odd along each axis"),
    ],
)
def test_convolutions_refuse_what_they_do_not_compute(make, words):
    with pytest.raises(ValueError, match=words):
        make()
