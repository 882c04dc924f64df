import shutil
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests import scans
from tf_mrsr import networks, recipe
from tf_mrsr.errors import ModelError, VolumeError
from tf_mrsr.geometry import GridMap, slices_last
from tf_mrsr.inference import models
from tf_mrsr.inference.super_resolver import SuperResolver, slice_order
from tf_mrsr.inference.tiling import plan
from tf_mrsr.limits import UNLIMITED
from tf_mrsr.networks import li2017, sanchez2018
from tf_mrsr.networks.structure import fold_batch_norm, reach, split
from tf_mrsr.volume import Volume

MAPS = {2: GridMap.decimation((2, 2, 2)).inverse(), 4: GridMap.decimation((4, 4, 4)).inverse()}


def trained_looking(scale_factor, upsampling, filters=8, blocks=2, **arguments):
    """A generator with weights large enough that every layer matters, and batch norms that do something."""
    keras.utils.set_random_seed(7)
    model = sanchez2018.generator(scale_factor, upsampling, filters, blocks, **arguments)
    rng = np.random.default_rng(5)
    for variable in model.weights:
        kind = variable.path.split("/")[-1]
        if kind == "kernel":
            fan_in = np.prod(variable.shape[:-1])
            variable.assign(rng.normal(0, fan_in**-0.5, variable.shape))
        elif kind in ("gamma", "moving_variance"):
            variable.assign(rng.uniform(0.5, 1.5, variable.shape))
        else:
            variable.assign(rng.normal(0, 0.1, variable.shape))
    return model


CASES = [(2, "resize"), (2, "subpixel"), (2, "subpixel_nn"), (4, "resize"), (4, "subpixel"), (4, "subpixel_nn")]


@pytest.mark.parametrize(
    ("scale_factor", "upsampling", "residual"), [*((*case, False) for case in CASES), (2, "subpixel_nn", True)]
)
def test_tiled_equals_whole(scale_factor, upsampling, residual):
    """Whole, what enlarges by slabs, and all by slabs; the plans are checked to be what the names say."""
    generator = trained_looking(scale_factor, upsampling, blocks=1, residual=residual)
    resolver = SuperResolver(generator, MAPS[scale_factor], "half_max")
    shape = (36, 34, 9) if scale_factor == 2 else (20, 18, 8)
    volume = scans.blobs(shape, np.eye(4)) + 1
    trunk, *others = resolver._networks.parts
    fixed = volume.size * (8 + 8 * scale_factor**3)
    for_trunk = volume.size * (trunk.bytes_per_voxel + 1)

    def cut(part, budget):
        slabs = plan(tf.constant(shape), part.reach.radius, part.bytes_per_voxel, tf.constant(budget, tf.int64))
        return tuple(slabs.numpy()) != shape

    assert not cut(trunk, for_trunk)
    assert cut(others[0], for_trunk - volume.size * 4 * 8)
    assert cut(trunk, 1)

    whole = resolver(volume, np.eye(4), UNLIMITED)["volume"].numpy()
    for budget in (fixed + for_trunk, 1):
        tiled = resolver(volume, np.eye(4), budget)["volume"].numpy()
        np.testing.assert_allclose(tiled, whole, atol=1e-5 * np.abs(whole).max())


def thin_slices():
    """Around a generator of li2017 that adds details to the interpolation, for the thick slices of a block average."""
    keras.utils.set_random_seed(7)
    generator = li2017.generator(3, filters=8, residual=True, batch_norm=False)
    return SuperResolver(generator, GridMap.block_average((1, 1, 3)).inverse(), "standard", slices_last=True)


def test_thin_slices_by_slabs():
    volume = scans.blobs((36, 34, 9), np.eye(4)) + 1
    resolver = thin_slices()
    whole = resolver(volume, np.eye(4), UNLIMITED)["volume"].numpy()
    tiled = resolver(volume, np.eye(4), 1)["volume"].numpy()
    np.testing.assert_allclose(tiled, whole, atol=1e-5 * np.abs(whole).max())


