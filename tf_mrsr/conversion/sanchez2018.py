"""The generator of the sanchez2018 program (imatge-upc/3D-GAN-superresolution): checkpoints of TensorFlow 1."""

from __future__ import annotations

import re
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from tf_mrsr.conversion.tensors import assign, translate
from tf_mrsr.errors import ModelError
from tf_mrsr.layers import NearestConv3D
from tf_mrsr.run_folder import DAMAGED

# Our layers to the program's, which counts residual blocks from 0.
LAYERS = {
    r"conv_first": "conv1",
    r"conv_first_bn": "BN-conv1",
    r"block(?P<n>\d+)_conv(?P<i>\d)": "conv{i}-rb/{before}",
    r"block(?P<n>\d+)_conv(?P<i>\d)_bn": "BN{i}-rb/{before}",
    r"conv_trunk": "conv2",
    r"conv_trunk_bn": "BN-conv2",
    r"up(?P<n>\d+)_conv(?P<i>\d)": "conv{i}-ub/{n}",
    r"up(?P<n>\d+)_conv": "conv1-ub/{n}",
    r"up(?P<n>\d+)_deconv": "conv1-ub-subpixelnn/{n}",
    r"conv_last": "convlast",
}
SCOPE = "SRGAN_g"
# What Adam remembers of a variable stands below the variable's name.
GENERATORS_OWN = re.compile(rf"{SCOPE}/.*(?<!/Adam)(?<!/Adam_1)")


def load(generator: keras.Model, source: Path) -> None:
    """Gives a generator of ``tf_mrsr.networks.sanchez2018`` the weights of a checkpoint.

    Args:
        generator: the model, of the build that the checkpoint is of.
        source: the checkpoint's folder; or its prefix, with or without ".index".

    Raises:
        ModelError: if there is no checkpoint or it is damaged, its tensors do not fit the generator, or the generator
            has no tanh where the program has one.
    """
    last = generator.get_layer("conv_last")
    resizes = any(isinstance(layer, NearestConv3D) for layer in generator.layers)
    if resizes and last.activation is not keras.activations.tanh:
        raise ModelError("the program's resize network ends in tanh, this recipe's does not; take the one with '_code'")
    assign(generator, _names(generator), {k: _turn(v) for k, v in read_checkpoint(source).items()}, source)


def _names(generator: keras.Model) -> dict[str, str]:
    deconvolves = any(isinstance(layer, keras.layers.Conv3DTranspose) for layer in generator.layers)
    names = {}
    for variable in generator.weights:
        layer, attribute = variable.path.split("/")
        theirs = translate(LAYERS, layer)
        if layer == "conv_last" and deconvolves:
            theirs += "-subpixelnn"
        if attribute in ("kernel", "bias"):
            attribute = f"{'W' if attribute == 'kernel' else 'b'}_{'deconv3d' if '_deconv' in layer else 'conv3d'}"
        names[variable.path] = f"{SCOPE}/{theirs}/{attribute}"
    return names


def _turn(tensor: np.ndarray) -> np.ndarray:
    """The program reads volumes with their axes as stored and has kernels (x, y, z, in, out), of deconvolutions
    (x, y, z, out, in), all as we do: nothing is turned.
    """
    return tensor


def read_checkpoint(source: Path) -> dict[str, np.ndarray]:
    """The generator's tensors of a TensorFlow checkpoint by name; see ``load``.

    The program's training saves the discriminator, both optimisers and its counters with them; these are not read.
    """
    prefix = _prefix(source)
    try:
        reader = tf.train.load_checkpoint(str(prefix))
        names = filter(GENERATORS_OWN.fullmatch, reader.get_variable_to_shape_map())
        return {name: np.asarray(reader.get_tensor(name)) for name in names}
    except DAMAGED as error:
        raise ModelError(f"{source}: the checkpoint is damaged or incomplete; fetch it again") from error


def _prefix(source: Path) -> Path:
    """What TensorFlow calls a checkpoint. The file "checkpoint" is not asked: its paths may be out of date."""
    if not source.is_dir():
        prefix = source.with_suffix("") if source.suffix == ".index" else source
        if not prefix.with_name(f"{prefix.name}.index").is_file():
            raise ModelError(f"{source}: no checkpoint there; expected a folder with one, or its path up to '.index'")
        return prefix
    found = sorted(path.with_suffix("") for path in source.glob("*.index"))
    if len(found) != 1:
        listed = f": {', '.join(path.name for path in found)}; give the path of one" if found else ""
        raise ModelError(f"{source}: expected one checkpoint (a file '*.index'), found {len(found)}{listed}")
    return found[0]
