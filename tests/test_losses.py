import keras
import numpy as np
import pytest
import tensorflow as tf

from tf_mrsr import losses, recipe


def image(values):
    return tf.reshape(tf.constant(values, tf.float32), (1, 1, 1, -1, 1))


def test_squared_errors_by_hand():
    target, output = image([0, 2, 4]), image([1, 2, 1])
    assert losses.mean_squared_error(target, output).numpy() == pytest.approx(10 / 3)
    assert losses.sum_squared_error(target, output).numpy() == 10


def test_gradient_difference_compares_magnitudes():
    # Steps of 2 and 3 against -2 and 1: magnitudes differ by 0 and 2. The other axes have no neighbours.
    target, output = image([0, 2, 5]), image([0, -2, -1])
    assert losses.gradient_difference_sum(target, output).numpy() == 4
    grid = tf.constant(np.arange(8.0).reshape(1, 2, 2, 2, 1), tf.float32)
    # Steps of 4, 2 and 1 along x, y and z in every place against none: 16 + 4 + 1.
    assert losses.gradient_difference(grid, tf.zeros_like(grid)).numpy() == 21
    assert losses.gradient_difference_sum(grid, tf.zeros_like(grid)).numpy() == 4 * 21


def test_sums_of_a_patch_are_averaged_over_the_batch():
    grid = tf.constant(np.arange(8.0).reshape(1, 2, 2, 2, 1), tf.float32)
    batch = tf.concat([grid, 3 * grid], 0)
    assert losses.absolute_error_per_patch(batch, tf.zeros_like(batch)).numpy() == (1 + 3) * 28 / 2
    assert losses.gradient_difference_per_patch(batch, tf.zeros_like(batch)).numpy() == (1 + 9) * 4 * 21 / 2


def test_gradient_difference_in_two_dimensions():
    square = tf.constant([[[[0.0], [1.0]], [[2.0], [3.0]]]])
    assert losses.gradient_difference(square, tf.zeros_like(square)).numpy() == 4 + 1


def test_least_squares_by_hand():
    assert losses.least_squares(tf.constant([[1.0], [3.0]]), tf.constant([[1.0], [1.0]])).numpy() == 2


def test_total_variation_is_along_z_alone():
    grid = tf.constant(np.arange(8.0).reshape(1, 2, 2, 2, 1), tf.float32)
    # Four steps of 1 along z over eight voxels; steps of 2 and 4 along y and x do not count.
    assert losses.total_variation_z(grid, grid).numpy() == 4 / 8


def test_binary_cross_entropy_by_hand():
    logits, labels = tf.constant([[0.0], [2.0]]), tf.constant([[1.0], [0.0]])
    expected = (np.log(2) + np.log(1 + np.exp(2))) / 2
    assert losses.binary_cross_entropy(logits, labels).numpy() == pytest.approx(expected)


def test_squared_weights_are_those_of_kernels():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.set_weights([np.array([[3.0], [4.0]]), np.array([100.0])])
    assert losses.squared_weights(model).numpy() == 25


def test_labels():
    fixed = losses.draw_labels((1.0, 1.0), 3, [0, 0])
    np.testing.assert_array_equal(fixed, np.ones((3, 1)))
    drawn = losses.draw_labels((0.7, 1.2), 5000, [1, 2]).numpy()
    assert drawn.min() >= 0.7
    assert drawn.max() < 1.2
    assert drawn.mean() == pytest.approx(0.95, abs=0.01)
    np.testing.assert_array_equal(drawn, losses.draw_labels((0.7, 1.2), 5000, [1, 2]))
    assert not np.array_equal(drawn, losses.draw_labels((0.7, 1.2), 5000, [1, 3]))


def test_recipes_know_every_loss():
    assert {*losses.CONTENT, "vgg19_features"} == set(recipe.CONTENT_LOSSES)  # its weights are the user's
    assert set(losses.ADVERSARIAL) == set(recipe.ADVERSARIAL_LOSSES)


def test_sums_grow_with_the_batch_and_means_do_not():
    one, other = tf.random.normal((2, 4, 4, 4, 1), seed=1), tf.random.normal((2, 4, 4, 4, 1), seed=2)
    for name, function in losses.CONTENT.items():
        doubled = function(tf.concat([one, one], 0), tf.concat([other, other], 0))
        factor = 2 if losses.grows_with_batch(name) else 1
        np.testing.assert_allclose(doubled, factor * function(one, other), rtol=1e-5)
