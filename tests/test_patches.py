import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import golden
from tf_mrsr import patches
from tf_mrsr.errors import DataError


def test_the_last_patch_is_moved_inwards():
    assert patches.grid_origins((10, 4, 4), (4, 4, 4), (3, 4, 4), (1, 1, 1)) == [(0, 0, 0), (3, 0, 0), (6, 0, 0)]


def test_the_papers_volume_gives_eight_patches():
    origins = patches.grid_origins((224, 224, 152), (128, 128, 92), (112, 112, 76), (2, 2, 2))
    assert origins == [(x, y, z) for x in (0, 96) for y in (0, 96) for z in (0, 60)]


@golden.needs_golden
def test_the_programs_grid():
    origins = patches.grid_origins((224, 224, 152), (128, 128, 92), (96, 96, 60), (1, 1, 1))
    # The program cuts 224 x 224 x 152 out of its files at (8, 16, 4).
    recorded = golden.case("data")["dataset"]["cases"][0]["patch_origin_in_file_voxels"]
    np.testing.assert_array_equal(np.array(origins) + np.array([8, 16, 4]), recorded)


sizes = st.tuples(*[st.integers(4, 20)] * 3)


@given(sizes, st.tuples(*[st.integers(1, 4)] * 3), st.tuples(*[st.integers(1, 25)] * 3), st.integers(1, 4))
def test_grid_covers_all_that_whole_low_resolution_voxels_cover(shape, patch, step, factor):
    patch = tuple(p * factor for p in patch)
    if any(n < p for n, p in zip(shape, patch, strict=True)):
        with pytest.raises(DataError, match="use larger scans"):
            patches.grid_origins(shape, patch, step, (factor,) * 3)
        return
    step = tuple(min(s, p) for s, p in zip(step, patch, strict=True))
    covered = np.zeros(shape, bool)
    for origin in patches.grid_origins(shape, patch, step, (factor,) * 3):
        assert all(o % factor == 0 for o in origin)
        assert patches.cut(covered, origin, patch).shape == patch
        patches.cut(covered, origin, patch)[...] = True
    reached = tuple(slice(0, (n - p) // factor * factor + p) for n, p in zip(shape, patch, strict=True))
    assert covered[reached].all()


def test_random_patches_have_tissue_in_their_middle():
    data = np.zeros((40, 40, 40), np.float32)
    data[10:20, 10:20, 10:20] = 100
    rng = np.random.default_rng(0)
    origins = [patches.random_origin(data, 50.0, (8, 8, 8), (2, 2, 2), rng) for _ in range(50)]
    in_tissue = [data[tuple(o + 4 for o in origin)] > 0 for origin in origins]
    # The cube has 1/64 of the volume; up to 64 draws each find it most times.
    assert np.mean(in_tissue) > 0.4
    assert len(set(origins)) > 10
    assert all(o % 2 == 0 and o + 8 <= 40 for origin in origins for o in origin)
