"""3DSRGAN: thin slices out of thick ones.

Z. Li, Y. Wang, J. Yu: Reconstruction of thin-slice medical images using generative adversarial network, MICCAI 2017.
"""

from __future__ import annotations

from collections.abc import Sequence

import keras
from keras import layers

from tf_mrsr.layers import CubicUpsampling3D, FewFiltersConv3D, TakeChannel
from tf_mrsr.networks.structure import TRUNK_END

# Section 2.1 has the layers and their order. Kernels, numbers of filters and the discriminator's strides are in figure
# 1, which is not at hand: marked with *, they are choices. One kernel per layer: conv, residual pairs, deconv, conv.
GENERATOR_KERNELS = {
    "3dsrcnn": (3, 3, 3, 3, 3, 3, 3),  # *
    "2dsrcnn": (3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3),  # * 12 convolutions and the deconvolution
}
FILTERS = 64  # *
DECONV_THICK_SLICES = 1  # * thick slices that a thin one is made of; the kernel is r times as long, 3 for r = 3
DISCRIMINATOR_KERNEL = 3  # *
DISCRIMINATOR_FILTERS = (64, 64, 128, 128, 256)  # * those of SRGAN; the sixth convolution has 1
DISCRIMINATOR_STRIDES = (1, 2, 1, 2, 1)  # * likewise
XAVIER = "glorot_uniform"  # section 3; uniform is *
BATCH_NORM = {"epsilon": 1e-3, "momentum": 0.9}  # *


def generator(
    scale_factor: int = 3,
    architecture: str = "3dsrcnn",
    filters: int | Sequence[int] = FILTERS,
    residual: bool = False,
    batch_norm: bool = True,
) -> keras.Model:
    """The generator of section 2.1: (batch, x, y, z, 1) -> (batch, x, y, r z, 1), any x, y, z.

    What the paper leaves open besides figure 1 is as in SRGAN, which it extends: a block is convolution, BN, ReLU, and
    the second convolution of a residual pair has no ReLU.

    Args:
        scale_factor: r, 2 or more.
        architecture: "3dsrcnn" (7 layers; also the generator of 3DSRGAN) or "2dsrcnn", the network of ``generator_2d``
            applied to all coronal slices (x, z) of the volume.
        filters: filters of every layer but the last, which has 1; one number, or one per layer.
        residual: not of the paper: the network gives what is to be added to the cubic interpolation of the thick slices
            (as in Kim et al., CVPR 2016, arXiv:1511.04587, section 3), and its deconvolution gets them as a channel
            more. A thick slice must lie in the middle of its thin ones.
        batch_norm: False is not of the paper: without batch norms (as in Lim et al., CVPR workshops 2017,
            arXiv:1707.02921, section 3.1).

    Raises:
        ValueError: if the factor is below 2, the architecture unknown, or the filters do not fit the layers.
    """
    if architecture not in GENERATOR_KERNELS:
        raise ValueError(f"architecture must be one of {', '.join(GENERATOR_KERNELS)}, got {architecture!r}")
    sees = (True, architecture == "3dsrcnn", True)
    return _srcnn(architecture, sees, scale_factor, filters, residual=residual, batch_norm=batch_norm)


def generator_2d(scale_factor: int = 3, filters: int | Sequence[int] = FILTERS) -> keras.Model:
    """The comparison network 2DSRCNN on coronal slices: (batch, x, z, 1) -> (batch, x, r z, 1), any x, z.

    The paper says: 12 convolutions with small kernels, a simplified structure of the 3D generator. Open are kernels,
    filters, how it enlarges, and whether it has residual additions. Here it is the 3D generator's structure with 5
    residual pairs, whose deconvolution is not among the 12. Xavier initialisation. For slices by themselves; recipes
    take ``generator`` with "2dsrcnn", the same network on all slices of a volume.

    Args:
        scale_factor: r, 2 or more.
        filters: as for ``generator``.

    Raises:
        ValueError: as for ``generator``.
    """
    return _srcnn("2dsrcnn", (True, True), scale_factor, filters)


def discriminator(patch_shape: Sequence[int], filters: Sequence[int] = DISCRIMINATOR_FILTERS) -> keras.Model:
    """The discriminator of section 2.1: (batch, x, y, z, 1) -> logits (batch, 1); the probability is their sigmoid.

    Six blocks of convolution, ReLU, BN, in this order, so that what goes into the sigmoid can be negative. The kernel
    of the sixth is as large as what the strides leave of the patch.

    The last BN centres the logits of a training batch. Real and generated patches must therefore be in one batch, where
    the paper has them; batches of one kind have the same mean logit whatever is in them.

    Args:
        patch_shape: voxels of a thin-slice patch (x, y, z).
        filters: filters of the first five convolutions.

    Raises:
        ValueError: if there are not five filters.
    """
    if len(filters) != len(DISCRIMINATOR_STRIDES):
        raise ValueError(f"filters must be {len(DISCRIMINATOR_STRIDES)} numbers, got {len(filters)}")
    patch = keras.Input((*patch_shape, 1), name="patch")
    x = patch
    for i, (f, stride) in enumerate(zip(filters, DISCRIMINATOR_STRIDES, strict=True), start=1):
        x = _conv((DISCRIMINATOR_KERNEL,) * 3, f, f"conv{i}", strides=stride)(x)
        x = layers.ReLU(name=f"conv{i}_act")(x)
        x = _batch_norm(f"conv{i}_bn")(x)
    x = _conv(x.shape[1:-1], 1, "conv6", padding="valid", dtype="float32")(x)
    x = layers.ReLU(name="conv6_act", dtype="float32")(x)
    x = _batch_norm("conv6_bn", dtype="float32")(x)
    logits = layers.Flatten(name="logits", dtype="float32")(x)
    return keras.Model(patch, logits, name="li2017_discriminator")


