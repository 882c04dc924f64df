"""Convolution with large kernels by way of Fourier space, to float rounding what the direct sum gives.

A kernel of 9 voxels a side costs 729 products per voxel and pair of channels, its spectrum about two complex ones. On
CPUs that makes the large kernels of taloma2020 several times faster, in training as in prediction.
"""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

Gradient = Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]


def convolve_same(images: tf.Tensor, kernel: tf.Tensor, dilation: int = 1) -> tf.Tensor:
    """``tf.nn.convolution`` with "SAME" padding and strides of 1.

    Args:
        images: float32 (batch, x, y, z, in channels).
        kernel: float32 (k, k, k, in channels, out channels), k odd.
        dilation: distance of the kernel's taps in voxels.

    Returns:
        float32 (batch, x, y, z, out channels).
    """
    if dilation == 1:
        return _convolve(images, kernel)
    # Every dilation-th voxel along each axis makes an image of its own, in which the taps are neighbours.
    size = _spatial_shape(images)
    crops = [[0, -n % dilation] for n in size]
    parts = tf.space_to_batch(images, [dilation] * 3, crops)
    parts = tf.ensure_shape(parts, (None, *[_static(-(-n // dilation)) for n in size], images.shape[-1]))
    return tf.batch_to_space(_convolve(parts, kernel), [dilation] * 3, crops)


@tf.custom_gradient
def _convolve(images: tf.Tensor, kernel: tf.Tensor) -> tuple[tf.Tensor, Gradient]:
    side, shape = kernel.shape[0], _spatial_shape(images)
    half = side // 2
    # The circular convolution wraps into voxels that are cut off, if there are half a kernel more of them; an even
    # number because the inverse transform cannot tell an odd one.
    size = [-(-_at_least(n + half, side) // 2) * 2 for n in shape]
    inside = [slice(half, half + n) for n in shape]
    image_spectrum = _spectrum(images, size)
    kernel_spectrum = _spectrum(tf.transpose(tf.reverse(kernel, [0, 1, 2]), (3, 0, 1, 2, 4)), size)
    result = _image(image_spectrum @ kernel_spectrum, size)[:, inside[0], inside[1], inside[2]]

    def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        in_place = tf.pad(upstream, [[0, 0], *[[half, 0]] * 3, [0, 0]])
        spectrum = _spectrum(in_place, size)
        to_images = _image(tf.matmul(spectrum, kernel_spectrum, adjoint_b=True), size)
        to_kernel = _image(tf.matmul(image_spectrum, spectrum, adjoint_a=True), size)[:, :side, :side, :side]
        to_kernel = tf.reverse(tf.transpose(to_kernel, (1, 2, 3, 0, 4)), [0, 1, 2])
        return to_images[:, : shape[0], : shape[1], : shape[2]], to_kernel

    return result, gradient


def _spectrum(images: tf.Tensor, size: list[int | tf.Tensor]) -> tf.Tensor:
    """(n, x, y, z, channel), filled up with zeros to ``size``, to complex (frequency, n, channel)."""
    spectrum = tf.signal.rfft3d(tf.transpose(images, (0, 4, 1, 2, 3)), size)
    shape = tf.shape(spectrum)
    return tf.transpose(tf.reshape(spectrum, (shape[0], shape[1], -1)), (2, 0, 1))


def _image(spectrum: tf.Tensor, size: list[int | tf.Tensor]) -> tf.Tensor:
    """The inverse of ``_spectrum``: (frequency, n, channel) to (n, x, y, z, channel)."""
    _, n, channels = tf.unstack(tf.shape(spectrum))
    spectrum = tf.reshape(tf.transpose(spectrum, (1, 2, 0)), (n, channels, size[0], size[1], size[2] // 2 + 1))
    return tf.transpose(tf.signal.irfft3d(spectrum, size), (0, 2, 3, 4, 1))


def _spatial_shape(images: tf.Tensor) -> list[int | tf.Tensor]:
    """Numbers where the shape is known when the graph is made (XLA asks for them), tensors elsewhere."""
    dynamic = tf.shape(images)
    return [images.shape[axis] or dynamic[axis] for axis in (1, 2, 3)]


def _static(size: int | tf.Tensor) -> int | None:
    return size if isinstance(size, int) else None


def _at_least(size: int | tf.Tensor, least: int) -> int | tf.Tensor:
    return max(size, least) if isinstance(size, int) else tf.maximum(size, least)
