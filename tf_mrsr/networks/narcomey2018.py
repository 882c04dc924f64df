"""2D SRGAN on pairs of a thick and a thin slice.

A. Narcomey, A. Gu: Through thick and thin: MRI super-resolution using a generative adversarial network (report, 2018),
after C. Ledig et al.: Photo-realistic single image super-resolution using a generative adversarial network, CVPR 2017.
"""

from __future__ import annotations

from collections.abc import Sequence

import keras
from keras import layers

from tf_mrsr.networks.structure import TRUNK_END

# Section 4 and figure 2, without the enlarging layers of SRGAN; what the report leaves open is the program's value,
# marked with *.
KERNEL_SIZE = 3
FILTERS = 64
NUM_RESIDUAL_BLOCKS = 16
DISCRIMINATOR_KERNEL = 4  # *
DISCRIMINATOR_FILTERS = (64, 128, 256, 512, 1024, 2048)  # * strides of 2
DISCRIMINATOR_POINT_FILTERS = (1024, 512)  # * kernels of one pixel, no strides
DISCRIMINATOR_RESIDUAL = ((1, 128), (3, 128), (3, 512))  # * (kernel, filters), no strides
DISCRIMINATOR_SLOPE = 0.2  # *
KERNEL_STDDEV = 0.02
GAMMA_STDDEV = 0.02  # * around 1
BATCH_NORM = {"epsilon": 1e-5, "momentum": 0.9}  # *


def generator(
    out_channels: int = 1, filters: int = FILTERS, num_residual_blocks: int = NUM_RESIDUAL_BLOCKS
) -> keras.Model:
    """SRResNet without enlargement: (batch, x, y, 1) -> (batch, x, y, out_channels), any x, y.

    Args:
        out_channels: 1 for the slice itself (Model 1), 3 for the slice and its two neighbours (Model 2).
        filters: filters of every convolution but the last.
        num_residual_blocks: number of residual blocks.

    Raises:
        ValueError: if out_channels is neither 1 nor 3, or a number too small.
    """
    _check_channels("out_channels", out_channels)
    if filters < 1 or num_residual_blocks < 0:
        raise ValueError(
            f"filters must be 1 or more, num_residual_blocks 0 or more, got {filters}, {num_residual_blocks}"
        )
    low_res = keras.Input((None, None, 1), name="low_res")
    x = _conv(filters, KERNEL_SIZE, "conv_first")(low_res)
    long_skip = x = layers.ReLU(name="conv_first_act")(x)
    for i in range(1, num_residual_blocks + 1):
        x = _residual_block(x, filters, f"block{i}")
    x = _conv_bn(x, filters, KERNEL_SIZE, "conv_trunk")
    x = layers.Add(name=TRUNK_END)([x, long_skip])
    high_res = _conv(out_channels, KERNEL_SIZE, "conv_last", dtype="float32")(x)
    return keras.Model(low_res, high_res, name=f"narcomey2018_model{1 if out_channels == 1 else 2}")


def discriminator(patch_shape: Sequence[int], in_channels: int = 1) -> keras.Model:
    """The discriminator: (batch, x, y, in_channels) -> logits (batch, 1); the probability is their sigmoid.

    Args:
        patch_shape: pixels of a slice (x, y); the program has 512 x 512.
        in_channels: 1 for Model 1, 3 for Model 2.

    Raises:
        ValueError: if in_channels is neither 1 nor 3.
    """
    _check_channels("in_channels", in_channels)
    patch = keras.Input((*patch_shape, in_channels), name="patch")
    x = _conv(DISCRIMINATOR_FILTERS[0], DISCRIMINATOR_KERNEL, "conv1", strides=2)(patch)
    x = _leaky_relu("conv1_act")(x)
    for i, f in enumerate(DISCRIMINATOR_FILTERS[1:], start=2):
        x = _conv_bn(x, f, DISCRIMINATOR_KERNEL, f"conv{i}", strides=2)
        x = _leaky_relu(f"conv{i}_act")(x)
    x = _conv_bn(x, DISCRIMINATOR_POINT_FILTERS[0], 1, "point1")
    x = _leaky_relu("point1_act")(x)
    skip = x = _conv_bn(x, DISCRIMINATOR_POINT_FILTERS[1], 1, "point2")
    for i, (kernel, f) in enumerate(DISCRIMINATOR_RESIDUAL, start=1):
        x = _conv_bn(x, f, kernel, f"residual{i}")
        if i < len(DISCRIMINATOR_RESIDUAL):
            x = _leaky_relu(f"residual{i}_act")(x)
    x = layers.Add(name="residual_add")([skip, x])
    x = _leaky_relu("residual_add_act")(x)
    x = layers.Flatten(name="flatten")(x)
    logits = layers.Dense(1, kernel_initializer=_normal(KERNEL_STDDEV), dtype="float32", name="logits")(x)
    return keras.Model(patch, logits, name="narcomey2018_discriminator")


def _check_channels(what: str, channels: int) -> None:
    if channels not in (1, 3):
        raise ValueError(f"{what} must be 1 (Model 1) or 3 (Model 2), got {channels}")


def _residual_block(x: keras.KerasTensor, filters: int, name: str) -> keras.KerasTensor:
    """Convolution, BN, ReLU, convolution, BN, and the block's input added."""
    skip = x
    x = _conv_bn(x, filters, KERNEL_SIZE, f"{name}_conv1")
    x = layers.ReLU(name=f"{name}_act")(x)
    x = _conv_bn(x, filters, KERNEL_SIZE, f"{name}_conv2")
    return layers.Add(name=f"{name}_add")([x, skip])


def _conv_bn(x: keras.KerasTensor, filters: int, kernel: int, name: str, **kwargs) -> keras.KerasTensor:
    """A convolution before batch norm has no bias."""
    x = _conv(filters, kernel, name, use_bias=False, **kwargs)(x)
    return layers.BatchNormalization(
        gamma_initializer=_normal(GAMMA_STDDEV, mean=1.0), name=f"{name}_bn", **BATCH_NORM
    )(x)


def _conv(filters: int, kernel: int, name: str, **kwargs) -> layers.Layer:
    return layers.Conv2D(
        filters, kernel, padding="same", kernel_initializer=_normal(KERNEL_STDDEV), name=name, **kwargs
    )


def _leaky_relu(name: str) -> layers.Layer:
    return layers.LeakyReLU(negative_slope=DISCRIMINATOR_SLOPE, name=name)


def _normal(stddev: float, mean: float = 0.0) -> keras.initializers.Initializer:
    return keras.initializers.RandomNormal(mean=mean, stddev=stddev)
