"""3D DCGAN for the synthesis of one contrast from another.

Taloma: Medical image synthesis with DCGANs, report, 2020; after D. Nie et al.: Medical image synthesis with deep
convolutional adversarial networks, IEEE Transactions on Biomedical Engineering 2018.
"""

from __future__ import annotations

from collections.abc import Sequence

import keras
from keras import layers

from tf_mrsr.layers import LargeKernelConv3D, TakeChannel
from tf_mrsr.networks.structure import STAGE_INPUT

# Section III; what it leaves open is marked with *.
GENERATOR_KERNELS = (9, 3, 3, 3, 9, 3, 3, 7, 3)
GENERATOR_FILTERS = (32, 32, 32, 64, 64, 64, 32, 32, 1)
GENERATOR_DILATIONS = (1, 2, 2, 2, 2, 2, 2, 2, 1)
DISCRIMINATOR_KERNEL = 3
DISCRIMINATOR_FILTERS = (32, 64, 128)  # of the stages that end in a max pooling
DISCRIMINATOR_LAST_FILTERS = 256
DENSE_UNITS = (512, 128)
POOL_SIZE = 2  # *
SLOPE = 0.3  # * Keras's, as are the initial weights
BATCH_NORM = {"epsilon": 1e-3, "momentum": 0.99}  # * Keras's
LARGE_KERNEL = 7  # from here on Fourier space is faster than the direct sum on CPUs


def generator(residual: bool = False, stages: int = 1, filters: Sequence[int] = GENERATOR_FILTERS) -> keras.Model:
    """The generator of section III: (batch, x, y, z, 1) -> (batch, x, y, z, 1), any x, y, z.

    Args:
        residual: adds the source to the last layer's output (ResGAN, section VII).
        stages: networks in a row. From the second on each takes the source and the output of the one before as two
            channels (auto-context model, section VIII); see ``tf_mrsr.networks.structure`` for taking them apart.
        filters: filters of the nine convolutions; the last is 1.

    Raises:
        ValueError: if there are not nine filters, the last is not 1, or there is no stage.
    """
    if len(filters) != len(GENERATOR_KERNELS) or filters[-1] != 1:
        raise ValueError(f"filters must be {len(GENERATOR_KERNELS)} numbers, the last 1, got {tuple(filters)}")
    if stages < 1:
        raise ValueError(f"stages must be 1 or more, got {stages}")
    source = keras.Input((None, None, None, 1), name="source")
    output = _one_generator(source, residual, filters, "")
    for stage in range(2, stages + 1):
        context = layers.Concatenate(name=STAGE_INPUT.format(stage), dtype="float32")([source, output])
        output = _one_generator(context, residual, filters, f"stage{stage}_")
    return keras.Model(source, output, name="taloma2020_resgan" if residual else "taloma2020")


def _one_generator(inputs: keras.KerasTensor, residual: bool, filters: Sequence[int], prefix: str) -> keras.KerasTensor:
    """Table of section III; ``inputs`` has the source as its first channel."""
    x = inputs
    rows = list(zip(GENERATOR_KERNELS, filters, GENERATOR_DILATIONS, strict=True))
    for i, (kernel, f, dilation) in enumerate(rows[:-1], start=1):
        x = _conv(f, kernel, f"{prefix}conv{i}", dilation_rate=dilation)(x)
        x = _batch_norm(f"{prefix}conv{i}_bn")(x)
        x = _leaky_relu(f"{prefix}conv{i}_act")(x)
    kernel, f, dilation = rows[-1]
    x = _conv(f, kernel, f"{prefix}conv9", dilation_rate=dilation, dtype="float32")(x)
    if residual:
        skip = TakeChannel(0, name=f"{prefix}residual_skip", dtype="float32")(inputs)
        x = layers.Add(name=f"{prefix}residual_add", dtype="float32")([x, skip])
    return x


def discriminator(patch_shape: Sequence[int]) -> keras.Model:
    """The discriminator of section III: (batch, x, y, z, 2) -> logits (batch, 1); the probability is their sigmoid.

    It is conditional: channel 0 is the source patch, channel 1 the real or synthetic target patch.

    Args:
        patch_shape: voxels of a patch (x, y, z), 8 or more along each axis; the report has 32.
    """
    patch = x = keras.Input((*patch_shape, 2), name="patch")
    for i, f in enumerate(DISCRIMINATOR_FILTERS, start=1):
        x = _conv(f, DISCRIMINATOR_KERNEL, f"conv{i}")(x)
        x = _batch_norm(f"conv{i}_bn")(x)
        x = _leaky_relu(f"conv{i}_act")(x)
        x = layers.MaxPooling3D(POOL_SIZE, name=f"pool{i}")(x)
    # The report, like Nie et al., names neither BN nor activation for the fourth convolution.
    x = _conv(DISCRIMINATOR_LAST_FILTERS, DISCRIMINATOR_KERNEL, "conv4")(x)
    x = layers.Flatten(name="flatten")(x)
    for i, units in enumerate(DENSE_UNITS, start=1):
        x = layers.Dense(units, name=f"dense{i}")(x)
        x = _leaky_relu(f"dense{i}_act")(x)
    logits = layers.Dense(1, dtype="float32", name="logits")(x)
    return keras.Model(patch, logits, name="taloma2020_discriminator")


def _conv(filters: int, kernel: int, name: str, **kwargs) -> layers.Layer:
    kind = LargeKernelConv3D if kernel >= LARGE_KERNEL else layers.Conv3D
    return kind(filters, kernel, padding="same", name=name, **kwargs)


def _batch_norm(name: str) -> layers.Layer:
    return layers.BatchNormalization(name=name, **BATCH_NORM)


def _leaky_relu(name: str) -> layers.Layer:
    return layers.LeakyReLU(negative_slope=SLOPE, name=name)
