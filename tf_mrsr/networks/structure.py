"""What can be read off any functional generator: its parts, its stages, their reach, and a copy without batch norm."""

from __future__ import annotations

import math
from collections import Counter
from typing import NamedTuple

import keras
import numpy as np
from keras import layers

from tf_mrsr.layers import CubicUpsampling3D, NearestConv3D, PixelShuffle3D, TakeChannel

TRUNK_END = "trunk_end"
STAGE_INPUT = "stage{}_input"  # name of the layer that joins source and former output; from stage 2 on

_CONVOLUTIONS = (layers.Conv2D, layers.Conv3D)
_DECONVOLUTIONS = (layers.Conv2DTranspose, layers.Conv3DTranspose)
POINTWISE = (
    layers.Activation,
    layers.Add,
    layers.BatchNormalization,
    layers.Concatenate,
    layers.Identity,
    layers.InputLayer,
    layers.LeakyReLU,
    layers.ReLU,
    TakeChannel,
)


class Reach(NamedTuple):
    """What one output voxel sees of the input.

    Attributes:
        radius: input voxels before and behind the place of an output voxel, along each axis.
        scale: output voxels per input voxel, along each axis.
    """

    radius: tuple[int, ...]
    scale: tuple[int, ...]


def split(model: keras.Model) -> tuple[keras.Model, ...]:
    """The generator as models in a row, each of which takes what the one before gives.

    The first is the low-resolution trunk. Then comes a part for each enlargement, the last with all that follows it;
    a skip connection that leads past several enlargements keeps them in one part. A generator without a marked trunk is
    one part.

    Raises:
        TypeError: if something passes by the end of the trunk, so that the rest cannot be computed from it alone.
    """
    if not any(layer.name == TRUNK_END for layer in model.layers):
        return (model,)
    features = model.get_layer(TRUNK_END).output
    ends = [features, *_between_enlargements(model), model.output]
    begins = [model.input, *ends]
    try:
        return tuple(keras.Model(*part, name=f"part{i}") for i, part in enumerate(zip(begins, ends, strict=False)))
    except ValueError as error:  # Keras': a disconnected graph
        raise TypeError(
            f"a connection passes by layer {TRUNK_END}; give that name to a layer that all that follows needs alone"
        ) from error


def _between_enlargements(model: keras.Model) -> list[keras.KerasTensor]:
    """The tensors behind one enlargement and before the next on which alone all that follows depends."""
    nodes = [node for depth in sorted(model._nodes_by_depth, reverse=True) for node in model._nodes_by_depth[depth]]
    unread = Counter(id(tensor) for node in nodes for tensor in node.input_tensors)
    made: set[int] = set()
    found, candidate, enlarged = [], None, False
    for node in nodes:
        waiting = [tensor for tensor in made if unread[tensor]]
        unread.subtract(id(tensor) for tensor in node.input_tensors)
        made.update(id(tensor) for tensor in node.outputs)
        if isinstance(node.operation, POINTWISE):
            continue
        if enlarged and candidate is None and len(waiting) == 1:
            (candidate,) = node.input_tensors
        if enlargement(node.operation) > 1:
            if candidate is not None:
                found.append(candidate)
            candidate, enlarged = None, True
    return found


def enlargement(layer: layers.Layer) -> int:
    """How many output voxels a layer makes of one."""
    if isinstance(layer, _DECONVOLUTIONS):
        return math.prod(layer.strides)
    return math.prod(getattr(layer, "size", getattr(layer, "factors", (1,))))


class Stage(NamedTuple):
    """One stage of a generator that refines its output in stages.

    Attributes:
        context: from the source to what the stage takes in; None for the first stage, which takes the source.
        network: the stage itself.
    """

    context: keras.Model | None
    network: keras.Model


def stage_count(model: keras.Model) -> int:
    """How many networks stand in a row in the generator; 1 for most."""
    names = {layer.name for layer in model.layers}
    count = 1
    while STAGE_INPUT.format(count + 1) in names:
        count += 1
    return count


