"""The same networks in PyTorch, made of the Keras models layer by layer, and the same training step.

Images are (batch, channel, x, y, z), channels last in memory. Import it only where PyTorch is installed.
"""

from __future__ import annotations

import keras
import numpy as np
import torch
from keras import layers
from torch import nn
from torch.nn import functional

from tf_mrsr.layers import NearestConv3D, PixelShuffle3D


class Network(nn.Module):
    """Computes what the Keras model computes, with copies of its weights.

    Args:
        model: functional, with one input and one output.

    Raises:
        TypeError: for a layer that has no counterpart here.
    """

    def __init__(self, model: keras.Model) -> None:
        super().__init__()
        nodes = [node for depth in sorted(model._nodes_by_depth, reverse=True) for node in model._nodes_by_depth[depth]]
        places = {id(model.input): 0}
        self.steps, self.inputs = nn.ModuleList(), []
        for node in nodes:
            if node.input_tensors:
                self.steps.append(_layer(node.operation))
                self.inputs.append([places[id(tensor)] for tensor in node.input_tensors])
                places[id(node.outputs[0])] = len(places)
        self.to(memory_format=torch.channels_last_3d)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """(batch, channel, x, y, z) -> the same, or logits (batch, 1)."""
        last_use = {place: step for step, places in enumerate(self.inputs) for place in places}
        tensors = [image]
        for number, (step, places) in enumerate(zip(self.steps, self.inputs, strict=True)):
            tensors.append(step(*(tensors[place] for place in places)))
            for place in places:
                if last_use[place] == number:
                    tensors[place] = None
        return tensors[-1]


def to_torch(volume: np.ndarray) -> torch.Tensor:
    """(batch, x, y, z, channel) -> (batch, channel, x, y, z) of the same bytes."""
    return torch.from_numpy(volume).permute(0, 4, 1, 2, 3)


class TrainingStep:
    """The update of sanchez2018's recipe: least squares on probabilities, squared error and gradient difference.

    The order is that of ``tf_mrsr.training.step.AdversarialStep``: G once, D on real and generated patches, update of
    D, D anew on the generated ones, update of G.

    Args:
        generator, discriminator: networks in training mode.
        precision: "float32", or "mixed_bfloat16" for autocast.
        stage: the recipe's stage.
        compiled: run both networks through ``torch.compile``.
    """

    def __init__(self, generator: Network, discriminator: Network, precision: str, stage, *, compiled: bool) -> None:
        self._generator, self._discriminator = (
            torch.compile(network) if compiled else network for network in (generator, discriminator)
        )
        self._autocast = precision != "float32"
        self._stage = stage
        self._optimizers = [
            torch.optim.Adam(
                network.parameters(), spec.learning_rate, betas=(spec.beta_1, spec.beta_2), eps=spec.epsilon, fused=True
            )
            for network, spec in (
                (generator, stage.generator.optimizer),
                (discriminator, stage.discriminator.optimizer),
            )
        ]
        self._of_generator = list(generator.parameters())

    def __call__(self, low_res: torch.Tensor, high_res: torch.Tensor, real_labels: torch.Tensor) -> dict[str, float]:
        """One update; the losses by the names of ``AdversarialStep``."""
        spec = self._stage
        generated = self._run(self._generator, low_res)
        scores = [torch.sigmoid(self._run(self._discriminator, x)) for x in (high_res, generated.detach())]
        loss = functional.mse_loss(scores[0], real_labels) + scores[1].square().mean()
        discriminator_loss = spec.discriminator.adversarial.weight * loss
        self._update(1, discriminator_loss)
        score = torch.sigmoid(self._run(self._discriminator, generated))
        loss = spec.generator.adversarial.weight * (score - 1).square().mean()
        loss = loss + functional.mse_loss(generated, high_res)
        for axis in (2, 3, 4):
            steps = (torch.diff(x, dim=axis).abs() for x in (high_res, generated))
            loss = loss + functional.mse_loss(*steps)
        # Only G's gradients are needed here; those of D's weights are not computed.
        gradients = torch.autograd.grad(loss, self._of_generator)
        for parameter, gradient in zip(self._of_generator, gradients, strict=True):
            parameter.grad = gradient
        self._optimizers[0].step()
        return {"generator_loss": loss.item(), "discriminator_loss": discriminator_loss.item()}

    def _run(self, network: nn.Module, images: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=self._autocast):
            return network(images).float()

    def _update(self, number: int, loss: torch.Tensor) -> None:
        self._optimizers[number].zero_grad()
        loss.backward()
        self._optimizers[number].step()


