"""What Keras lacks: the 3D pixel shuffle, one channel of several as a layer, cubic interpolation, convolutions computed
in another way where CPUs are slow at them (large kernels, few filters, on an enlarged image), TensorFlow 1's bilinear
resizing, and the initialiser that makes a deconvolution start as nearest-neighbour.
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

    Beyond the border the volume is mirrored, so an enlarged axis needs two voxels or more.

    Args:
        factors: enlargement along (x, y, z).
        centred: where input voxel j lies: False, on output voxel f j, as decimation leaves it, and it is kept there;
            True, at f j + (f - 1) / 2, the middle of its f output voxels, as averaging leaves it.
    """

    def __init__(self, factors: Sequence[int], centred: bool = False, **kwargs) -> None:
        super().__init__(**kwargs)
        self.factors = tuple(int(f) for f in factors)
        self.centred = centred

    @property
    def taps(self) -> tuple[int, ...]:
        """The input voxels that output voxel o may see, counted from floor(o / f)."""
        return (-2, -1, 0, 1, 2) if self.centred else (-1, 0, 1, 2)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        result = inputs
        for axis, factor in enumerate(self.factors, start=1):
            result = self._along(result, axis, factor)
        return result

    def _along(self, image: tf.Tensor, axis: int, factor: int) -> tf.Tensor:
        if factor == 1:
            return image
        shape = tf.shape(image)
        before, after = -self.taps[0], self.taps[-1]
        padded = tf.pad(image, [[before, after] if i == axis else [0, 0] for i in range(5)], "SYMMETRIC")
        taps = [tf.gather(padded, tf.range(shape[axis]) + tap + before, axis=axis) for tap in self.taps]
        phases = []
        for phase in range(factor):
            place = (phase + 0.5) / factor - 0.5 if self.centred else phase / factor
            weights = [self._weight(abs(place - tap)) for tap in self.taps]
            phases.append(tf.add_n([tap * weight for tap, weight in zip(taps, weights, strict=True) if weight]))
        enlarged = tf.tensor_scatter_nd_update(shape, [[axis]], [shape[axis] * factor])
        return tf.reshape(tf.stack(phases, axis=axis + 1), enlarged)

    @staticmethod
    def _weight(d: float) -> float:
        return 1.5 * d**3 - 2.5 * d**2 + 1 if d <= 1 else -0.5 * d**3 + 2.5 * d**2 - 4 * d + 2 if d < 2 else 0.0

    def compute_output_shape(self, input_shape: Sequence[int | None]) -> tuple[int | None, ...]:
        batch, *space, channels = input_shape
        return (batch, *(None if n is None else n * f for n, f in zip(space, self.factors, strict=True)), channels)

    def get_config(self) -> dict:
        return {**super().get_config(), "factors": self.factors, "centred": self.centred}


@keras.saving.register_keras_serializable(package="tf_mrsr")
class LargeKernelConv3D(keras.layers.Conv3D):
    """``Conv3D`` with an odd cubic kernel and "same" padding, computed in Fourier space where there is no GPU.

    Weights, arguments and results (to float rounding) are those of ``Conv3D``; see ``tf_mrsr.fourier``.

    Raises:
        ValueError: if the padding is not "same", a stride or the groups are not 1, or the kernel is even, or it or its
            dilation is not the same along all axes.
    """

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        _check_same(self)
        if len(set(self.kernel_size)) > 1 or len(set(self.dilation_rate)) > 1:
            raise ValueError(
                f"{self.name}: kernel and dilation must be the same along all axes, got {self.kernel_size} and "
                f"{self.dilation_rate}; take Conv3D"
            )

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        if not _on_cpu():
            return super().call(inputs)
        images, kernel = (tf.cast(tensor, tf.float32) for tensor in (inputs, self.kernel))
        result = tf.cast(fourier.convolve_same(images, kernel, self.dilation_rate[0]), self.compute_dtype)
        return _with_bias_and_activation(self, result)


@keras.saving.register_keras_serializable(package="tf_mrsr")
class FewFiltersConv3D(keras.layers.Conv3D):
    """``Conv3D`` with an odd kernel, "same" padding and one or a few filters, several times faster on CPUs.

    Processors compute 16 filters as fast as one. So the taps along x and y become filters of a convolution along z,
    and a second one, of ones and zeros, moves each to its place and adds them up. Weights, arguments and results (to
    float rounding) are those of ``Conv3D``.

    A float32 layer takes bfloat16 images without a copy of them in float32: it rounds the products of each tap to
    bfloat16, and adds the taps up in float32.

    Raises:
        ValueError: if the padding is not "same", a stride, the groups or the dilation are not 1, or the kernel is even.
    """

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **{**kwargs, "autocast": False})
        _check_same(self)
        _check_undilated(self)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        if not _on_cpu():
            return super().call(tf.cast(inputs, self.compute_dtype))
        kernel = tf.cast(self.kernel, inputs.dtype)
        kx, ky, kz, channels, filters = kernel.shape
        taps = tf.reshape(tf.transpose(kernel, (2, 3, 0, 1, 4)), (1, 1, kz, channels, kx * ky * filters))
        places = np.zeros((kx, ky, 1, kx, ky, filters, filters))
        for x, y in np.ndindex(kx, ky):  # the tap at (x, y) is taken from (x, y) alone
            places[x, y, 0, x, y] = np.eye(filters)
        places = tf.constant(places.reshape(kx, ky, 1, kx * ky * filters, filters), self.compute_dtype)
        by_tap = tf.cast(tf.nn.conv3d(inputs, taps, [1] * 5, "SAME"), self.compute_dtype)
        return _with_bias_and_activation(self, tf.nn.conv3d(by_tap, places, [1] * 5, "SAME"))