def stage(model: keras.Model, number: int) -> Stage:
    """Stage ``number``, from 1, of a generator; its models share their weights with it."""
    output = up_to_stage(model, number).output
    if number == 1:
        return Stage(None, keras.Model(model.input, output, name="stage1"))
    joined = model.get_layer(STAGE_INPUT.format(number)).output
    context = keras.Model(model.input, joined, name=f"stage{number}_context")
    return Stage(context, keras.Model(joined, output, name=f"stage{number}"))


def up_to_stage(model: keras.Model, number: int) -> keras.Model:
    """The first ``number`` stages of a generator; the generator itself where there are no more."""
    if number >= stage_count(model):
        return model
    _, output = model.get_layer(STAGE_INPUT.format(number + 1)).input
    return keras.Model(model.input, output, name=model.name)


def reach(model: keras.Model) -> Reach:
    """How far the model sees, from its layers' kernels, dilations and strides.

    Along one axis every tensor keeps (scale, low, high): its voxel o depends on input voxels from o / scale + low to
    o / scale + high at most.

    Raises:
        TypeError: for a layer whose reach is not known here, or that is used several times.
    """
    uses = Counter(node.operation.name for nodes in model._nodes_by_depth.values() for node in nodes)
    shared = next((name for name, count in uses.items() if count > 1), None)
    if shared is not None:
        raise TypeError(f"layer {shared} is used several times; a generator needs a layer for each place")
    axes = len(model.input.shape) - 2
    spans: dict[int, list[tuple[float, float, float]]] = {id(model.input): [(1.0, 0.0, 0.0)] * axes}
    for operation in model.operations:
        for node in operation._inbound_nodes:
            if id(node.outputs[0]) in spans or any(id(t) not in spans for t in node.input_tensors):
                continue
            incoming = [spans[id(t)] for t in node.input_tensors]
            merged = [
                (options[0][0], min(s[1] for s in options), max(s[2] for s in options))
                for options in zip(*incoming, strict=True)
            ]
            spans[id(node.outputs[0])] = [_through(operation, axis, span) for axis, span in enumerate(merged)]
    output = spans[id(model.output)]
    # The places are compared by floor division, so fractions of a voxel round outwards.
    radius = tuple(math.ceil(max(-low, high, 0.0) - 1e-9) for _, low, high in output)
    return Reach(radius, tuple(round(scale) for scale, _, _ in output))


