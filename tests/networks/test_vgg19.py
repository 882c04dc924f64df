"""VGG19's features: files of weights as users have them, and the outputs of the narcomey2018 program."""

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf

from tests import golden
from tf_mrsr import losses
from tf_mrsr.errors import ModelError
from tf_mrsr.networks import vgg19

# The layers behind the fourth pooling, which the original files hold as well.
BEHIND = [(3, 3, 512, 512), (512,)] * 4
NAMES = ("conv1_1", "conv1_2", "conv2_1", "conv2_2", *(f"conv{b}_{i}" for b in (3, 4) for i in (1, 2, 3, 4)))
WIDTHS = {"1": 64, "2": 128, "3": 256, "4": 512}


def shapes(name):
    width = WIDTHS[name[4]]
    before = width if name[-1] != "1" else {"1": 3, "2": 64, "3": 128, "4": 256}[name[4]]
    return (3, 3, before, width), (width,)


def formula_weights(pattern, gain):
    """By the formula of the recorded outputs; variables are numbered kernel, bias, kernel, ..."""
    weights = {}
    for i, name in enumerate(NAMES):
        kernel, bias = shapes(name)
        fan_in = np.prod(kernel[:-1])
        weights[name] = [
            golden.formula_value(2 * i, kernel, "conv_kernel", fan_in, pattern, gain),
            golden.formula_value(2 * i + 1, bias, "bias", None, pattern, gain),
        ]
    return weights


def object_array(items):
    array = np.empty(len(items), object)
    array[:] = items
    return array


def write_npz(path, weights):
    flat = [array for pair in weights.values() for array in pair]
    np.savez(path, params=object_array(flat + [np.zeros(shape, np.float32) for shape in BEHIND[:2]]))
    return path


def write_npy(path, weights):
    np.save(path, np.array({**weights, "fc8": [np.zeros((4, 2)), np.zeros(2)]}, object), allow_pickle=True)
    return path


def write_keras(path, weights):
    """In the layout of Keras' own download: a group per layer, those without weights as well, and lists of names."""
    with h5py.File(path, "w") as file:
        layers = [name.replace("conv", "block").replace("_", "_conv") for name in weights]
        file.attrs["layer_names"] = [name.encode() for name in ("input_1", *layers, "block5_pool")]
        for name in ("input_1", "block5_pool"):
            file.create_group(name).attrs["weight_names"] = np.zeros(0)
        for name, pair in zip(layers, weights.values(), strict=True):
            group = file.create_group(name)
            names = [f"{name}_W_1:0", f"{name}_b_1:0"]
            group.attrs["weight_names"] = [text.encode() for text in names]
            for text, array in zip(names, pair, strict=True):
                group[text] = array
    return path


WRITERS = {"vgg19.npy": write_npy, "vgg19.npz": write_npz, "notop.h5": write_keras}


@pytest.fixture(scope="module")
def chirp():
    return formula_weights("chirp", 2.0)


@pytest.fixture(scope="module")
def weights_file(tmp_path_factory, chirp):
    return write_npy(tmp_path_factory.mktemp("vgg19") / "vgg19.npy", chirp)


def by_rows(model, image):
    """The program's images are (row, column), ours (x, y)."""
    return tf.transpose(model(tf.transpose(image, (0, 2, 1, 3))), (0, 2, 1, 3)).numpy()


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_is_read_alike(tmp_path, chirp, name):
    found = vgg19.read_weights(WRITERS[name](tmp_path / name, chirp))
    assert list(found) == list(NAMES)
    for layer in NAMES:
        for array, expected in zip(found[layer], chirp[layer], strict=True):
            np.testing.assert_array_equal(array, expected)


