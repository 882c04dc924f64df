import keras
import numpy as np

from tf_mrsr.training import batch_norm


def test_statistics_are_the_mean_of_the_batches_and_put_back():
    image = keras.Input((1, 1, 1, 1))
    norm = keras.layers.BatchNormalization(momentum=0.9)
    generator = keras.Model(image, norm(image))
    batches = [np.array(values, np.float32).reshape(2, 1, 1, 1, 1) for values in ((0, 2), (10, 14))]
    with batch_norm.re_estimated(generator, batches):
        np.testing.assert_allclose(norm.moving_mean, [(1 + 12) / 2])
        np.testing.assert_allclose(norm.moving_variance, [(1 + 4) / 2])
    assert norm.momentum == 0.9
    np.testing.assert_array_equal(norm.moving_mean, [0])
    np.testing.assert_array_equal(norm.moving_variance, [1])


def test_a_network_without_batch_norms_needs_no_batch():
    image = keras.Input((1, 1, 1, 1))
    batches = iter([np.ones((1, 1, 1, 1, 1), np.float32)])
    with batch_norm.re_estimated(keras.Model(image, keras.layers.Dense(1)(image)), batches):
        assert len(list(batches)) == 1