def _through(layer: layers.Layer, axis: int, span: tuple[float, float, float]) -> tuple[float, float, float]:
    if isinstance(layer, NearestConv3D):
        span = _enlarged(span, layer.size[axis])
    scale, low, high = span
    if isinstance(layer, (*_DECONVOLUTIONS, *_CONVOLUTIONS)) and layer.padding != "same":
        raise TypeError(f"layer {layer.name}: a generator needs padding 'same', got {layer.padding!r}")
    if isinstance(layer, _DECONVOLUTIONS):
        kernel, stride = layer.kernel_size[axis], layer.strides[axis]
        # Output o sees inputs (o + front - k) / stride for k = 0 ... kernel - 1, with "same" cropping in front.
        front = max(kernel - stride, 0) // 2
        return (
            scale * stride,
            low + (front - kernel + 1) / (stride * scale),
            high + front / (stride * scale),
        )
    if isinstance(layer, _CONVOLUTIONS):
        if layer.strides[axis] != 1:
            raise TypeError(f"layer {layer.name}: the reach of a strided convolution is not supported in a generator")
        total = (layer.kernel_size[axis] - 1) * layer.dilation_rate[axis]
        return scale, low - (total // 2) / scale, high + (total - total // 2) / scale
    if isinstance(layer, (layers.UpSampling2D, layers.UpSampling3D)):
        return _enlarged(span, layer.size[axis])
    if isinstance(layer, PixelShuffle3D):
        return _enlarged(span, layer.factors[axis])
    if isinstance(layer, CubicUpsampling3D):
        scale, low, high = _enlarged(span, layer.factors[axis])
        before, after = layer.taps[0] / span[0], layer.taps[-1] / span[0]
        return (scale, low + before, high + after) if layer.factors[axis] > 1 else span
    if isinstance(layer, POINTWISE):
        return span
    raise TypeError(f"layer {layer.name}: the reach of a {type(layer).__name__} is not known")


def _enlarged(span: tuple[float, float, float], factor: int) -> tuple[float, float, float]:
    """Output o sees input floor(o / factor), up to (factor - 1) / factor before o / factor."""
    scale, low, high = span
    return scale * factor, low - (factor - 1) / (factor * scale), high


def fold_batch_norm(model: keras.Model) -> keras.Model:
    """A copy whose batch norms, in inference mode, are part of the convolutions in front of them.

    With the convolution w x + b and the norm gamma (y - mean) / sqrt(variance + epsilon) + beta, the folded kernel is
    s w and the folded bias s (b - mean) + beta, where s = gamma / sqrt(variance + epsilon). A batch norm that does not
    directly follow a convolution is kept.
    """
    folded = {norm.name: convolution.name for norm, convolution in _norms_behind_convolutions(model)}

    def clone(layer: layers.Layer) -> layers.Layer:
        config = layer.get_config()
        if layer.name in folded.values():
            config["use_bias"] = True
        return type(layer).from_config(config)

    def call(layer: layers.Layer, *args, **kwargs) -> keras.KerasTensor:
        return args[0] if layer.name in folded else layer(*args, **kwargs)

    copy = keras.models.clone_model(model, clone_function=clone, call_function=call)
    assign_folded(model, copy)
    return copy


def assign_folded(model: keras.Model, copy: keras.Model) -> None:
    """Gives ``copy``, which ``fold_batch_norm`` made of a model of the same build, the weights of ``model``."""
    folded = {norm.name: convolution.name for norm, convolution in _norms_behind_convolutions(model)}
    for layer in model.layers:
        if layer.weights and layer.name not in folded and layer.name not in folded.values():
            copy.get_layer(layer.name).set_weights(layer.get_weights())
    for norm_name, convolution_name in folded.items():
        norm, convolution = model.get_layer(norm_name), model.get_layer(convolution_name)
        kernel, *bias = (w.astype(np.float64) for w in convolution.get_weights())
        gain = 1 / np.sqrt(norm.moving_variance.numpy().astype(np.float64) + norm.epsilon)
        if norm.scale:
            gain = gain * norm.gamma.numpy()
        shifted = (bias[0] if bias else 0.0) - norm.moving_mean.numpy()
        new_bias = gain * shifted + (norm.beta.numpy() if norm.center else 0.0)
        # Output channels are a convolution's last kernel axis, and a deconvolution's last but one.
        kernel_gain = gain[:, None] if isinstance(convolution, _DECONVOLUTIONS) else gain
        copy.get_layer(convolution_name).set_weights([kernel * kernel_gain, new_bias])


def _norms_behind_convolutions(model: keras.Model) -> list[tuple[layers.Layer, layers.Layer]]:
    # The model's own nodes: a layer that a part of the model shares (``split``) has others besides.
    nodes = [node for depth in model._nodes_by_depth.values() for node in depth]
    readers = Counter(id(tensor) for node in nodes for tensor in node.input_tensors)
    pairs = []
    for node in nodes:
        if not isinstance(node.operation, layers.BatchNormalization):
            continue
        (tensor,) = node.input_tensors
        source = tensor._keras_history.operation
        linear = isinstance(source, _CONVOLUTIONS + _DECONVOLUTIONS) and source.activation is keras.activations.linear
        if linear and readers[id(tensor)] == 1:
            pairs.append((node.operation, source))
    return pairs