@golden.needs_golden
@pytest.mark.parametrize(("channels", "model"), [(1, "m1"), (3, "m2")])
@pytest.mark.parametrize(("pattern", "gain"), [("chirp", 2.0), ("sine", 1.0)])
def test_features_of_the_program(tmp_path, channels, model, pattern, gain):
    weights = formula_weights(pattern, gain)
    if channels == 1:  # recorded with a first kernel of one channel by the formula: three equal ones average to it
        one = golden.formula_value(0, (3, 3, 1, 64), "conv_kernel", 9, pattern, gain)
        weights["conv1_1"][0] = np.repeat(one, 3, axis=2)
    network = vgg19.load_features(write_npz(tmp_path / "vgg19.npz", weights), channels)
    features = by_rows(network, golden.volume((1, 224, 224, channels)))
    assert features.shape == (1, 14, 14, 512)
    _assert_golden(features, f"vgg_{model}_c{channels}_{pattern}.npy")


@golden.needs_golden
def test_features_of_colours_with_the_mean_taken_off(weights_file):
    """An input that the program prepares otherwise, so that ours must undo its own (image + 1) / 2."""
    image = (golden.volume((1, 224, 224, 3), np.float64) + 1) / 2
    prepared = 255 * image[..., ::-1] - [103.939, 116.779, 123.68]
    features = by_rows(vgg19.load_features(weights_file, 3), (2 * prepared - 1).astype(np.float32))
    _assert_golden(features, "vgg_m2_c3_rgb_chirp.npy")


def _assert_golden(features, file):
    atol = golden.conditioning("outputs")[f"narcomey/vgg/{file}"]["suggested_atol"]
    np.testing.assert_allclose(features[..., ::8], golden.array("vgg", file, golden.NARCOMEY), atol=atol)


@golden.needs_golden
@pytest.mark.parametrize("name", ["train_m1_S128", "train_m2_S96"])
def test_losses_of_fixed_inputs(weights_file, name):
    """Slices of 128 x 128 and 96 x 96, so the resizing is in it; the weights of the terms are the program's."""
    case = golden.case(name, golden.NARCOMEY)
    fixed, channels = case["fixed_input_losses"], case["target_as_fed_shape"][-1]
    network = vgg19.load_features(weights_file, channels)
    shape = (1, case["S"], case["S"], channels)
    target, output = (tf.constant(v(shape).transpose(0, 2, 1, 3)) for v in (golden.volume, golden.volume2))
    with tf.GradientTape() as tape:
        tape.watch(output)
        feature_loss = 2e-6 * losses.feature_squared_error(network, target, output)
    gradient = tape.gradient(feature_loss, output).numpy().transpose(0, 2, 1, 3)[:, ::4, ::4]
    content = losses.mean_squared_error(target, output)
    real, generated = tf.constant([[fixed["logits_real"]]]), tf.constant([[fixed["logits_fake"]]])
    one, zero = tf.ones((1, 1)), tf.zeros((1, 1))
    adversarial = 1e-3 * losses.binary_cross_entropy(generated, one)
    discriminator = losses.binary_cross_entropy(real, one) + losses.binary_cross_entropy(generated, zero)

    np.testing.assert_allclose(feature_loss, fixed["vgg_loss"], rtol=1e-5)
    np.testing.assert_allclose(content, fixed["mse_loss"], rtol=1e-5)
    np.testing.assert_allclose(adversarial, fixed["g_gan_loss"], rtol=1e-5)
    np.testing.assert_allclose(content + feature_loss + adversarial, fixed["g_loss"], rtol=1e-5)
    np.testing.assert_allclose(discriminator, fixed["d_loss"], rtol=1e-5)
    expected = golden.array(name, "fixed_vgg_grad_sub.npy", golden.NARCOMEY)
    # Ties of ReLU and max pooling send gradients elsewhere.
    assert np.sqrt(np.mean((gradient - expected) ** 2)) < 2e-2 * np.sqrt(np.mean(expected**2))
    features = by_rows(network, tf.transpose(target, (0, 2, 1, 3)))[..., ::32]
    expected = golden.array(name, "fixed_vgg_target_sub.npy", golden.NARCOMEY)
    np.testing.assert_allclose(features, expected, atol=1e-5 * expected.max())


