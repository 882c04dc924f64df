"""Volumes through networks of slices, held against the network itself."""

import numpy as np
import pytest
import tensorflow as tf

from tests import scans
from tf_mrsr.degradation import MatchedSlices
from tf_mrsr.inference.slice_resolver import SliceResolver
from tf_mrsr.limits import UNLIMITED
from tf_mrsr.networks import narcomey2018

SHAPE = (11, 14, 9)  # an axis as short as the slices are many would hide a mistake


def network(channels):
    model = narcomey2018.generator(channels, filters=4, num_residual_blocks=2)
    rng = np.random.default_rng(channels)
    for variable in model.weights:
        low = 0.5 if "variance" in variable.path else -0.3
        variable.assign(rng.uniform(low, 0.9, variable.shape))
    return model


def resolve(resolver, volume, affine, memory):
    result = resolver(tf.constant(volume), tf.constant(affine), tf.constant(memory, tf.int64))
    return result["volume"].numpy(), result["affine"].numpy()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("memory", [UNLIMITED, 60_000, 1])
def test_every_slice_is_what_the_network_makes_of_it(channels, memory):
    model, degradation = network(channels), MatchedSlices((1, 1, channels))
    resolver = SliceResolver(model, degradation.network_grid_map(), "half_max", slices_last=True)
    volume = scans.blobs(SHAPE, scans.OBLIQUE)
    result, affine = resolve(resolver, volume, scans.OBLIQUE, memory)
    half = volume.max() / 2
    assert result.shape == (*SHAPE[:2], channels * SHAPE[2])
    for i in range(SHAPE[2]):
        expected = model(volume[None, ..., i, None] / half - 1, training=False)[0] * half + half
        np.testing.assert_allclose(result[..., channels * i : channels * (i + 1)], expected, rtol=2e-4, atol=1e-2)
    # The middle of the slices that one became lies where that one did.
    middle = affine @ [3, 5, channels * 4 + (channels - 1) / 2, 1]
    np.testing.assert_allclose(middle, scans.OBLIQUE @ [3, 5, 4, 1], atol=1e-10)
    np.testing.assert_allclose(np.linalg.norm(affine[:3, 2]), 2 / channels)


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 2, 0), (2, 0, 1), (1, 0, 2)])
def test_slices_are_found_and_keep_their_in_plane_axes(order):
    """The network sees (first, second in-plane axis as stored), whatever directions they have."""
    model = network(3)
    resolver = SliceResolver(model, MatchedSlices((1, 1, 3)).network_grid_map(), "raw", slices_last=True)
    volume = scans.blobs(SHAPE, scans.OBLIQUE).transpose(order) / 100
    result, affine = resolve(resolver, volume, scans.OBLIQUE[:, [*order, 3]], UNLIMITED)
    axis = order.index(2)
    np.testing.assert_allclose(np.linalg.norm(affine[:3, axis]), 2 / 3)
    expected = model(np.take(volume, 4, axis)[None, ..., None], training=False)[0]
    np.testing.assert_allclose(np.take(result, [12, 13, 14], axis), np.moveaxis(expected, -1, axis), rtol=1e-4)


def test_raw_intensities_go_in_as_they_are():
    model = network(1)
    resolver = SliceResolver(model, MatchedSlices((1, 1, 1)).network_grid_map(), "raw", slices_last=True)
    volume = np.full((9, 8, 3), 1234.0, np.float32)
    result, _ = resolve(resolver, volume, np.diag([1.0, 1, 3, 1]), UNLIMITED)
    np.testing.assert_allclose(result[..., 0], model(volume[None, ..., :1], training=False)[0, ..., 0], rtol=1e-4)