def test_interpolation_inside_the_network_is_in_its_place_in_millimetres():
    """Voxels that hold their own height in mm; without details every thin slice has its own height, too."""
    resolver = thin_slices()
    for variable in resolver.network_variables:
        variable.assign(tf.zeros_like(variable))
    affine = np.array([[0, 0, 0.7, -20], [0, -0.7, 0, 35], [4.2, 0, 0, -60], [0, 0, 0, 1]])  # slices come first
    heights = np.arange(12) * 4.2 - 60
    thick = np.broadcast_to(heights[:, None, None], (12, 8, 9)).astype(np.float32)
    result = resolver(thick, affine, UNLIMITED)
    thin, thin_affine = result["volume"].numpy(), result["affine"].numpy()
    expected = thin_affine[2, 0] * np.arange(36) + thin_affine[2, 3]
    inner = slice(6, -6)  # beyond the border the scan is mirrored
    np.testing.assert_allclose(thin[inner, 2, 3], expected[inner], atol=1e-3)


def test_bfloat16_is_close_and_takes_less_memory():
    exact, rounded = (
        SuperResolver(in_precision(precision), MAPS[2], "half_max") for precision in ("float32", "mixed_bfloat16")
    )
    volume = scans.blobs((16, 15, 9), np.eye(4)) + 1
    expected = exact(volume, np.eye(4), UNLIMITED)["volume"].numpy()
    result = rounded(volume, np.eye(4), UNLIMITED)["volume"].numpy()
    assert result.dtype == np.float32
    difference = np.abs(result - expected).max() / np.abs(expected).max()
    assert 1e-5 < difference < 0.05  # it computes in another precision, and to the same end
    assert rounded._networks.parts[1].bytes_per_voxel < exact._networks.parts[1].bytes_per_voxel
    tiled = rounded(volume, np.eye(4), 1)["volume"].numpy()
    np.testing.assert_allclose(tiled, result, atol=0.01 * np.abs(expected).max())


def in_precision(precision):
    """``trained_looking`` built anew to compute in a precision."""
    model = trained_looking(2, "subpixel_nn")
    arguments = {"scale_factor": 2, "upsampling": "subpixel_nn", "filters": 8, "num_residual_blocks": 2}
    copy = networks.build("sanchez2018", "generator", arguments, precision)
    copy.set_weights(model.get_weights())
    return copy


def test_a_halo_too_small_would_show():
    resolver = SuperResolver(trained_looking(2, "subpixel", blocks=1), MAPS[2], "half_max")
    trunk = resolver._networks.parts[0]
    resolver._networks.parts[0] = trunk._replace(reach=trunk.reach._replace(radius=(1, 1, 1)))
    volume = scans.blobs((36, 34, 9), np.eye(4)) + 1
    whole = resolver(volume, np.eye(4), UNLIMITED)["volume"].numpy()
    tiled = resolver(volume, np.eye(4), 1)["volume"].numpy()
    assert np.abs(tiled - whole).max() > 1e-3 * np.abs(whole).max()


@pytest.mark.parametrize(("scale_factor", "upsampling"), CASES)
def test_reach_is_what_an_impulse_shows(scale_factor, upsampling):
    """One input voxel is changed; the outputs that change are within the reach, and some are at its edge."""
    model = trained_looking(scale_factor, upsampling)
    for part in split(model):
        radius, scale = reach(part)
        channels = part.input.shape[-1]
        base = np.random.default_rng(0).normal(size=(1, 25, 25, 25, channels)).astype(np.float32)
        touched = base.copy()
        touched[0, 12, 12, 12] += 10
        moved = np.abs(part(touched).numpy() - part(base).numpy()).max(axis=(0, -1)) > 0
        for axis in range(3):
            # Output o stands at input o / scale; its distance to voxel 12 is at most the radius, less a fraction.
            places = np.flatnonzero(moved.any(axis=tuple(a for a in range(3) if a != axis))) // scale[axis]
            assert np.abs(places - 12).max() <= radius[axis]
            assert np.abs(places - 12).max() >= radius[axis] - 1


def test_the_papers_reach():
    """14 convolutions of 3 voxels in the trunk: 14 voxels to each side."""
    trunk, tail = split(sanchez2018.generator(2, "subpixel_nn"))
    assert reach(trunk).radius == (14, 14, 14)
    assert reach(tail).scale == (2, 2, 2)


@pytest.mark.parametrize("upsampling", sanchez2018.UPSAMPLINGS)
def test_folding_batch_norm_changes_nothing(upsampling):
    model = trained_looking(2, upsampling)
    folded = fold_batch_norm(model)
    assert not any(isinstance(layer, keras.layers.BatchNormalization) for layer in folded.layers)
    image = np.random.default_rng(0).normal(size=(2, 9, 8, 7, 1)).astype(np.float32)
    expected = model(image, training=False).numpy()
    np.testing.assert_allclose(folded(image), expected, atol=1e-5 * np.abs(expected).max())