def test_one_channel_is_as_good_as_three_equal_ones_over_three(weights_file):
    """The averaged kernel on one channel is the whole kernel on a third of it in each of three."""
    image = golden.volume((1, 224, 224, 1))
    # (x + 1) / 2 / 3 in each channel
    third = np.repeat((image + 1) / 3 - 1, 3, axis=-1)
    one, three = (vgg19.load_features(weights_file, c) for c in (1, 3))
    np.testing.assert_allclose(one(image), three(third), atol=1e-4)


def test_any_slice_size_any_policy_and_nothing_trainable():
    saved = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = vgg19.features(1)
    finally:
        keras.config.set_dtype_policy(saved)
    assert model.trainable_variables == []
    assert {layer.compute_dtype for layer in model.layers[1:]} == {"float32"}
    assert model(np.ones((2, 33, 40, 1))).shape == (2, 14, 14, 512)


def test_feature_squared_error_by_hand():
    twice = lambda image: 2 * image  # noqa: E731
    target, output = tf.constant([[0.0, 1.0]]), tf.constant([[1.0, 3.0]])
    assert losses.feature_squared_error(twice, target, output).numpy() == (4 + 16) / 2


@pytest.mark.parametrize("path", [None, "nowhere.h5"])
def test_without_a_file_it_says_where_it_comes_from(tmp_path, path):
    with pytest.raises(ModelError) as refused:
        vgg19.load_features(path and tmp_path / path)
    assert "vgg19_weights_tf_dim_ordering_tf_kernels_notop.h5 (Keras)" in str(refused.value)
    assert "vgg19.npy" in str(refused.value)


def test_missing_and_misshapen_layers_are_listed(tmp_path, chirp):
    wrong = {name: pair for name, pair in chirp.items() if name not in ("conv2_1", "conv4_4")}
    wrong["conv1_1"] = [np.zeros((3, 3, 1, 64)), np.zeros(64)]
    with pytest.raises(ModelError) as refused:
        vgg19.read_weights(write_npy(tmp_path / "wrong.npy", wrong))
    message = str(refused.value)
    assert "conv2_1 is missing; conv4_4 is missing; conv1_1 has the shapes" in message
    assert "(3, 3, 1, 64), (64,)] instead of [(3, 3, 3, 64), (64,)]" in message


def _not_hdf5(path):
    path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))


def _other_keras_model(path):
    with h5py.File(path, "w") as file:
        file.create_group("dense")["kernel:0"] = np.zeros((2, 2))


def _kernel_without_bias(path):
    with h5py.File(path, "w") as file:
        file.create_group("block1_conv1")["kernel:0"] = np.zeros((3, 3, 3, 64))


BAD = {
    "damaged": (_not_hdf5, "damaged; fetch it again"),
    "other model": (_other_keras_model, "conv1_1 is missing; conv1_2 is missing"),
    "no bias": (_kernel_without_bias, "conv1_1 has the shapes [(3, 3, 3, 64)] instead of"),
    "other keys": (lambda path: np.savez(path.open("wb"), weights=np.zeros(2)), "neither 'params' nor layers by name"),
    "plain": (lambda path: np.save(path.open("wb"), np.zeros(2)), "neither 'params' nor layers by name"),
    "not numbers": (
        lambda path: np.save(path.open("wb"), np.array({"conv1_1": ["kernel", "bias"]}, object)),
        "a str stands where an array of numbers",
    ),
    "too few": (lambda path: np.savez(path.open("wb"), params=object_array([1, [2]])), "a int stands where"),
}


@pytest.mark.parametrize("name", BAD)
def test_other_files_are_refused(tmp_path, name):
    write, words = BAD[name]
    write(tmp_path / "file")
    with pytest.raises(ModelError) as refused:
        vgg19.load_features(tmp_path / "file")
    assert words in str(refused.value)
    assert str(tmp_path / "file") in str(refused.value)
