import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tf_mrsr.inference.averaging import average_patches


def by_hand(function, volume, patch, stride):
    """The definition: every patch, one after the other, and how often each voxel was met."""
    windows = [min(n, patch) for n in volume.shape]
    starts = [
        sorted({min(i * stride, n - w) for i in range(-(-(n - w) // stride) + 1)})
        for n, w in zip(volume.shape, windows, strict=True)
    ]
    total, count = np.zeros(volume.shape), np.zeros(volume.shape)
    for x in starts[0]:
        for y in starts[1]:
            for z in starts[2]:
                at = tuple(slice(s, s + w) for s, w in zip((x, y, z), windows, strict=True))
                total[at] += function(volume[at][None])[0]
                count[at] += 1
    return total / count


def depends_on_the_patch(patches):
    """Another value in every patch that holds a voxel, so that a patch left out or taken twice shows."""
    patches = tf.cast(patches, tf.float32)
    ramp = tf.range(tf.shape(patches)[2], dtype=tf.float32)[None, None, :, None]
    return patches * 2 + tf.reduce_max(patches, axis=(1, 2, 3), keepdims=True) + 0.1 * ramp


@settings(max_examples=30)
@given(
    st.tuples(*[st.integers(1, 11)] * 3), st.integers(1, 6), st.integers(1, 6), st.integers(1, 5), st.integers(0, 99)
)
def test_equals_the_definition(shape, patch, stride, batch, seed):
    stride = min(stride, patch)
    rng = np.random.default_rng(seed)
    volume = (rng.normal(size=shape) * (rng.uniform(size=shape) > 0.7)).clip(0).astype(np.float32)
    ours = average_patches(depends_on_the_patch, tf.constant(volume), patch=patch, stride=stride, batch=batch)
    np.testing.assert_allclose(ours, by_hand(depends_on_the_patch, volume, patch, stride), rtol=1e-4, atol=1e-5)


def test_one_axis_by_hand():
    """Ten voxels, patches of 4, stride 3; each voxel gets the mean of the maxima of the patches that hold it."""
    volume = np.zeros((1, 1, 10), np.float32)
    volume[0, 0, [3, 6]] = 1, 4
    result = average_patches(
        lambda patches: tf.ones_like(patches) * tf.reduce_max(patches, axis=(1, 2, 3), keepdims=True),
        tf.constant(volume),
        patch=4,
        stride=3,
        batch=2,
    )
    np.testing.assert_allclose(result[0, 0], [1, 1, 1, 2.5, 4, 4, 4, 4, 4, 4])


@pytest.mark.parametrize(("batch", "most"), [(1, 1), (3, 3)])
def test_background_is_computed_once_and_batches_are_bounded(batch, most):
    sizes = []

    def count(patches):
        sizes.append(len(patches))
        return patches

    volume = np.full((4, 4, 24), -1, np.float32)
    volume[0, 0, 9] = 1  # seen by one of six patches of 4
    average_patches(count, tf.constant(volume), patch=4, stride=4, batch=batch)
    assert sizes == [1, 1]
    sizes.clear()
    volume[0, 0] = 1
    average_patches(count, tf.constant(volume), patch=4, stride=4, batch=batch)
    assert sizes[0] == 1
    assert sum(sizes[1:]) == 6
    assert max(sizes) == most