def test_intensity_and_affine():
    """With a network that only repeats voxels, intensities come back and each voxel is where the map says."""
    low_res = keras.Input((None, None, None, 1))
    repeated = keras.Model(low_res, keras.layers.UpSampling3D(2)(low_res))
    volume = scans.blobs((9, 10, 8), scans.OBLIQUE) + 5
    resolver = SuperResolver(repeated, GridMap.block_average((2, 2, 2)).inverse(), "half_max")
    result = resolver(volume, scans.OBLIQUE, UNLIMITED)
    expected = volume.repeat(2, 0).repeat(2, 1).repeat(2, 2)
    np.testing.assert_allclose(result["volume"], expected, atol=1e-4)
    # Centre of the first block of 2 x 2 x 2 output voxels = centre of the first input voxel.
    np.testing.assert_allclose(result["affine"].numpy() @ [0.5, 0.5, 0.5, 1], scans.OBLIQUE @ [0, 0, 0, 1], atol=1e-9)
    np.testing.assert_allclose(np.linalg.norm(result["affine"][:3, :3], axis=0), [0.45, 0.55, 1.0])


@pytest.mark.parametrize("seed", range(20))
def test_the_graph_orders_axes_as_the_geometry_does(seed):
    rng = np.random.default_rng(seed)
    rotation, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    affine = np.eye(4)
    affine[:3, :3] = rotation * rng.choice([0.8, 1.0, 1.02, 3.0], 3)
    assert tuple(slice_order(tf.constant(affine)).numpy()) == slices_last(affine)


def test_slices_last_and_back():
    """Repeating voxels along the last axis of the network repeats them along the scan's thick axis, here the first."""
    low_res = keras.Input((None, None, None, 1))
    repeated = keras.Model(low_res, keras.layers.UpSampling3D((1, 1, 3))(low_res))
    resolver = SuperResolver(repeated, GridMap.block_average((1, 1, 3)).inverse(), "standard", slices_last=True)
    affine = np.array([[0, 0, 1.0, 5], [0, -1.1, 0, 7], [6.0, 0, 0, -9], [0, 0, 0, 1]])
    volume = scans.blobs((8, 9, 10), affine) + 5
    result = resolver(volume, affine, UNLIMITED)
    np.testing.assert_allclose(result["volume"], volume.repeat(3, 0), rtol=1e-4)
    expected = GridMap.block_average((3, 1, 1)).inverse().apply_to_affine(affine)
    np.testing.assert_allclose(result["affine"], expected, atol=1e-9)


def test_one_graph_for_all_shapes():
    resolver = SuperResolver(trained_looking(2, "subpixel"), MAPS[2], "half_max")
    for shape in ((8, 9, 10), (12, 8, 9)):
        resolver(np.ones(shape, np.float32), np.eye(4), UNLIMITED)
    assert resolver.__call__.experimental_get_tracing_count() == 1


def test_update_takes_over_weights_without_a_new_graph():
    keras.utils.set_random_seed(1)
    resolver = SuperResolver(sanchez2018.generator(2, "subpixel", 8, 2), MAPS[2], "half_max")
    volume = scans.blobs((9, 10, 8), np.eye(4)) + 1
    before = resolver(volume, np.eye(4), UNLIMITED)["volume"].numpy()
    resolver.update(trained_looking(2, "subpixel"))
    after = resolver(volume, np.eye(4), UNLIMITED)["volume"].numpy()
    fresh = SuperResolver(trained_looking(2, "subpixel"), MAPS[2], "half_max")(volume, np.eye(4), UNLIMITED)
    np.testing.assert_allclose(after, fresh["volume"], rtol=1e-5)
    assert not np.allclose(before, after)
    assert resolver.__call__.experimental_get_tracing_count() == 1


