"""What a generator sees, measured: one voxel lit in a dark volume, and which outputs it reaches.

All kernels are ones and all biases zero, so that nothing cancels and every path through the network shows.
"""

from __future__ import annotations

import numpy as np

from tf_mrsr.networks.structure import reach

MARGIN = 2


def measured_radius(model):
    """Per axis, how many input voxels the lit one is at most away from the place of an output that it changes.

    A radius is measured up to ``MARGIN`` more than ``reach`` claims; the weights of the model are overwritten.
    """
    for layer in model.layers:
        if hasattr(layer, "kernel"):
            layer.kernel.assign(np.ones(layer.kernel.shape))
            if layer.use_bias:
                layer.bias.assign(np.zeros(layer.bias.shape))
    claimed = reach(model)
    return tuple(_measure(model, axis, claimed) for axis in range(len(claimed.radius)))


def _measure(model, axis, claimed):
    lit = claimed.radius[axis] + MARGIN
    shape = [2] * len(claimed.radius)
    shape[axis] = 2 * lit + 1
    volume = np.zeros((1, *shape, model.input.shape[-1]), np.float32)
    np.moveaxis(volume, axis + 1, 0)[lit] = 1
    changed = np.moveaxis(model(volume, training=False).numpy(), axis + 1, 0)
    changed = np.flatnonzero(changed.reshape(len(changed), -1).any(axis=1))
    return int(np.abs(changed // claimed.scale[axis] - lit).max())
