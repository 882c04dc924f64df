"""What Keras lacks: the 3D pixel shuffle, one channel of several as a layer, cubic interpolation, convolutions with
large kernels that are fast on CPUs, TensorFlow 1's bilinear resizing, and the initialiser that makes a deconvolution
start as nearest-neighbour.
"""

from __future__ import annotations

from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from tf_mrsr import fourier


@keras.saving.register_keras_serializable(package="tf_mrsr")
class PixelShuffle3D(keras.layers.Layer):
    """Moves blocks of channels into space: (batch, x, y, z, c) -> (batch, fx x, fy y, fz z, c / (fx fy fz)).

    Channel order as in the sanchez2018 program: with factors of 2, channel ``(4 hy + 2 hx + hz) q_count + q`` of voxel
    (x, y, z) goes to channel q of voxel (2 x + hx, 2 y + hy, 2 z + hz). The second axis has the highest digit.

    Args:
        factors: enlargement along (x, y, z).
    """

    def __init__(self, factors: Sequence[int] = (2, 2, 2), **kwargs) -> None:
        super().__init__(**kwargs)
        self.factors = tuple(int(f) for f in factors)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        fx, fy, fz = self.factors
        batch, x, y, z = tf.unstack(tf.shape(inputs)[:4])
        channels = inputs.shape[-1] // (fx * fy * fz)
        blocks = tf.reshape(inputs, (batch, x, y, z, fy, fx, fz, channels))
        blocks = tf.transpose(blocks, (0, 1, 5, 2, 4, 3, 6, 7))
        return tf.reshape(blocks, (batch, x * fx, y * fy, z * fz, channels))

    def compute_output_shape(self, input_shape: Sequence[int | None]) -> tuple[int | None, ...]:
        batch, *space, channels = input_shape
        if channels is None or channels % np.prod(self.factors):
            raise ValueError(f"{channels} channels cannot be shuffled by factors {self.factors}")
        enlarged = [None if n is None else n * f for n, f in zip(space, self.factors, strict=True)]
        return (batch, *enlarged, channels // int(np.prod(self.factors)))

    def get_config(self) -> dict:
        return {**super().get_config(), "factors": self.factors}


@keras.saving.register_keras_serializable(package="tf_mrsr")
class TakeChannel(keras.layers.Layer):
    """One channel of several: (batch, ..., c) -> (batch, ..., 1).

    Args:
        index: number of the channel, from 0.
    """

    def __init__(self, index: int = 0, **kwargs) -> None:
        super().__init__(**kwargs)
        self.index = index

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return inputs[..., self.index : self.index + 1]

    def compute_output_shape(self, input_shape: Sequence[int | None]) -> tuple[int | None, ...]:
        *space, channels = input_shape
        if channels is None or not 0 <= self.index < channels:
            raise ValueError(f"there is no channel {self.index} among {channels}")
        return (*space, 1)

    def get_config(self) -> dict:
        return {**super().get_config(), "index": self.index}


@keras.saving.register_keras_serializable(package="tf_mrsr")
class CubicUpsampling3D(keras.layers.Layer):
    """Cubic convolution (Keys 1981, a = -1/2) without weights: (batch, x, y, z, c) -> (batch, fx x, fy y, fz z, c).

    Input voxel j lies on output voxel f j, as decimation leaves it, and is kept there; beyond the border the volume is
    mirrored.

    Args:
        factors: enlargement along (x, y, z).
    """

    TAPS = (-1, 0, 1, 2)  # around the input voxel at or before an output voxel

    def __init__(self, factors: Sequence[int], **kwargs) -> None:
        super().__init__(**kwargs)
        self.factors = tuple(int(f) for f in factors)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        result = inputs
        for axis, factor in enumerate(self.factors, start=1):
            result = self._along(result, axis, factor)
        return result

    @classmethod
    def _along(cls, image: tf.Tensor, axis: int, factor: int) -> tf.Tensor:
        if factor == 1:
            return image
        shape = tf.shape(image)
        padded = tf.pad(image, [[1, 2] if i == axis else [0, 0] for i in range(5)], "SYMMETRIC")
        taps = [tf.gather(padded, tf.range(shape[axis]) + tap + 1, axis=axis) for tap in cls.TAPS]
        phases = [
            tf.add_n([tap * weight for tap, weight in zip(taps, cls._weights(phase / factor), strict=True)])
            for phase in range(factor)
        ]
        enlarged = tf.tensor_scatter_nd_update(shape, [[axis]], [shape[axis] * factor])
        return tf.reshape(tf.stack(phases, axis=axis + 1), enlarged)

    @classmethod
    def _weights(cls, fraction: float) -> list[float]:
        distances = [abs(fraction - tap) for tap in cls.TAPS]
        return [
            1.5 * d**3 - 2.5 * d**2 + 1 if d <= 1 else -0.5 * d**3 + 2.5 * d**2 - 4 * d + 2 if d < 2 else 0.0
            for d in distances
        ]

    def compute_output_shape(self, input_shape: Sequence[int | None]) -> tuple[int | None, ...]:
        batch, *space, channels = input_shape
        return (batch, *(None if n is None else n * f for n, f in zip(space, self.factors, strict=True)), channels)

    def get_config(self) -> dict:
        return {**super().get_config(), "factors": self.factors}


@keras.saving.register_keras_serializable(package="tf_mrsr")
class LargeKernelConv3D(keras.layers.Conv3D):
    """``Conv3D`` with an odd cubic kernel and "same" padding, computed in Fourier space where there is no GPU.

    Weights, arguments and results (to float rounding) are those of ``Conv3D``; see ``tf_mrsr.fourier``.
    """

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        if tf.config.list_physical_devices("GPU"):
            return super().call(inputs)
        images, kernel = (tf.cast(tensor, tf.float32) for tensor in (inputs, self.kernel))
        result = tf.cast(fourier.convolve_same(images, kernel, self.dilation_rate[0]), self.compute_dtype)
        if self.use_bias:
            result = result + tf.cast(self.bias, self.compute_dtype)
        return self.activation(result)


@keras.saving.register_keras_serializable(package="tf_mrsr")
class ResizeFromCorner2D(keras.layers.Layer):
    """Bilinear resizing as TensorFlow 1 had it: (batch, x, y, c) -> (batch, *size, c).

    Output pixel i lies at input i n_in / n_out, so the first pixels coincide and not the edges, as with
    ``keras.layers.Resizing``, which places it at (i + 1/2) n_in / n_out - 1/2. Nothing is smoothed first.

    Args:
        size: pixels of the result (x, y).
    """

    def __init__(self, size: Sequence[int], **kwargs) -> None:
        super().__init__(**kwargs)
        self.size = tuple(int(n) for n in size)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        resized = tf.raw_ops.ResizeBilinear(
            images=inputs, size=self.size, align_corners=False, half_pixel_centers=False
        )
        return tf.cast(resized, self.compute_dtype)  # it comes as float32

    def compute_output_shape(self, input_shape: Sequence[int | None]) -> tuple[int | None, ...]:
        return (input_shape[0], *self.size, input_shape[-1])

    def get_config(self) -> dict:
        return {**super().get_config(), "size": self.size}


@keras.saving.register_keras_serializable(package="tf_mrsr")
class SubpixelNNInitializer(keras.initializers.Initializer):
    """Kernel of a strided deconvolution that starts as a small convolution followed by nearest-neighbour resizing.

    A kernel of k voxels is drawn and each tap is repeated ``stride`` times along each axis, giving k * stride voxels;
    all voxels of an output block then see the same weights (ICNR, arXiv:1707.02937; sanchez2018, section 2.3.3).

    Args:
        strides: strides of the deconvolution along (x, y, z), for instance (2, 2, 2) or (1, 1, 3).
        stddev: standard deviation of the small kernel (the sanchez2018 program: 0.02).
        seed: seed of the draw.
    """

    def __init__(self, strides: Sequence[int], stddev: float = 0.02, seed: int | None = None) -> None:
        self.strides = tuple(int(s) for s in strides)
        self.stddev = stddev
        self.seed = seed
        self._normal = keras.initializers.RandomNormal(stddev=stddev, seed=seed)

    def __call__(self, shape: Sequence[int], dtype: str | None = None) -> tf.Tensor:
        """A kernel of ``shape`` (x, y, z, out channels, in channels); x, y, z are multiples of the strides."""
        size, channels = tuple(shape[:3]), tuple(shape[3:])
        if any(n % s for n, s in zip(size, self.strides, strict=True)):
            raise ValueError(f"kernel size {size} is not a multiple of the strides {self.strides}")
        small = tuple(n // s for n, s in zip(size, self.strides, strict=True))
        kernel = self._normal(small + channels, dtype=dtype)
        for axis, stride in enumerate(self.strides):
            kernel = keras.ops.repeat(kernel, stride, axis=axis)
        return kernel

    def get_config(self) -> dict:
        return {"strides": self.strides, "stddev": self.stddev, "seed": self.seed}