def test_the_graph_of_the_network_is_made_once(monkeypatch):
    called = []
    convolve = keras.layers.Conv3D.call

    def call(layer, inputs):
        called.append(layer.name)
        return convolve(layer, inputs)

    monkeypatch.setattr(keras.layers.Conv3D, "call", call)
    resolver = SuperResolver(sanchez2018.generator(4, "subpixel", 2, 1), MAPS[4], "half_max")
    called.clear()
    for signature in resolver.signatures.values():
        signature.get_concrete_function()
    assert {"conv_first", "up1_conv", "up2_conv"} <= set(called)
    assert len(called) == len(set(called))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    small = ["network.generator.filters=8", "network.generator.num_residual_blocks=2"]
    loaded = recipe.load("sanchez2018_srgan3d_x2_subpixel_nn", small)
    model = models.Model(loaded, models.resolver_for(loaded, trained_looking(2, "subpixel_nn")))
    folder = tmp_path_factory.mktemp("model") / "saved_model"
    models.save(model, folder)
    return model, folder


def test_saved_model_is_the_same(saved):
    model, folder = saved
    volume = Volume(scans.blobs((14, 12, 10), scans.OBLIQUE) + 1, scans.OBLIQUE)
    loaded = models.load(folder)
    assert loaded.recipe == model.recipe
    ours, theirs = model.super_resolve(volume, UNLIMITED), loaded.super_resolve(volume, UNLIMITED)
    np.testing.assert_array_equal(ours.data, theirs.data)
    np.testing.assert_array_equal(ours.affine, theirs.affine)


def test_saved_model_in_bfloat16(saved):
    folder = saved[1]
    volume = Volume(scans.blobs((14, 12, 10), scans.OBLIQUE) + 1, scans.OBLIQUE)
    exact, rounded = (models.load(folder, p).super_resolve(volume, UNLIMITED) for p in ("float32", "mixed_bfloat16"))
    np.testing.assert_array_equal(rounded.affine, exact.affine)
    difference = np.abs(rounded.data - exact.data).max() / np.abs(exact.data).max()
    assert 1e-5 < difference < 0.05


def test_saved_model_needs_none_of_our_code_and_no_keras(saved, tmp_path):
    """Loaded and called in a process in which both are out of reach."""
    model, folder = saved
    volume = scans.blobs((14, 12, 10), scans.OBLIQUE) + 1
    np.save(tmp_path / "volume.npy", volume)
    code = (
        "import sys; sys.modules['tf_mrsr'] = sys.modules['keras'] = None\n"
        "import numpy as np, tensorflow as tf\n"
        f"f = tf.saved_model.load({str(folder)!r}).signatures['serving_default']\n"
        f"volume = tf.constant(np.load({str(tmp_path / 'volume.npy')!r}))\n"
        "r = f(volume=volume, affine=tf.eye(4, dtype=tf.float64), memory_bytes=tf.constant(2**40, tf.int64))\n"
        f"np.save({str(tmp_path / 'out.npy')!r}, r['volume']); np.save({str(tmp_path / 'affine.npy')!r}, r['affine'])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    expected = model.super_resolve(Volume(volume, np.eye(4)), UNLIMITED)
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), expected.data, atol=1e-5 * expected.data.max())
    np.testing.assert_array_equal(np.load(tmp_path / "affine.npy"), expected.affine)


def test_saved_model_holds_its_weights_once(saved):
    model, folder = saved
    size = sum(path.stat().st_size for path in (folder / "variables").iterdir())
    weights = 4 * sum(int(np.prod(variable.shape)) for variable in model.resolver.network_variables)
    assert weights < size < 1.3 * weights + 20_000


def test_damaged_saved_model(saved, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(saved[1], copy)
    (copy / "saved_model.pb").write_bytes((copy / "saved_model.pb").read_bytes()[:5000])
    with pytest.raises(ModelError, match="damaged"):
        models.load(copy)
    shutil.rmtree(copy / "assets.extra")
    with pytest.raises(ModelError, match="not one of tf_mrsr"):
        models.load(copy)


def test_what_is_no_model(tmp_path):
    with pytest.raises(ModelError, match="no such folder"):
        models.load(tmp_path / "none")
    with pytest.raises(ModelError, match="neither"):
        models.load(tmp_path)


def test_too_little_memory(saved):
    with pytest.raises(VolumeError, match="take 2 MB; raise --memory"):  # 1.35, and 1 does not suffice
        saved[0].super_resolve(Volume(np.ones((27, 27, 27), np.float32), np.eye(4)), 2**20)


def test_too_small(saved):
    with pytest.raises(VolumeError, match="7x20x20 voxels"):
        saved[0].super_resolve(Volume(np.ones((7, 20, 20), np.float32), np.eye(4)), UNLIMITED)