class _Same(nn.Module):
    """A strided convolution with "same" padding, which is longer behind than in front where it is odd."""

    def __init__(self, convolution: nn.Conv3d) -> None:
        super().__init__()
        self.convolution = convolution

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        around = []
        kinds = (image.shape[2:], self.convolution.kernel_size, self.convolution.stride)
        for n, k, s in reversed(list(zip(*kinds, strict=True))):
            total = max((-(-n // s) - 1) * s + k - n, 0)
            around += [total // 2, total - total // 2]
        return self.convolution(functional.pad(image, around))


class _Shuffle(nn.Module):
    def __init__(self, factors: tuple[int, int, int]) -> None:
        super().__init__()
        self.factors = factors

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        fx, fy, fz = self.factors
        batch, channels, x, y, z = image.shape
        blocks = image.reshape(batch, fy, fx, fz, channels // (fx * fy * fz), x, y, z)
        blocks = blocks.permute(0, 4, 5, 2, 6, 1, 7, 3)
        shape = (batch, -1, x * fx, y * fy, z * fz)
        return blocks.reshape(shape).contiguous(memory_format=torch.channels_last_3d)


class _Flatten(nn.Module):
    """In the order of (x, y, z, channel)."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return image.permute(0, 2, 3, 4, 1).flatten(1)


class _Add(nn.Module):
    def forward(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        return first + second


def _layer(layer: layers.Layer) -> nn.Module:
    if isinstance(layer, layers.Conv3DTranspose):
        return _deconvolution(layer)
    if isinstance(layer, NearestConv3D):
        return nn.Sequential(nn.Upsample(scale_factor=layer.size, mode="nearest"), _convolution(layer))
    if isinstance(layer, layers.Conv3D):
        return _convolution(layer)
    if isinstance(layer, layers.BatchNormalization):
        return _batch_norm(layer)
    if isinstance(layer, layers.Dense):
        return _filled(nn.Linear(*layer.kernel.shape), layer.kernel.numpy().T, layer.bias.numpy())
    if isinstance(layer, layers.LeakyReLU):
        return nn.LeakyReLU(layer.negative_slope)
    if isinstance(layer, PixelShuffle3D):
        return _Shuffle(layer.factors)
    plain = {layers.ReLU: nn.ReLU, layers.Add: _Add, layers.Flatten: _Flatten}
    if type(layer) not in plain:
        raise TypeError(f"layer {layer.name}: a {type(layer).__name__} has no counterpart in PyTorch here")
    return plain[type(layer)]()


def _convolution(layer: layers.Conv3D) -> nn.Module:
    size, stride = layer.kernel_size, layer.strides
    kernel = layer.kernel.numpy().transpose(4, 3, 0, 1, 2)
    bias = layer.bias.numpy() if layer.use_bias else np.zeros(layer.filters, np.float32)
    strided = max(stride) > 1
    padding = 0 if strided else [k // 2 for k in size]
    result = _filled(nn.Conv3d(kernel.shape[1], layer.filters, size, stride, padding), kernel, bias)
    return _Same(result) if strided else result


def _deconvolution(layer: layers.Conv3DTranspose) -> nn.Module:
    size, stride = layer.kernel_size, layer.strides
    if any((k - s) % 2 for k, s in zip(size, stride, strict=True)):
        raise TypeError(f"layer {layer.name}: a kernel of {size} with strides {stride} would need cropping")
    kernel = layer.kernel.numpy().transpose(4, 3, 0, 1, 2)
    padding = [(k - s) // 2 for k, s in zip(size, stride, strict=True)]
    result = nn.ConvTranspose3d(kernel.shape[0], layer.filters, size, stride, padding)
    return _filled(result, kernel, layer.bias.numpy())


def _batch_norm(layer: layers.BatchNormalization) -> nn.Module:
    result = nn.BatchNorm3d(layer.gamma.shape[0], layer.epsilon, 1 - layer.momentum)
    result.running_mean.copy_(torch.from_numpy(layer.moving_mean.numpy()))
    result.running_var.copy_(torch.from_numpy(layer.moving_variance.numpy()))
    return _filled(result, layer.gamma.numpy(), layer.beta.numpy())


def _filled(layer: nn.Module, weight: np.ndarray, bias: np.ndarray) -> nn.Module:
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(np.ascontiguousarray(weight)))
        layer.bias.copy_(torch.from_numpy(bias))
    return layer