@keras.saving.register_keras_serializable(package="tf_mrsr")
class NearestConv3D(keras.layers.Conv3D):
    """Nearest-neighbour enlargement and then ``Conv3D`` with an odd kernel and "same" padding, as one layer.

    (batch, x, y, z, c) -> (batch, sx x, sy y, sz z, filters). Several taps of the kernel meet the same voxel before
    enlargement. On CPUs they are added up first, so that one deconvolution does it all: 8 products for 27 with a kernel
    of 3 and a factor of 2. Weights and results (to float rounding) are those of the two layers.

    Args:
        filters, kernel_size: as for ``Conv3D``.
        size: enlargement along (x, y, z).

    Raises:
        ValueError: if a stride, the groups or the dilation are not 1, or the kernel is even.
    """

    def __init__(
        self, filters: int, kernel_size: int | Sequence[int], size: Sequence[int] = (2, 2, 2), **kwargs
    ) -> None:
        super().__init__(filters, kernel_size, **{**kwargs, "padding": "same"})
        _check_same(self)
        _check_undilated(self)
        self.size = tuple(int(s) for s in size)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        if not _on_cpu():
            for axis, size in enumerate(self.size, start=1):
                inputs = tf.repeat(inputs, size, axis=axis)
            return super().call(inputs)
        kernel = tf.cast(self.kernel, self.compute_dtype)
        sums = (tf.constant(_added_up(k, s), kernel.dtype) for k, s in zip(kernel.shape[:3], self.size, strict=True))
        added = tf.einsum("Xx,Yy,Zz,xyzio->XYZoi", *sums, kernel)
        batch, *space = tf.unstack(tf.shape(inputs)[:4])
        shape = [batch, *(n * s for n, s in zip(space, self.size, strict=True)), self.filters]
        result = tf.nn.conv3d_transpose(inputs, added, shape, [1, *self.size, 1], "SAME")
        return _with_bias_and_activation(self, result)

    def compute_output_shape(self, input_shape: Sequence[int | None]) -> tuple[int | None, ...]:
        batch, *space, _ = input_shape
        return (batch, *(None if n is None else n * s for n, s in zip(space, self.size, strict=True)), self.filters)

    def get_config(self) -> dict:
        return {**super().get_config(), "size": self.size}


def _added_up(kernel_size: int, factor: int) -> np.ndarray:
    """Which taps of a kernel add up to which of the deconvolution's, along one axis; (k + factor - 1, k) of 0 and 1.

    Tap t reaches from each of the ``factor`` voxels of a block to one and the same voxel before enlargement::

        kernel 3, factor 2      taps of the deconvolution: w2, w1 + w2, w0 + w1, w0
    """
    sums = np.zeros((kernel_size + factor - 1, kernel_size), np.float32)
    for tap in range(kernel_size):
        first = kernel_size - 1 - tap
        sums[first : first + factor, tap] = 1
    return sums


def _check_same(layer: keras.layers.Conv3D) -> None:
    """Raises ValueError for arguments of ``Conv3D`` that the ways of CPUs do not compute."""
    plain = {"padding": "same", "strides": (1, 1, 1), "groups": 1, "data_format": "channels_last"}
    for argument, value in plain.items():
        if getattr(layer, argument) != value:
            raise ValueError(
                f"{layer.name}: {argument} must be {value!r}, got {getattr(layer, argument)!r}; take Conv3D"
            )
    if not all(n % 2 for n in layer.kernel_size):
        raise ValueError(f"{layer.name}: the kernel must be odd along each axis, got {layer.kernel_size}; take Conv3D")


def _check_undilated(layer: keras.layers.Conv3D) -> None:
    if set(layer.dilation_rate) != {1}:
        raise ValueError(f"{layer.name}: dilation_rate must be 1, got {layer.dilation_rate}; take Conv3D")


def _on_cpu() -> bool:
    """Whether layers compute as is best on CPUs; on GPUs they leave it to cuDNN."""
    return not tf.config.get_visible_devices("GPU")


def _with_bias_and_activation(layer: keras.layers.Conv3D, result: tf.Tensor) -> tf.Tensor:
    if layer.use_bias:
        result = result + tf.cast(layer.bias, result.dtype)
    return layer.activation(result)


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
