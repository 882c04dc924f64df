from dataclasses import replace

import numpy as np
import pytest

from tests import scans
from tf_mrsr import baselines, recipe
from tf_mrsr.errors import RecipeError
from tf_mrsr.geometry import GridMap
from tf_mrsr.inference import ensemble, models
from tf_mrsr.limits import UNLIMITED
from tf_mrsr.volume import Volume

SHAPE = (5, 4, 6)
SCAN = Volume(np.random.default_rng(0).normal(size=SHAPE).astype(np.float32), scans.OBLIQUE)


def enlarged(grid_map):
    """A model of linear interpolation on any grid, which gives the same for a mirrored scan wherever it can."""

    def model(volume):
        shape = tuple(round(n / s) for n, s in zip(volume.shape, grid_map.scale, strict=True))
        data = baselines.interpolate(volume.data, grid_map, shape, "linear")
        return replace(volume, data=data, affine=grid_map.apply_to_affine(volume.affine))

    return model


@pytest.mark.parametrize(
    "grid_map",
    [GridMap.identity(), GridMap.decimation((2, 2, 4)).inverse(), GridMap.block_average((1, 2, 3)).inverse()],
)
def test_a_model_that_mirrors_is_left_as_it_is(grid_map):
    model = enlarged(grid_map)
    plain, mean = model(SCAN), ensemble.mean_over_flips(model, SCAN)
    np.testing.assert_array_equal(mean.affine, plain.affine)
    np.testing.assert_allclose(mean.data, plain.data, atol=1e-6)


def test_eight_different_mirror_images_are_averaged():
    """A model that looks only at the first voxel of each axis: the mean has one eighth of every corner."""
    seen = []

    def model(volume):
        seen.append(volume.data[0, 0, 0])
        return replace(volume, data=np.full(volume.shape, volume.data[0, 0, 0]))

    corners = SCAN.data[np.ix_((0, -1), (0, -1), (0, -1))]
    np.testing.assert_allclose(ensemble.mean_over_flips(model, SCAN).data, np.full(SHAPE, corners.mean()), rtol=1e-6)
    assert sorted(seen) == sorted(corners.ravel())


def test_every_mirror_image_is_the_same_scan_in_space():

    def model(volume):
        world = volume.affine @ np.append((np.array(volume.shape) - 1) / 2, 1)
        np.testing.assert_allclose(world, SCAN.affine @ np.append((np.array(SHAPE) - 1) / 2, 1))
        return volume

    ensemble.mean_over_flips(model, SCAN)


def test_a_grid_that_depends_on_the_direction_is_refused():
    with pytest.raises(RecipeError, match="leave out --tta"):
        ensemble.mean_over_flips(enlarged(GridMap((0.5, 1, 1), (0.1, 0, 0))), SCAN)


def test_of_a_network():
    """Symmetric kernels give the same for mirrored scans; others do not."""
    chosen = recipe.load("sanchez2018_srgan3d_x2_quick", ["network.generator.num_residual_blocks=1"])
    resolver = models.resolver_for(chosen, models.build_generator(chosen))
    model = models.Model(chosen, resolver)
    scan = Volume(scans.blobs((10, 9, 8), np.eye(4)) + 1, np.eye(4))
    plain = model.super_resolve(scan, UNLIMITED)
    mean = ensemble.mean_over_flips(lambda volume: model.super_resolve(volume, UNLIMITED), scan)
    assert mean.shape == (20, 18, 16)
    np.testing.assert_array_equal(mean.affine, plain.affine)
    assert not np.allclose(mean.data, plain.data)
