"""3D SRGAN for brain MRI.

I. Sanchez, V. Vilaplana: Brain MRI super-resolution using 3D generative adversarial networks, MIDL 2018.
"""

from __future__ import annotations

from collections.abc import Sequence

import keras
from keras import layers

from tf_mrsr.layers import (
    CubicUpsampling3D,
    FewFiltersConv3D,
    NearestConv3D,
    PixelShuffle3D,
    SubpixelNNInitializer,
    TakeChannel,
)
from tf_mrsr.networks.structure import TRUNK_END

# Figures 1 and 2 and section 2.2; what the paper leaves open is the program's value, marked with *.
KERNEL_SIZE = 3
NUM_RESIDUAL_BLOCKS = 6
FILTERS = 32
UPSAMPLING_FILTERS = 64
DISCRIMINATOR_FILTERS = (32, 32, 64, 64, 128, 128, 256, 256)  # strides 1, 2, 1, 2, ...
DENSE_UNITS = 1024
GENERATOR_SLOPE = 0.25  # *
DISCRIMINATOR_SLOPE = 0.3  # *
KERNEL_STDDEV = 0.02  # *
DENSE_STDDEV = 0.1  # *
BATCH_NORM = {"epsilon": 1e-5, "momentum": 0.9}  # *

UPSAMPLINGS = ("resize", "subpixel", "subpixel_nn")


def generator(
    scale_factor: int = 2,
    upsampling: str = "subpixel_nn",
    filters: int = FILTERS,
    num_residual_blocks: int = NUM_RESIDUAL_BLOCKS,
    output_activation: str | None = None,
    residual: bool = False,
    batch_norm: bool = True,
) -> keras.Model:
    """The generator of figure 2: (batch, x, y, z, 1) -> (batch, r x, r y, r z, 1), any x, y, z.

    Args:
        scale_factor: r, a power of two; there is one up-sampling block per factor of 2.
        upsampling: "resize" (nearest-neighbour, then convolution; section 2.3.1), "subpixel" (pixel shuffle; 2.3.2) or
            "subpixel_nn" (deconvolution initialised as nearest-neighbour resizing; 2.3.3).
        filters: filters of every convolution before the up-sampling blocks, which have 64 whatever this is.
        num_residual_blocks: number of residual blocks.
        output_activation: None as in figure 2; the program has "tanh" after its resize network only.
        residual: not of the paper: the network gives what is to be added to the cubic interpolation of its input
            (as in Kim et al., CVPR 2016, arXiv:1511.04587, section 3), and its up-sampling layers get the input as a
            channel more. Low-resolution voxel j must lie on voxel r j.
        batch_norm: False is not of the paper: without batch norms (as in Lim et al., CVPR workshops 2017,
            arXiv:1707.02921, section 3.1), so that what comes out scales with what goes in.

    Raises:
        ValueError: if the factor is not a power of two, the up-sampling unknown, or a number too small.
    """
    if scale_factor < 2 or scale_factor & (scale_factor - 1):
        raise ValueError(f"scale_factor must be a power of two, 2 or more, got {scale_factor}")
    if upsampling not in UPSAMPLINGS:
        raise ValueError(f"upsampling must be one of {', '.join(UPSAMPLINGS)}, got {upsampling!r}")
    if filters < 1 or num_residual_blocks < 0:
        raise ValueError(
            f"filters must be 1 or more, num_residual_blocks 0 or more, got {filters}, {num_residual_blocks}"
        )
    upsampling_block = {"resize": _resize_block, "subpixel": _subpixel_block, "subpixel_nn": _subpixel_nn_block}[
        upsampling
    ]

    low_res = keras.Input((None, None, None, 1), name="low_res")
    x = _conv_bn(low_res, filters, "conv_first", batch_norm)
    long_skip = x = _leaky_relu("conv_first_act", GENERATOR_SLOPE)(x)
    for i in range(1, num_residual_blocks + 1):
        x = _residual_block(x, filters, f"block{i}", batch_norm)
    x = _conv_bn(x, filters, "conv_trunk", batch_norm)
    if residual:
        x = layers.Add(name="long_skip")([x, long_skip])
        # The scan rides along, so that the up-sampling part has one input; its layers see it beside the features.
        x = layers.Concatenate(name=TRUNK_END)([x, low_res])
        interpolated = CubicUpsampling3D((scale_factor,) * 3, name="cubic")(TakeChannel(filters, name="scan")(x))
    else:
        x = layers.Add(name=TRUNK_END)([x, long_skip])
    for i in range(1, scale_factor.bit_length()):
        x = upsampling_block(x, f"up{i}")
    high_res = _conv(1, "conv_last", FewFiltersConv3D, activation=output_activation, dtype="float32")(x)
    if residual:
        high_res = layers.Add(name="interpolated_and_details", dtype="float32")([high_res, interpolated])
    return keras.Model(low_res, high_res, name=f"sanchez2018_x{scale_factor}_{upsampling}")


