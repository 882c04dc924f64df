"""Losses, as pure functions of tensors; images are (batch, x, y, z, channel) in network range, in narcomey2018
(batch, x, y, channel), and results are scalars.
"""

from __future__ import annotations

from collections.abc import Callable

import keras
import tensorflow as tf


def mean_squared_error(target: tf.Tensor, output: tf.Tensor) -> tf.Tensor:
    """mean((target - output)^2) over batch, voxels and channels."""
    return tf.reduce_mean(tf.math.squared_difference(target, output))


def sum_squared_error(target: tf.Tensor, output: tf.Tensor) -> tf.Tensor:
    """sum((target - output)^2) over batch, voxels and channels (the sanchez2018 program)."""
    return tf.reduce_sum(tf.math.squared_difference(target, output))


def mean_absolute_error(target: tf.Tensor, output: tf.Tensor) -> tf.Tensor:
    """mean(|target - output|) over batch, voxels and channels."""
    return tf.reduce_mean(tf.abs(target - output))


def absolute_error_per_patch(target: tf.Tensor, output: tf.Tensor) -> tf.Tensor:
    """sum(|target - output|) over voxels and channels, its mean over the batch (taloma2020, section IV, L1)."""
    return _per_patch(tf.abs(target - output))


def gradient_difference(target: tf.Tensor, output: tf.Tensor) -> tf.Tensor:
    """Sum over axes a of mean((|d_a target| - |d_a output|)^2) with neighbour differences d_a (sanchez2018, eq. 8)."""
    return tf.add_n([tf.reduce_mean(term) for term in _gradient_terms(target, output)])


def gradient_difference_sum(target: tf.Tensor, output: tf.Tensor) -> tf.Tensor:
    """As ``gradient_difference``, summed over batch and voxels instead of averaged (the sanchez2018 program)."""
    return tf.add_n([tf.reduce_sum(term) for term in _gradient_terms(target, output)])


def gradient_difference_per_patch(target: tf.Tensor, output: tf.Tensor) -> tf.Tensor:
    """As ``gradient_difference``, summed over voxels, its mean over the batch (taloma2020, section IV: "magnitudes of
    the gradients").
    """
    return tf.add_n([_per_patch(term) for term in _gradient_terms(target, output)])


def _per_patch(terms: tf.Tensor) -> tf.Tensor:
    return tf.reduce_sum(terms) / tf.cast(tf.shape(terms)[0], terms.dtype)


def _gradient_terms(target: tf.Tensor, output: tf.Tensor) -> list[tf.Tensor]:
    terms = []
    for axis in range(1, len(target.shape) - 1):
        after = (*[slice(None)] * axis, slice(1, None))
        before = (*[slice(None)] * axis, slice(None, -1))
        target_step, output_step = (tf.abs(image[after] - image[before]) for image in (target, output))
        terms.append(tf.math.squared_difference(target_step, output_step))
    return terms


def feature_squared_error(
    features: Callable[[tf.Tensor], tf.Tensor], target: tf.Tensor, output: tf.Tensor
) -> tf.Tensor:
    """mean((features(target) - features(output))^2), for instance of VGG19 (Ledig et al., CVPR 2017; narcomey2018).

    Args:
        features: a network whose weights are not trained, such as ``tf_mrsr.networks.vgg19.load_features`` returns.
        target, output: images in network range, of the shape that the network takes.
    """
    return tf.reduce_mean(tf.math.squared_difference(features(target), features(output)))


def total_variation_z(target: tf.Tensor, output: tf.Tensor) -> tf.Tensor:
    """Sum over z of (output[z + 1] - output[z])^2, over the number of voxels (li2017, eq. 6); takes no target."""
    steps = tf.reduce_sum(tf.math.squared_difference(output[:, :, :, 1:], output[:, :, :, :-1]))
    return steps / tf.cast(tf.size(output), output.dtype)


CONTENT: dict[str, Callable[[tf.Tensor, tf.Tensor], tf.Tensor]] = {
    "mean_squared_error": mean_squared_error,
    "sum_squared_error": sum_squared_error,
    "mean_absolute_error": mean_absolute_error,
    "absolute_error_per_patch": absolute_error_per_patch,
    "gradient_difference": gradient_difference,
    "gradient_difference_sum": gradient_difference_sum,
    "gradient_difference_per_patch": gradient_difference_per_patch,
    "total_variation_z": total_variation_z,
}


def grows_with_batch(name: str) -> bool:
    """Whether a content loss sums over the batch, so that shares of a batch add up instead of averaging."""
    return name in ("sum_squared_error", "gradient_difference_sum")


def least_squares(scores: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """mean((scores - labels)^2); both (batch, 1). LSGAN, arXiv:1611.04076; the paper's 1/2 is a weight."""
    return tf.reduce_mean(tf.math.squared_difference(scores, labels))


def binary_cross_entropy(scores: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """mean(-labels log p - (1 - labels) log(1 - p)), p the sigmoid of the scores, which are logits (batch, 1)."""
    return tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(labels, scores))


ADVERSARIAL: dict[str, Callable[[tf.Tensor, tf.Tensor], tf.Tensor]] = {
    "least_squares": least_squares,
    "binary_cross_entropy": binary_cross_entropy,
}


def squared_weights(model: keras.Model) -> tf.Tensor:
    """The sum of the squares of all kernels (li2017, section 2.2, weight regularization)."""
    kernels = [v for v in model.trainable_variables if v.path.endswith("/kernel")]
    return tf.add_n([tf.reduce_sum(tf.square(kernel.value)) for kernel in kernels])


def draw_labels(bounds: tuple[float, float], count: tf.Tensor | int, seed: tf.Tensor) -> tf.Tensor:
    """Labels (count, 1), uniform in [low, high); equal bounds give that one value.

    Args:
        bounds: (low, high).
        count: number of labels.
        seed: two integers; the same seed gives the same labels, on any machine.
    """
    low, high = bounds
    if low == high:
        return tf.fill((count, 1), tf.constant(low, tf.float32))
    return tf.random.stateless_uniform((count, 1), seed, low, high)