def _srcnn(
    architecture: str,
    sees: Sequence[bool],
    scale_factor: int,
    filters: int | Sequence[int],
    *,
    residual: bool = False,
    batch_norm: bool = True,
) -> keras.Model:
    """The generator over as many axes as ``sees`` has; along those that are False the kernels have one voxel."""
    if scale_factor < 2:
        raise ValueError(f"scale_factor must be 2 or more, got {scale_factor}")
    sizes = [tuple(k if s else 1 for s in sees) for k in GENERATOR_KERNELS[architecture]]
    filters = (filters,) * (len(sizes) - 1) if isinstance(filters, int) else tuple(filters)
    if len(filters) != len(sizes) - 1:
        raise ValueError(f"filters must be one number or {len(sizes) - 1} for {architecture}, got {len(filters)}")
    if min(filters) < 1:
        raise ValueError(f"filters must be 1 or more, got {filters}")
    num_pairs = (len(sizes) - 3) // 2

    low_res = keras.Input((*(None for _ in sees), 1), name="low_res")
    x = _conv_bn(low_res, sizes[0], filters[0], "conv_first", batch_norm)
    x = layers.ReLU(name="conv_first_act")(x)
    for i in range(1, num_pairs + 1):
        pair = slice(2 * i - 1, 2 * i + 1)
        add_name = TRUNK_END if i == num_pairs and not residual else f"pair{i}_add"
        x = _residual_pair(x, sizes[pair], filters[pair], f"pair{i}", add_name, batch_norm)
    if residual:
        # The scan rides along, so that the part behind the trunk has one input; its layers see it beside the features.
        x = layers.Concatenate(name=TRUNK_END)([x, low_res])
        scan = TakeChannel(x.shape[-1] - 1, name="scan")(x)
        interpolated = CubicUpsampling3D((1, 1, scale_factor), centred=True, name="cubic")(scan)
    x = _deconv(sizes[-2], filters[-1], scale_factor, "deconv")(x)
    x = _batch_norm("deconv_bn")(x) if batch_norm else x
    x = layers.ReLU(name="deconv_act")(x)
    high_res = _conv(sizes[-1], 1, "conv_last", few=True, dtype="float32")(x)
    if residual:
        high_res = layers.Add(name="interpolated_and_details", dtype="float32")([high_res, interpolated])
    return keras.Model(low_res, high_res, name=f"li2017_{architecture}_x{scale_factor}")


def _residual_pair(
    x: keras.KerasTensor,
    sizes: Sequence[tuple[int, ...]],
    filters: Sequence[int],
    name: str,
    add_name: str,
    batch_norm: bool,
) -> keras.KerasTensor:
    """Convolution, BN, ReLU, convolution, BN, and what came in added."""
    skip = x
    x = _conv_bn(x, sizes[0], filters[0], f"{name}_conv1", batch_norm)
    x = layers.ReLU(name=f"{name}_act")(x)
    x = _conv_bn(x, sizes[1], filters[1], f"{name}_conv2", batch_norm)
    return layers.Add(name=add_name)([x, skip])


def _conv_bn(
    x: keras.KerasTensor, size: tuple[int, ...], filters: int, name: str, batch_norm: bool
) -> keras.KerasTensor:
    x = _conv(size, filters, name)(x)
    return _batch_norm(f"{name}_bn")(x) if batch_norm else x


def _conv(
    size: tuple[int, ...], filters: int, name: str, padding: str = "same", *, few: bool = False, **kwargs
) -> layers.Layer:
    convolution = {2: layers.Conv2D, 3: FewFiltersConv3D if few else layers.Conv3D}[len(size)]
    return convolution(filters, size, padding=padding, kernel_initializer=XAVIER, name=name, **kwargs)


def _deconv(size: tuple[int, ...], filters: int, scale_factor: int, name: str) -> layers.Layer:
    """Enlarges the last axis. There its kernel is a multiple of r, so that all thin slices have as many weights."""
    deconvolution = {2: layers.Conv2DTranspose, 3: layers.Conv3DTranspose}[len(size)]
    *in_plane, _ = size
    return deconvolution(
        filters,
        (*in_plane, DECONV_THICK_SLICES * scale_factor),
        strides=(*(1 for _ in in_plane), scale_factor),
        padding="same",
        kernel_initializer=XAVIER,
        name=name,
    )


def _batch_norm(name: str, **kwargs) -> layers.Layer:
    return layers.BatchNormalization(name=name, **BATCH_NORM, **kwargs)