def discriminator(
    patch_shape: Sequence[int],
    filters: Sequence[int] = DISCRIMINATOR_FILTERS,
) -> keras.Model:
    """The discriminator of figure 1: (batch, x, y, z, 1) -> logits (batch, 1); the probability is their sigmoid.

    Args:
        patch_shape: voxels of a high-resolution patch (x, y, z).
        filters: filters of the convolutions, whose strides are 1, 2, 1, 2, ...

    Raises:
        ValueError: if there are no filters.
    """
    if not filters or min(filters) < 1:
        raise ValueError(f"filters must be one or more numbers of 1 or more, got {filters}")
    patch = keras.Input((*patch_shape, 1), name="patch")
    x = _conv(filters[0], "conv1")(patch)
    x = _leaky_relu("conv1_act", DISCRIMINATOR_SLOPE)(x)
    for i, f in enumerate(filters[1:], start=2):
        x = _conv(f, f"conv{i}", strides=2 if i % 2 == 0 else 1)(x)
        x = _batch_norm(f"conv{i}_bn")(x)
        x = _leaky_relu(f"conv{i}_act", DISCRIMINATOR_SLOPE)(x)
    x = layers.Flatten(name="flatten")(x)
    x = layers.Dense(DENSE_UNITS, kernel_initializer=_truncated_normal(), name="dense1")(x)
    x = _leaky_relu("dense1_act", DISCRIMINATOR_SLOPE)(x)
    logits = layers.Dense(1, kernel_initializer=_truncated_normal(), dtype="float32", name="logits")(x)
    return keras.Model(patch, logits, name="sanchez2018_discriminator")


def _residual_block(x: keras.KerasTensor, filters: int, name: str, batch_norm: bool) -> keras.KerasTensor:
    """Convolution, BN, LeakyReLU, convolution, BN, and the block's input added."""
    skip = x
    x = _conv_bn(x, filters, f"{name}_conv1", batch_norm)
    x = _leaky_relu(f"{name}_act", GENERATOR_SLOPE)(x)
    x = _conv_bn(x, filters, f"{name}_conv2", batch_norm)
    return layers.Add(name=f"{name}_add")([x, skip])


def _conv_bn(x: keras.KerasTensor, filters: int, name: str, batch_norm: bool) -> keras.KerasTensor:
    x = _conv(filters, name)(x)
    return _batch_norm(f"{name}_bn")(x) if batch_norm else x


def _resize_block(x: keras.KerasTensor, name: str) -> keras.KerasTensor:
    x = _conv(UPSAMPLING_FILTERS, f"{name}_conv1")(x)
    x = _leaky_relu(f"{name}_conv1_act", GENERATOR_SLOPE)(x)
    x = _conv(UPSAMPLING_FILTERS, f"{name}_conv2", NearestConv3D, size=(2, 2, 2))(x)
    return _leaky_relu(f"{name}_conv2_act", GENERATOR_SLOPE)(x)


def _subpixel_block(x: keras.KerasTensor, name: str) -> keras.KerasTensor:
    """After the shuffle there are 64 / 8 = 8 channels."""
    x = _conv(UPSAMPLING_FILTERS, f"{name}_conv")(x)
    x = _leaky_relu(f"{name}_act", GENERATOR_SLOPE)(x)
    return PixelShuffle3D((2, 2, 2), name=f"{name}_shuffle")(x)


def _subpixel_nn_block(x: keras.KerasTensor, name: str) -> keras.KerasTensor:
    x = layers.Conv3DTranspose(
        UPSAMPLING_FILTERS,
        2 * KERNEL_SIZE,
        strides=2,
        padding="same",
        kernel_initializer=SubpixelNNInitializer((2, 2, 2), KERNEL_STDDEV),
        name=f"{name}_deconv",
    )(x)
    return _leaky_relu(f"{name}_act", GENERATOR_SLOPE)(x)


def _conv(filters: int, name: str, kind: type[layers.Layer] = layers.Conv3D, **kwargs) -> layers.Layer:
    return kind(filters, KERNEL_SIZE, padding="same", kernel_initializer=_normal(KERNEL_STDDEV), name=name, **kwargs)


def _batch_norm(name: str) -> layers.Layer:
    return layers.BatchNormalization(name=name, **BATCH_NORM)


def _leaky_relu(name: str, slope: float) -> layers.Layer:
    return layers.LeakyReLU(negative_slope=slope, name=name)


def _normal(stddev: float) -> keras.initializers.Initializer:
    return keras.initializers.RandomNormal(stddev=stddev)


def _truncated_normal() -> keras.initializers.Initializer:
    """Of dense layers: drawn again beyond two standard deviations, as TensorLayer does where nothing is given."""
    return keras.initializers.TruncatedNormal(stddev=DENSE_STDDEV)
