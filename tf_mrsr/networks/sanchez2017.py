"""The abstract that came before the 3D SRGAN for brain MRI.

I. Sanchez, V. Vilaplana: 3D medical image synthesis using generative adversarial networks, womENCourage 2017.
"""

from __future__ import annotations

from collections.abc import Sequence

import keras

from tf_mrsr.networks import sanchez2018

# Section 2. What it leaves open (first and last layer, filters of the up-sampling, slopes, dense units) is as in 2018.
NUM_RESIDUAL_BLOCKS = 6
FILTERS = 32
UPSAMPLING = "resize"  # "convolution followed by a LeakyReLU and then a tile replication followed by another"
DISCRIMINATOR_FILTERS = (64, 64, 128, 128, 256, 256, 512, 512)  # strides 1, 2, 1, 2, ...


def generator(
    scale_factor: int = 2, filters: int = FILTERS, num_residual_blocks: int = NUM_RESIDUAL_BLOCKS
) -> keras.Model:
    """The generator of section 2: (batch, x, y, z, 1) -> (batch, r x, r y, r z, 1), any x, y, z.

    Args:
        scale_factor: r, a power of two; the abstract names none.
        filters: filters of every convolution before the up-sampling blocks, which have 64 whatever this is.
        num_residual_blocks: number of residual blocks.

    Raises:
        ValueError: if the factor is not a power of two.
    """
    model = sanchez2018.generator(scale_factor, UPSAMPLING, filters, num_residual_blocks)
    return keras.Model(model.input, model.output, name=f"sanchez2017_x{scale_factor}")


def discriminator(patch_shape: Sequence[int], filters: Sequence[int] = DISCRIMINATOR_FILTERS) -> keras.Model:
    """The discriminator of section 2: (batch, x, y, z, 1) -> logits (batch, 1); the probability is their sigmoid.

    Args:
        patch_shape: voxels of a high-resolution patch (x, y, z).
        filters: filters of the convolutions, whose strides are 1, 2, 1, 2, ...
    """
    model = sanchez2018.discriminator(patch_shape, filters)
    return keras.Model(model.input, model.output, name="sanchez2017_discriminator")
