"""The commands as users call them, on files, read back afterwards."""

import csv
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from types import SimpleNamespace

import keras
import nibabel as nib
import numpy as np
import pytest
import tensorflow as tf

from tests import golden, scans
from tf_mrsr import __main__, bfloat16, cli, cohort, evaluate, limits, predict, recipe, run_folder, train
from tf_mrsr.cohort import Scan
from tf_mrsr.degradation import BlockAverage
from tf_mrsr.evaluation import prepare_case
from tf_mrsr.geometry import GridMap
from tf_mrsr.inference import models
from tf_mrsr.inference.super_resolver import SuperResolver
from tf_mrsr.progress import Progress
from tf_mrsr.training import loop
from tf_mrsr.training.logs import CsvLog
from tf_mrsr.volume import read_volume

TINY = [
    *("--set", "network.generator.filters=4"),
    *("--set", "network.generator.num_residual_blocks=1"),
    *("--set", "patches.shape=[16,16,16]"),
]
TINY_GAN = [
    *("--recipe", "sanchez2018_srgan3d_x2_subpixel"),
    *TINY,
    *("--set", "patches.step=[4,4,4]"),
    *("--set", "network.discriminator.filters=[4,4,8,8]"),
]
TINY_QUICK = ["--recipe", "sanchez2018_srgan3d_x2_quick", *TINY, "--set", "patches.per_volume=8"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two scans, a trained run and nothing else."""
    folder = tmp_path_factory.mktemp("commands")
    (folder / "scans").mkdir()
    for i in range(2):
        data = (scans.blobs((25, 22, 20), scans.OBLIQUE, seed=i) + 20).astype(np.int16)
        data[:4] = 0
        scans.save(folder / "scans" / f"sub-{i}.nii.gz", data, scans.OBLIQUE, descrip=b"CanaryName")
    argv = [*TINY_QUICK, "--data", str(folder / "scans" / "sub-0.nii.gz"), "--run", str(folder / "run"), "--steps", "4"]
    assert train.main([*argv, "--validation", str(folder / "scans" / "sub-1.nii.gz")]) == 0
    with scans.loaded_once(folder):
        yield folder


def read_csv(path):
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_train_leaves_a_complete_run(folder):
    run = folder / "run"
    assert {"recipe.yaml", "run.json", "state", "generator", "saved_model", "log.csv", "validation.csv"} <= set(
        os.listdir(run)
    )
    assert recipe.load(run / "recipe.yaml").network.generator["filters"] == 4
    assert [row["step"] for row in read_csv(run / "log.csv")] == ["4"]
    assert [row["step"] for row in read_csv(run / "validation.csv")] == ["2", "4"]
    assert float(read_csv(run / "log.csv")[0]["generator_loss"]) > 0
    assert "sub-0" not in (run / "run.json").read_text()


@pytest.mark.usefixtures("without_export")
def test_training_learns(tmp_path, folder):
    argv = [*TINY_QUICK, "--data", str(folder / "scans"), "--run", str(tmp_path / "run"), "--steps", "60"]
    assert train.main(argv) == 0
    losses = [float(row["generator_loss"]) for row in read_csv(tmp_path / "run" / "log.csv")]
    assert losses[-1] < 0.3 * losses[0]


@pytest.mark.parametrize("model", ["run", "run/saved_model"])
def test_predict_writes_the_finer_scan_where_it_belongs(folder, tmp_path, model):
    output = tmp_path / "out.nii.gz"
    assert (
        predict.main([str(folder / "scans" / "sub-0.nii.gz"), "-o", str(output), "--model", str(folder / model)]) == 0
    )
    image, scan = nib.load(output), nib.load(folder / "scans" / "sub-0.nii.gz")
    assert image.shape == (50, 44, 40)
    assert image.get_data_dtype() == np.float32
    # Every second output voxel lies on a scan's voxel: the recipe takes every second voxel, from the first.
    np.testing.assert_allclose(image.affine, scan.affine @ np.diag([0.5, 0.5, 0.5, 1]), atol=1e-4)
    assert image.header["sform_code"] == scan.header["sform_code"]
    assert b"Canary" not in image.header.binaryblock
    assert os.listdir(tmp_path) == ["out.nii.gz"]


def test_run_and_saved_model_predict_the_same(folder, tmp_path):
    for name in ("run", "run/saved_model"):
        argv = [
            str(folder / "scans" / "sub-1.nii.gz"),
            "-o",
            str(tmp_path / f"{len(name)}.nii"),
            "--model",
            str(folder / name),
        ]
        assert predict.main(argv) == 0
    first, second = (nib.load(path).get_fdata() for path in sorted(tmp_path.iterdir()))
    np.testing.assert_allclose(first, second, atol=1e-3)


def test_predict_in_bfloat16_is_close(folder, tmp_path):
    scan, model = folder / "scans" / "sub-0.nii.gz", folder / "run" / "saved_model"
    for precision in ("float32", "bfloat16"):
        argv = [str(scan), "-o", str(tmp_path / f"{precision}.nii"), "--model", str(model), "--precision", precision]
        assert predict.main(argv) == 0
    rounded, exact = (nib.load(tmp_path / f"{precision}.nii").get_fdata() for precision in ("bfloat16", "float32"))
    difference = np.abs(rounded - exact).max() / np.abs(exact).max()
    assert 0 < difference < 0.05


@pytest.mark.parametrize(("speed", "warned"), [(0.0816, True), (1.7, False)])
def test_a_machine_that_is_slow_in_bfloat16_is_told_of(folder, tmp_path, capsys, monkeypatch, speed, warned):
    monkeypatch.setattr(bfloat16, "speed", lambda: speed)
    words = "warning: in bfloat16 this machine has 0.082 times its speed in float32; "
    argv = [str(folder / SCAN), "-o", str(tmp_path / "out.nii"), "--model", str(folder / "run")]
    assert predict.main([*argv, "--precision", "bfloat16"]) == 0
    assert (f"{words}leave out --precision\n" in capsys.readouterr().err) == warned
    if not warned:
        return
    assert predict.main([*argv, "--overwrite"]) == 0
    assert words not in capsys.readouterr().err
    data = ["--data", str(folder / "scans"), "--run", str(tmp_path / "run")]
    monkeypatch.setattr(loop.Trainer, "run", lambda _: None)
    assert train.main([*TINY_QUICK, *data, "--steps", "1", "--precision", "mixed_bfloat16"]) == 0
    assert f"{words}leave out --precision\n" in capsys.readouterr().err
    assert train.main([*data, "--resume"]) == 0
    assert f"{words}go on on another machine" in capsys.readouterr().err


def test_the_mean_over_flips(folder, tmp_path, capsys):
    """``--tta`` gives the mean of eight predictions of mirrored scans, mirrored back."""
    scan = read_volume(folder / SCAN)
    argv = [str(folder / SCAN), "-o", str(tmp_path / "out.nii"), "--model", str(folder / "run"), "--tta"]
    assert predict.main(argv) == 0
    model = models.load(folder / "run")
    mirrored = []
    for axes in ((), (0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2)):
        low_res = replace(scan, data=np.ascontiguousarray(np.flip(scan.data, axes)))
        # The result's first voxel lies on the scan's first one, so a mirrored result begins r - 1 voxels earlier.
        high_res = np.flip(model.super_resolve(low_res, limits.UNLIMITED).data, axes)
        shift = [1 if axis in axes else 0 for axis in range(3)]
        inner = tuple(slice(2 + s, n - 2 + s) for s, n in zip(shift, high_res.shape, strict=True))
        mirrored.append(high_res[inner])
    found = nib.load(tmp_path / "out.nii").get_fdata()[2:-2, 2:-2, 2:-2]
    assert np.abs(np.mean(mirrored, axis=0) - mirrored[0]).max() > 1e-3
    np.testing.assert_allclose(found, np.mean(mirrored, axis=0), atol=1e-3)
    argv = ["--data", str(folder / SCAN), "-o", str(tmp_path / "results"), "--model", str(folder / "run"), "--tta"]
    assert evaluate.main(argv) == 0
    assert "| network, mean over flips |" in capsys.readouterr().out


@pytest.mark.usefixtures("without_export")
def test_nan_is_refused_or_set_to_zero_by_every_command(folder, tmp_path, capsys):
    data = np.asarray(nib.load(folder / SCAN).dataobj, np.float32)
    data[10, 10, 10] = np.nan
    scan = scans.save(tmp_path / "nan.nii", data, scans.OBLIQUE)
    data[10, 10, 10] = 0
    zero = scans.save(tmp_path / "zero.nii", data, scans.OBLIQUE)
    commands = {
        predict: lambda path: [path, "--model", str(folder / "run"), "-o", str(tmp_path / "predicted.nii")],
        evaluate: lambda path: ["--data", path, "--model", str(folder / "run"), "-o", str(tmp_path / "results")],
        train: lambda path: [*TINY_QUICK, "--data", path, "--run", str(tmp_path / "run"), "--steps", "1"],
    }
    for command, argv in commands.items():
        assert command.main(argv(str(scan))) == 1
        assert "NaN" in capsys.readouterr().err
        assert command.main([*argv(str(scan)), "--nan", "zero"]) == 0
    assert predict.main([str(zero), "--model", str(folder / "run"), "-o", str(tmp_path / "of_zero.nii")]) == 0
    found, expected = (nib.load(tmp_path / name).get_fdata() for name in ("predicted.nii", "of_zero.nii"))
    np.testing.assert_array_equal(found, expected)


def test_cache_xla_and_precision_reach_the_training(folder, tmp_path, monkeypatch):
    given = {}

    class Trainer(loop.Trainer):
        def __init__(self, recipe, pairs, validation, settings):
            given.update(cache=pairs._cache_bytes, jit=settings.jit)
            super().__init__(recipe, pairs, validation, settings)
            given["precision"] = self.generator.get_layer("conv_first").compute_dtype

        def run(self):
            """Trains nothing: what it would train with is known."""

    monkeypatch.setattr(loop, "Trainer", Trainer)
    argv = [*TINY_QUICK, "--data", str(folder / "scans"), "--steps", "1"]
    assert train.main([*argv, "--run", str(tmp_path / "a")]) == 0
    assert given == {"cache": limits.DEFAULT_CACHE, "jit": "auto", "precision": "float32"}
    others = ["--cache", "3MB", "--jit", "off", "--precision", "mixed_bfloat16"]
    assert train.main([*argv, "--run", str(tmp_path / "b"), *others]) == 0
    assert given == {"cache": 3 * 2**20, "jit": "off", "precision": "bfloat16"}


@pytest.mark.usefixtures("without_export")
@pytest.mark.parametrize(("jit", "compiled"), [("on", ["one_replica"]), ("off", [])])
def test_xla_where_it_is_asked_for(folder, tmp_path, monkeypatch, jit, compiled):
    found = []

    class TensorFlow:
        def __getattr__(self, name):
            return getattr(tf, name)

        def function(self, *arguments, **options):
            found.extend(function.__name__ for function in arguments if options.get("jit_compile"))
            return tf.function(*arguments, **options)

    monkeypatch.setattr(loop, "tf", TensorFlow())
    argv = [*TINY_QUICK, "--data", str(folder / "scans"), "--run", str(tmp_path / "run"), "--steps", "1"]
    assert train.main([*argv, "--jit", jit]) == 0
    assert found == compiled


def test_predict_takes_folders_and_lists(folder, tmp_path):
    assert predict.main([str(folder / "scans"), "-o", str(tmp_path / "a"), "--model", str(folder / "run")]) == 0
    assert sorted(os.listdir(tmp_path / "a")) == ["sub-0.nii.gz", "sub-1.nii.gz"]
    (folder / "list.tsv").write_text("path\tage\nscans/sub-1.nii.gz\t50\n")
    assert predict.main([str(folder / "list.tsv"), "-o", str(tmp_path / "b"), "--model", str(folder / "run")]) == 0
    assert os.listdir(tmp_path / "b") == ["sub-1.nii.gz"]


@pytest.mark.parametrize("affine", [scans.OBLIQUE, np.diag([-1.0, -1.2, 3.0, 1.0])], ids=["oblique", "flipped"])
def test_geometry_through_the_command_line(tmp_path, affine):
    """A smooth function of space on a coarse grid, enlarged by a linear network, agrees with the function in mm."""
    taps = np.array([0.5, 1, 0.5, 0])  # output 2 j is input j, output 2 j + 1 the mean of j and j + 1
    kernel = (taps[:, None, None] * taps[None, :, None] * taps[None, None, :])[..., None, None]
    low_res = keras.Input((None, None, None, 1))
    layer = keras.layers.Conv3DTranspose(1, 4, 2, padding="same", use_bias=False)
    network = keras.Model(low_res, layer(low_res))
    layer.set_weights([kernel])
    map_ = GridMap.decimation((2, 2, 2)).inverse()
    chosen = recipe.load("sanchez2018_srgan3d_x2_subpixel_nn")
    models.save(models.Model(chosen, SuperResolver(network, map_, "half_max")), tmp_path / "model")

    shape = (17, 20, 23)

    def function(grid_shape, grid_affine):
        places = nib.affines.apply_affine(
            grid_affine, np.stack(np.meshgrid(*map(np.arange, grid_shape), indexing="ij"), -1)
        )
        center = nib.affines.apply_affine(affine, (np.array(shape) - 1) / 2)
        return 1000 * np.exp(-(((places - center) / 25) ** 2).sum(-1)) + 3 * (places - center)[..., 0]

    scans.save(tmp_path / "scan.nii.gz", function(shape, affine).astype(np.float32), affine)
    assert (
        predict.main(
            [str(tmp_path / "scan.nii.gz"), "-o", str(tmp_path / "out.nii.gz"), "--model", str(tmp_path / "model")]
        )
        == 0
    )
    result = read_volume(tmp_path / "out.nii.gz")
    expected = function(result.shape, result.affine)
    inner = (slice(2, -4),) * 3
    error = np.abs(result.data - expected)[inner].max()
    assert error < 0.006 * expected.max()
    for axis in range(3):  # a fifth of a voxel along any axis would show
        shifted = result.affine.copy()
        shifted[:3, 3] += 0.2 * affine[:3, axis]
        assert np.abs(result.data - function(result.shape, shifted))[inner].max() > 1.5 * error


def test_evaluate_measures_and_draws(folder, tmp_path, capsys):
    argv = ["--model", str(folder / "run"), "--data", str(folder / "scans"), "-o", str(tmp_path / "results")]
    assert evaluate.main(argv) == 0
    printed = capsys.readouterr().out
    results = tmp_path / "results"
    assert {"table.md", "table.csv", "table.json", "distribution.png", "figures"} == set(os.listdir(results))
    assert (results / "table.md").read_text() in printed
    assert "every r-th voxel" in printed
    table = json.loads((results / "table.json").read_text())
    assert list(table["summary"]) == ["nearest", "linear", "cubic", "network"]
    rows = read_csv(results / "table.csv")
    assert len(rows) == 2 * 4
    cubic = [float(row["psnr"]) for row in rows if row["method"] == "cubic"]
    assert table["summary"]["cubic"]["psnr"]["mean"] == pytest.approx(np.mean(cubic), rel=1e-5)
    assert np.mean(cubic) > table["summary"]["nearest"]["psnr"]["mean"] + 1
    for name in ("distribution.png", "figures/sub-0.png", "figures/sub-1.png"):
        assert (results / name).read_bytes().startswith(b"\x89PNG")


def test_evaluate_takes_masks_and_protocols(folder, tmp_path):
    masks = tmp_path / "masks"
    masks.mkdir()
    mask = np.zeros((25, 22, 20), np.uint8)
    mask[8:16, 8:16, 8:16] = 1
    scans.save(masks / "sub-0.nii", mask, scans.OBLIQUE)
    base = ["--model", str(folder / "run"), "--data", str(folder / "scans" / "sub-0.nii.gz"), "--mask"]
    values = []
    for i, extra in enumerate(([str(masks)], ["none"], [str(masks), "--protocol", "sanchez2018"])):
        assert evaluate.main([*base, *extra, "-o", str(tmp_path / f"{i}")]) == 0
        table = json.loads((tmp_path / f"{i}" / "table.json").read_text())
        values.append(table["summary"]["linear"]["psnr"]["mean"])
        named = [line for line in table["protocol"] if line.startswith("mask: ")]
        assert named == ["mask: none" if extra == ["none"] else "mask: a folder, one for each scan"]
    assert len(set(values)) == 3


def test_masks_of_scans_that_share_a_name_are_told_apart(folder, tmp_path, capsys):
    """People have a folder each, as the table names them; one person's mask is not another's."""
    masks = tmp_path / "masks"
    masks.mkdir()
    mask = np.zeros((25, 22, 20), np.uint8)
    mask[8:16, 8:16, 8:16] = 1
    scans.save(masks / "T1w.nii.gz", mask, scans.OBLIQUE)
    for person in ("p1", "p2"):
        (tmp_path / "people" / person).mkdir(parents=True)
        shutil.copy(folder / "scans" / "sub-0.nii.gz", tmp_path / "people" / person / "T1w.nii.gz")
        scans.save(masks / f"{person}_T1w.nii.gz", mask, scans.OBLIQUE)
        mask = np.roll(mask, 4, 0)
    argv = ["--model", str(folder / "run"), "--data", str(tmp_path / "people"), "--mask", str(masks)]
    assert evaluate.main([*argv, "-o", str(tmp_path / "results")]) == 0
    rows = json.loads((tmp_path / "results" / "table.json").read_text())["cases"]
    linear = {row["case"]: row["psnr"] for row in rows if row["method"] == "linear"}
    assert set(linear) == {"p1_T1w", "p2_T1w"}
    assert linear["p1_T1w"] != linear["p2_T1w"]
    (masks / "p2_T1w.nii.gz").unlink()
    assert evaluate.main([*argv, "-o", str(tmp_path / "more")]) == 1
    assert "no mask named p2_T1w.nii.gz" in capsys.readouterr().err


def test_results_go_where_a_link_leads(folder, tmp_path, capsys):
    disk, link = tmp_path / "disk", tmp_path / "results"
    argv = ["--model", str(folder / "run"), "--data", str(folder / "scans" / "sub-0.nii.gz"), "-o"]
    assert evaluate.main([*argv, str(disk)]) == 0
    link.symlink_to(disk)
    (disk / "table.md").unlink()
    assert evaluate.main([*argv, str(link), "--overwrite"]) == 0
    assert link.is_symlink()
    assert (disk / "table.md").is_file()
    for name in ("figures/notes.txt", ".git/config"):
        (disk / name).parent.mkdir(exist_ok=True)
        (disk / name).write_text("mine")
        assert evaluate.main([*argv, str(link), "--overwrite"]) == 1
        assert f"holds {name}, which no evaluation made" in capsys.readouterr().err
        assert (disk / name).read_text() == "mine"
        (disk / name).unlink()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["disk", "results"]


def test_predict_skips_what_is_bad_or_done(folder, tmp_path, capsys):
    scans_ = tmp_path / "in"
    shutil.copytree(folder / "scans", scans_)
    (scans_ / "broken.nii.gz").write_bytes((folder / "scans" / "sub-0.nii.gz").read_bytes()[:-30])
    argv = [str(scans_), "-o", str(tmp_path / "out"), "--model", str(folder / "run")]
    assert predict.main(argv) == 1
    capsys.readouterr()
    assert predict.main([*argv, "--skip-bad"]) == 0
    assert "left out" in capsys.readouterr().err
    assert sorted(os.listdir(tmp_path / "out")) == ["sub-0.nii.gz", "sub-1.nii.gz"]
    os.remove(tmp_path / "out" / "sub-1.nii.gz")
    kept = os.stat(tmp_path / "out" / "sub-0.nii.gz").st_mtime_ns
    assert predict.main(argv) == 1
    assert predict.main([*argv, "--skip-bad", "--skip-existing"]) == 0
    assert os.stat(tmp_path / "out" / "sub-0.nii.gz").st_mtime_ns == kept
    assert (tmp_path / "out" / "sub-1.nii.gz").exists()


def test_predict_leaves_what_another_task_has_done_in_the_meantime(folder, tmp_path, monkeypatch):
    compute, output = predict._super_resolve, tmp_path / "out"

    def meanwhile(model, source, scan, arguments):
        output.mkdir(exist_ok=True)
        (output / source.name).write_bytes(b"of another task")
        return compute(model, source, scan, arguments)

    monkeypatch.setattr(predict, "_super_resolve", meanwhile)
    argv = [str(folder / "scans"), "-o", str(output), "--model", str(folder / "run")]
    assert predict.main([*argv, "--skip-existing"]) == 0
    assert {path.read_bytes() for path in output.iterdir()} == {b"of another task"}


def test_a_result_that_vanishes_meanwhile_is_not_made_of_another_scan(folder, tmp_path, monkeypatch):
    """The second scan's result is there when its turn comes, and at no other look."""
    looks = []

    def done(target, arguments):
        looks.append(target.name)
        return target.name == "sub-1.nii.gz" and looks.count(target.name) == 2

    monkeypatch.setattr(predict, "_done", done)
    argv = [str(folder / "scans"), "-o", str(tmp_path / "out"), "--model", str(folder / "run"), "--skip-existing"]
    assert predict.main(argv) == 0
    assert os.listdir(tmp_path / "out") == ["sub-0.nii.gz"]


THIN_PATCHES = [
    *("--set", "network.generator.filters=4"),
    *("--set", "patches.shape=[12,12,0]"),
    *("--set", "patches.step=[4,4,0]"),
]


@pytest.fixture
def thick_first(tmp_path):
    """Two scans whose thick axis is the array's first, their affine, and how they are trained on and predicted."""
    affine = np.array([[0, 0, 1.0, 5], [0, -1.1, 0, 7], [3.0, 0, 0, -9], [0, 0, 0, 1]])  # slices, then A-P, then L-R
    for i in range(2):
        data = (scans.blobs((24, 22, 20), affine, seed=i) + 20).astype(np.int16)
        scans.save(tmp_path / f"sub-{i}.nii.gz", data, affine)

    def trained(name, *options):
        argv = ["--recipe", name, "--data", str(tmp_path / "sub-0.nii.gz"), "--run", str(tmp_path / "run")]
        assert train.main([*argv, "--steps", "3", *options]) == 0
        return tmp_path / "run"

    def check_prediction(model, factor):
        """The result has its own orientation back, with thinner slices."""
        output = tmp_path / "result.nii.gz"
        argv = [str(tmp_path / "sub-1.nii.gz"), "-o", str(output), "--model", str(model), "--overwrite"]
        assert predict.main(argv) == 0
        result = read_volume(output)
        assert result.shape == (24 * factor, 22, 20)
        expected = GridMap.block_average((factor, 1, 1)).inverse().apply_to_affine(affine)
        np.testing.assert_allclose(result.affine, expected, atol=1e-4)

    return trained, check_prediction


def test_thick_slices_along_any_axis(thick_first, tmp_path):
    trained, check_prediction = thick_first
    run = trained("li2017_3dsrgan_r3", *THIN_PATCHES, "--set", "network.discriminator.filters=[4,4,8,8,8]")
    for model in (run, run / "saved_model"):
        check_prediction(model, 3)
    argv = ["--model", str(run), "--data", str(tmp_path / "sub-1.nii.gz"), "-o", str(tmp_path / "results")]
    assert evaluate.main(argv) == 0
    summary = json.loads((tmp_path / "results" / "table.json").read_text())["summary"]
    assert list(summary) == ["nearest", "linear", "cubic", "bspline4", "network"]
    assert summary["bspline4"]["psnr"]["mean"] > summary["nearest"]["psnr"]["mean"]


@pytest.mark.usefixtures("without_export")
@pytest.mark.parametrize(
    ("name", "factor", "options"),
    [
        ("li2017_3dsrcnn_r3", 2, [*THIN_PATCHES, "--set", "degradation.factor=2"]),
        ("li2017_2dsrcnn_r3", 3, ["--set", "network.generator.filters=4", "--set", "batch_size=1"]),
    ],
)
def test_thick_slices_by_other_networks(thick_first, name, factor, options):
    trained, check_prediction = thick_first
    check_prediction(trained(name, *options), factor)


@pytest.mark.usefixtures("without_export")
def test_real_pairs_by_a_table(tmp_path):
    """A thick and a thin scan of one person, listed; train on them, then measure on them."""
    thin_affine = np.diag([1.0, 1.1, 1.2, 1.0])
    thin = scans.blobs((16, 18, 24), thin_affine) + 20
    average = BlockAverage((1, 1, 3))
    scans.save(tmp_path / "thin.nii.gz", thin, thin_affine)
    thick_affine = average.grid_map(thin.shape).apply_to_affine(thin_affine)
    scans.save(tmp_path / "thick.nii.gz", 3 * average(thin), thick_affine)
    (tmp_path / "pairs.csv").write_text("low_res,high_res\nthick.nii.gz,thin.nii.gz\n")
    tiny = ["--set", "network.generator.filters=4", "--set", "batch_size=1"]
    argv = ["--recipe", "li2017_3dsrcnn_r3", "--data", str(tmp_path / "pairs.csv"), "--run", str(tmp_path / "run")]
    assert train.main([*argv, *tiny, "--steps", "2"]) == 0
    argv = ["--model", str(tmp_path / "run"), "--data", str(tmp_path / "pairs.csv"), "-o", str(tmp_path / "results")]
    assert evaluate.main(argv) == 0
    summary = json.loads((tmp_path / "results" / "table.json").read_text())["summary"]
    assert summary["cubic"]["psnr"]["mean"] > 25  # aligned and on the thin scan's scale


def _weights(run):
    """Every value of a run's newest state, by name."""
    reader = tf.train.load_checkpoint(tf.train.latest_checkpoint(run / "state"))
    names = [n for n in reader.get_variable_to_shape_map() if "OBJECT_GRAPH" not in n and "save_counter" not in n]
    return {name: reader.get_tensor(name) for name in names}


def test_killed_and_resumed_is_bit_for_bit_the_same(folder, tmp_path, monkeypatch):
    """SIGKILL, then SIGTERM in the middle; adversarial training with random labels and two optimisers."""
    data = ["--data", str(folder / "scans")]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    with monkeypatch.context() as patch:
        patch.setattr(loop, "export_run", lambda folder: None)
        assert train.main([*TINY_GAN, *data, "--run", str(whole), "--steps", "40", "--seed", "11"]) == 0

    command = [
        sys.executable,
        "-m",
        "tf_mrsr.train",
        *TINY_GAN,
        *data,
        "--run",
        str(killed),
        "--steps",
        "40",
        "--seed",
        "11",
    ]
    process = subprocess.Popen(
        [*command, "--checkpoint-minutes", "0"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    deadline = time.monotonic() + 240
    while not (killed / "log.csv").exists() or not read_csv(killed / "log.csv"):
        assert process.poll() is None, process.stderr.read().decode()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (killed / "saved_model").exists()

    def terminate_at_30(log, step, values):
        write(log, step, values)
        if step == 30:
            os.kill(os.getpid(), signal.SIGTERM)

    write = CsvLog.write
    resume = ["--run", str(killed), "--resume", *data]
    with monkeypatch.context() as patch:
        patch.setattr(CsvLog, "write", terminate_at_30)
        with pytest.raises(SystemExit, match=str(128 + signal.SIGTERM)):
            train.main(resume)
    assert run_folder.latest_checkpoint(killed / "state").endswith("-30")
    assert not (killed / "saved_model").exists()
    assert train.main(resume) == 0

    expected, actual = _weights(whole), _weights(killed)
    assert expected.keys() == actual.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(actual[name], value, err_msg=name)
    assert [row["step"] for row in read_csv(killed / "log.csv")] == ["10", "20", "30", "40"]


@pytest.fixture
def after_step(monkeypatch):
    """Sets what is called with the trainer and the step's number after each update, in the middle of the loop."""

    def install(act):
        def step_function(trainer, number):
            update = made(trainer, number)

            def updated(low_res, high_res, step):
                results = update(low_res, high_res, step)
                act(trainer, int(step) + 1)
                return results

            return updated

        made = loop.Trainer._step_function
        monkeypatch.setattr(loop.Trainer, "_step_function", step_function)

    return install


@pytest.mark.parametrize(("network", "stopped"), [(0, True), (1, False)])
def test_a_state_with_nan_is_not_kept(folder, tmp_path, after_step, capsys, network, stopped):
    def spoil(trainer, step):
        if step == 2:
            weight = trainer._networks[network].weights[0]
            weight.assign(np.full(weight.shape, np.nan))
            if stopped:
                os.kill(os.getpid(), signal.SIGTERM)

    after_step(spoil)
    run = ["--data", str(folder / SCAN), "--validation", str(folder / "scans" / "sub-1.nii.gz")]
    steps = ["--steps", "5", "--checkpoint-minutes", "60" if stopped else "0"]
    assert train.main([*TINY_GAN, *run, "--run", str(tmp_path / "run"), *steps]) == 1
    assert "the training diverged by step 2" in capsys.readouterr().err
    kept = run_folder.latest_checkpoint(tmp_path / "run" / "state")
    assert kept is None if stopped else kept.endswith("-1")


def test_a_stopped_run_predicts_with_its_last_step(folder, tmp_path, after_step):
    after_step(lambda trainer, step: os.kill(os.getpid(), signal.SIGTERM) if step == 2 else None)
    run = tmp_path / "run"
    with pytest.raises(SystemExit):
        train.main([*TINY_QUICK, "--data", str(folder / SCAN), "--run", str(run), "--steps", "5"])
    assert run_folder.latest_checkpoint(run / "state").endswith("-2")
    assert run_folder.latest_checkpoint(run / "generator").endswith("-2")
    assert predict.main([str(folder / SCAN), "-o", str(tmp_path / "x.nii.gz"), "--model", str(run)]) == 0


def test_a_signal_between_two_steps_waits_for_the_next_checkpoint(folder, tmp_path, monkeypatch):
    def advance(progress, note=""):
        notes.append(note)
        if len(notes) == 2:  # the first is of the scan that was read
            os.kill(os.getpid(), signal.SIGTERM)

    notes = []
    monkeypatch.setattr(loop.Progress, "advance", advance)
    with pytest.raises(SystemExit):
        train.main([*TINY_QUICK, "--data", str(folder / SCAN), "--run", str(tmp_path / "run"), "--steps", "5"])
    assert run_folder.latest_checkpoint(tmp_path / "run" / "state").endswith("-2")


@pytest.mark.usefixtures("without_export")
def test_the_speed_of_training_is_without_validation(folder, tmp_path, monkeypatch):
    def monotonic():
        clock[0] += 0.001
        return clock[0]

    def measure(validation, resolver):
        clock[0] += 1000
        return {"psnr": 1.0, "ssim": 0.5}

    clock = [0.0]
    monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=monotonic))
    monkeypatch.setattr(loop.Validation, "measure", measure)
    run = ["--data", str(folder / SCAN), "--validation", str(folder / "scans" / "sub-1.nii.gz")]
    assert train.main([*TINY_QUICK, *run, "--run", str(tmp_path / "run"), "--steps", "4"]) == 0
    assert float(read_csv(tmp_path / "run" / "log.csv")[0]["steps_per_second"]) > 1


def test_a_loss_that_grows_and_grows_ends_the_training(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(loop, "_HOPELESS", 0.1)  # so that any loss is too much
    run = ["--data", str(folder / "scans"), "--run", str(tmp_path / "run")]
    assert train.main([*TINY_GAN, *run, "--steps", "10"]) == 1
    assert "the training diverged by step 10" in capsys.readouterr().err


@pytest.mark.usefixtures("without_export")
def test_resume_can_go_further_where_the_learning_rate_is_constant(folder, tmp_path, capsys):
    data = ["--data", str(folder / "scans"), "--run", str(tmp_path / "run")]
    assert train.main([*TINY_GAN, *data, "--steps", "2"]) == 0
    assert train.main(["--resume", *data, "--steps", "4"]) == 0
    assert json.loads((tmp_path / "run" / "run.json").read_text())["steps"] == 4
    capsys.readouterr()
    assert train.main(["--resume", *data]) == 0  # nothing is left to do
    assert train.main(["--resume", *data, "--steps", "3"]) == 1
    assert "4 steps are done already" in capsys.readouterr().err


def test_a_run_is_trained_by_one_process_at_a_time(folder, tmp_path, capsys):
    shutil.copytree(folder / "run", tmp_path / "run")
    data = ["--data", str(folder / "scans" / "sub-0.nii.gz"), "--validation", str(folder / "scans" / "sub-1.nii.gz")]
    with run_folder.held(tmp_path / "run"):
        assert train.main(["--resume", "--run", str(tmp_path / "run"), *data]) == 1
    assert "run: another process trains this run" in capsys.readouterr().err


def test_resume_cannot_move_the_end_of_a_stage(folder, tmp_path, capsys):
    small = ["network.generator.filters=[2,2,2,2,2,2,2,2,1]", "network.generator.stages=2"]
    chosen = recipe.load("taloma2020_resgan_acm", small)
    assert not any(stage.generator.optimizer.depends_on_length for stage in chosen.stages)
    facts = {"seed": 0, "steps": 2, "precision": "float32", "data": "", "validation_data": ""}
    run_folder.create_run(tmp_path / "run", chosen, facts)
    pair = tmp_path / "pairs.csv"
    pair.write_text(f"source,target\n{folder / SCAN},{folder / 'scans' / 'sub-1.nii.gz'}\n")
    assert train.main(["--resume", "--run", str(tmp_path / "run"), "--data", str(pair), "--steps", "3"]) == 1
    assert "cannot change --steps: the recipe has several stages" in capsys.readouterr().err


@pytest.mark.parametrize("minutes", ["nan", "-1", "inf", "soon"])
def test_minutes_between_checkpoints(minutes):
    with pytest.raises(SystemExit):
        train.main(["--data", "a", "--run", "b", "--recipe", "c", "--checkpoint-minutes", minutes])


@pytest.mark.usefixtures("without_export")
def test_bfloat16_and_xla(folder, tmp_path):
    argv = [*TINY_GAN, "--data", str(folder / "scans"), "--run", str(tmp_path / "run"), "--steps", "2"]
    assert train.main([*argv, "--precision", "mixed_bfloat16", "--jit", "on"]) == 0
    assert float(read_csv(tmp_path / "run" / "log.csv")[0]["generator_loss"]) > 0
    argv = [str(folder / SCAN), "-o", str(tmp_path / "out.nii.gz"), "--model", str(tmp_path / "run")]
    assert predict.main(argv) == 0


def test_masks_of_cubes_with_their_slices_first(tmp_path):
    """A mask lies on the scan's grid whatever order the axes are brought into."""
    affine = np.array([[0, 0, 1.0, 0], [0, 1, 0, 0], [2.0, 0, 0, 0], [0, 0, 0, 1]])
    scans.save(tmp_path / "a.nii", scans.blobs((24, 24, 24), affine) + 20, affine)
    mask = np.zeros((24, 24, 24), np.uint8)
    mask[6:18, 4:20, 2:22] = 1
    (tmp_path / "masks").mkdir()
    scans.save(tmp_path / "masks" / "a.nii", mask, affine)
    case = prepare_case(Scan(tmp_path / "a.nii"), recipe.load("li2017_3dsrcnn_r3"), mask_source=tmp_path / "masks")
    np.testing.assert_array_equal(case.mask, mask.transpose(2, 1, 0) != 0)


def test_the_programs_recipes_measure_scans_of_odd_size_on_the_right_grid(tmp_path):
    """Zoom needs a multiple of the factor; a perfect network then stands where the truth stands."""
    scans.save(tmp_path / "a.nii", scans.blobs((49, 47, 46), np.eye(4)) + 20)
    case = prepare_case(Scan(tmp_path / "a.nii"), recipe.load("sanchez2018_srgan3d_x2_resize_code"), mask_source="none")
    assert case.truth.shape == (48, 46, 46)
    assert case.low_res.shape == (24, 23, 23)
    network = case.degradation.network_grid_map().apply_to_affine(case.low_res.affine)
    middle = np.array([*(np.array(case.truth.shape) - 1) / 2, 1])
    np.testing.assert_allclose(network @ middle, case.truth.affine @ middle, atol=1e-9)


@pytest.mark.usefixtures("without_export")
def test_another_seed_trains_other_weights(folder, tmp_path):
    for seed in ("1", "2"):
        argv = [
            *TINY_QUICK,
            "--data",
            str(folder / "scans"),
            "--run",
            str(tmp_path / seed),
            "--steps",
            "1",
            "--seed",
            seed,
        ]
        assert train.main(argv) == 0
    one, two = _weights(tmp_path / "1"), _weights(tmp_path / "2")
    assert any(not np.array_equal(one[name], two[name]) for name in one)


def test_running_out_of_memory_is_one_line(folder, tmp_path, monkeypatch, capsys):
    """As on a GPU with too large a batch or network; and in Python itself, while a scan is read."""

    def exhaust(*_, **__):
        raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor with shape[2,64,128,128,128]")

    argv = [*TINY_QUICK, "--data", str(folder / SCAN), "--steps", "2", "--run"]
    for where in ("_run_stage", "_build"):
        with monkeypatch.context() as patch:
            patch.setattr(loop.Trainer, where, exhaust)
            assert train.main([*argv, str(tmp_path / where)]) == 1
        assert "lower batch_size or patches.shape" in capsys.readouterr().err

    def read(*_, **__):
        raise MemoryError

    monkeypatch.setattr(cohort, "find_pairs", read)
    assert train.main([*argv, str(tmp_path / "b")]) == 1
    assert "not enough memory" in capsys.readouterr().err


def test_a_warning_stands_on_a_line_of_its_own(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr(sys, "stderr", Terminal())
    with Progress("reading", 3) as progress:
        progress.advance("a.nii")
        cli.warn("odd")
        lines = sys.stderr.getvalue().split("\r\x1b[K")
    assert lines[-1] == "warning: odd\n"


SCAN, RUN = "scans/sub-0.nii.gz", "run"
EVALUATED = ["--model", RUN, "--data", SCAN]
DIVERGING = ["--set", "stages.0.generator.optimizer.learning_rate=1e30"]
REFUSED = {
    "no scan": (predict.main, ["none.nii.gz", "-o", "x.nii", "--model", RUN], "none.nii.gz: no such file"),
    "no model": (predict.main, [SCAN, "-o", "x.nii", "--model", "nowhere"], "nowhere: no such folder"),
    "not a model": (predict.main, [SCAN, "-o", "x.nii", "--model", "scans"], "neither a run folder"),
    "no folder": (predict.main, [SCAN, "-o", "nowhere/x.nii", "--model", RUN], "does not exist; make it first"),
    "itself": (predict.main, [SCAN, "-o", SCAN, "--model", RUN, "--overwrite"], "is one of the scans itself"),
    "exists": (predict.main, [SCAN, "-o", SCAN, "--model", RUN], "exists already; give another name or --overwrite"),
    "two to one": (predict.main, [SCAN, "scans/sub-1.nii.gz", "-o", "x.nii", "--model", RUN], "need a folder"),
    "damaged": (predict.main, ["broken.nii.gz", "-o", "x.nii", "--model", RUN], "broken.nii.gz: damaged gzip"),
    "constant": (predict.main, ["flat.nii", "-o", "x.nii", "--model", RUN], "flat.nii: all voxels have the value 7"),
    "negative": (predict.main, ["minus.nii", "-o", "x.nii", "--model", RUN], "minus.nii: no voxel is over 0"),
    "tiny": (predict.main, ["tiny.nii", "-o", "x.nii", "--model", RUN], "tiny.nii: the volume has 4x5x6 voxels"),
    "no list column": (predict.main, ["bad.csv", "-o", "x", "--model", RUN], "a column 'path'"),
    "list of none": (predict.main, ["gone.csv", "-o", "x", "--model", RUN], "do not exist, the first is"),
    "no recipe": (train.main, ["--data", SCAN, "--run", "x"], "--recipe is needed"),
    "unknown recipe": (train.main, ["--recipe", "sanches", "--data", SCAN, "--run", "x"], "unknown recipe"),
    "unknown key": (train.main, [*TINY_QUICK, "--set", "patches.shap=1", "--data", SCAN, "--run", "x"], "did you mean"),
    "run exists": (train.main, [*TINY_QUICK, "--data", SCAN, "--run", RUN], "use --resume to go on"),
    "no run": (train.main, ["--resume", "--data", SCAN, "--run", "nowhere"], "expected a run folder"),
    "other data": (
        train.main,
        ["--resume", "--data", "scans", "--run", RUN],
        "the run began with other scans than --data names",
    ),
    "overlap": (train.main, [*TINY_QUICK, "--data", "scans", "--validation", SCAN, "--run", "x"], "keep them apart"),
    "too small": (
        train.main,
        ["--recipe", "sanchez2018_srgan3d_x2_resize", "--data", SCAN, "--run", "x"],
        "fewer than a patch",
    ),
    "bad scan": (train.main, [*TINY_QUICK, "--data", SCAN, "broken.nii.gz", "--run", "x"], "broken.nii.gz: damaged"),
    "empty folder": (train.main, [*TINY_QUICK, "--data", "empty", "--run", "x"], "no NIfTI file"),
    "network argument": (
        train.main,
        [*TINY_QUICK, "--set", "network.generator={scale: 2}", "--data", SCAN, "--run", "x"],
        "generator",
    ),
    "network argument before data": (
        train.main,
        [*TINY_QUICK, "--set", "network.generator.residual=none", "--data", "broken.nii.gz", "--run", "x"],
        "network.generator.residual must be true or false, got 'none'",
    ),
    "too little memory to validate": (
        train.main,
        [*TINY_QUICK, "--data", SCAN, "--validation", "scans/sub-1.nii.gz", "--run", "x", "--memory", "10K"],
        "sub-1.nii.gz: the volume and its result alone take",
    ),
    "no mask": (
        evaluate.main,
        ["--model", RUN, "--data", SCAN, "-o", "x", "--mask", "empty"],
        "no mask named sub-0.nii",
    ),
    "mask of no use": (
        evaluate.main,
        [*EVALUATED, "-o", "x", "--mask", "empty", "--protocol", "li2017"],
        "protocol li2017 uses no mask; leave --mask out",
    ),
    "little memory for a case": (
        evaluate.main,
        [*EVALUATED, "-o", "x", "--memory", "20KB"],
        "sub-0.nii.gz: the volume and its result alone take",
    ),
    "constant validation": (
        train.main,
        [*TINY_QUICK, "--data", SCAN, "--validation", "half.nii", "--run", "x"],
        "half: the truth is constant inside the mask",
    ),
    "no mask folder": (evaluate.main, ["--model", RUN, "--data", SCAN, "-o", "x", "--mask", "none2"], "no such folder"),
    "protocol": (evaluate.main, ["--model", RUN, "--data", SCAN, "-o", "x", "--protocol", "y"], "unknown protocol"),
    "same number of other data": (
        train.main,
        ["--resume", "--data", "scans/sub-1.nii.gz", "--validation", "scans/sub-0.nii.gz", "--run", RUN],
        "began with other scans",
    ),
    "other suffix": (predict.main, [SCAN, "-o", "x.mgz", "--model", RUN], "must end in .nii or .nii.gz"),
    "output among inputs": (predict.main, ["scans", "-o", "scans/sr", "--model", RUN], "whose scans are the input"),
    "empty list": (predict.main, ["none.csv", "-o", "x", "--model", RUN], "none.csv: lists no scans"),
    "run in a file": (train.main, [*TINY_QUICK, "--data", SCAN, "--run", "row.csv/run"], "row.csv: is a file"),
    "list row": (predict.main, ["row.csv", "-o", "x", "--model", RUN], "row 2 names no NIfTI file"),
    "damaged run": (predict.main, [SCAN, "-o", "x.nii", "--model", "damaged"], "checkpoint is damaged or of another"),
    "no index": (predict.main, [SCAN, "-o", "x.nii", "--model", "unindexed"], "'checkpoint' is missing or damaged"),
    "not results": (
        evaluate.main,
        ["--model", RUN, "--data", SCAN, "-o", "empty", "--overwrite"],
        "is not a results folder",
    ),
    "scans as results": (
        evaluate.main,
        ["--model", RUN, "--data", SCAN, "-o", "scans", "--overwrite"],
        "is not a results folder",
    ),
    "small case": (evaluate.main, ["--model", RUN, "--data", "small.nii", "-o", "x"], "small.nii: after degradation"),
    "small validation": (
        train.main,
        [*TINY_QUICK, "--data", SCAN, "--validation", "small.nii", "--run", "x"],
        "small.nii: after degradation",
    ),
    "not finite": (predict.main, ["huge.nii", "-o", "x.nii", "--model", RUN], "huge.nii: the result is not finite"),
    "long name": (predict.main, ["a" * 300 + ".nii", "-o", "x.nii", "--model", RUN], "File name too long"),
    "diverged": (
        train.main,
        [
            *TINY_QUICK,
            "--set",
            "stages.0.generator.optimizer.learning_rate=1e30",
            "--data",
            SCAN,
            "--run",
            "y",
            "--steps",
            "5",
        ],
        "the training diverged by step 5",
    ),
    "too little memory": (predict.main, [SCAN, "-o", "x.nii", "--model", RUN, "--memory", "20KB"], "raise --memory"),
    "falling rate": (
        train.main,
        ["--resume", "--data", SCAN, "--validation", "scans/sub-1.nii.gz", "--run", RUN, "--steps", "9"],
        "--resume cannot change --steps",
    ),
    "results exist": (evaluate.main, ["--model", RUN, "--data", SCAN, "-o", "scans"], "exists already"),
}


def half_of_seven():
    """0 and, inside the mask that is found, the same everywhere."""
    return np.full((24, 24, 24), [0] * 12 + [7] * 12, np.float32)


@pytest.mark.parametrize("name", REFUSED)
def test_refused_in_one_line_and_nothing_left_behind(folder, tmp_path, monkeypatch, capsys, name):
    for link in ("scans", "run"):
        (tmp_path / link).symlink_to(folder / link)
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.nii.gz").write_bytes((folder / SCAN).read_bytes()[:-30])
    scans.save(tmp_path / "flat.nii", np.full((9, 9, 9), 7, np.float32))
    scans.save(tmp_path / "minus.nii", -np.arange(729, dtype=np.float32).reshape(9, 9, 9))
    scans.save(tmp_path / "tiny.nii", np.arange(120, dtype=np.float32).reshape(4, 5, 6))
    scans.save(tmp_path / "small.nii", np.arange(12**3, dtype=np.float32).reshape(12, 12, 12))
    scans.save(tmp_path / "huge.nii", np.linspace(0, 3e38, 9**3, dtype=np.float32).reshape(9, 9, 9))
    scans.save(tmp_path / "half.nii", half_of_seven())
    (tmp_path / "none.csv").write_text("path\n")
    (tmp_path / "row.csv").write_text("path\nscans/sub-0.nii.gz\nnotes.txt\n")
    shutil.copytree(folder / "run", tmp_path / "damaged")
    data = next((tmp_path / "damaged" / "generator").glob("*.data*"))
    data.write_bytes(data.read_bytes()[:100])
    shutil.copytree(folder / "run", tmp_path / "unindexed")
    (tmp_path / "unindexed" / "generator" / "checkpoint").unlink()
    (tmp_path / "y").mkdir()  # a run that fails once it has begun keeps its folder
    (tmp_path / "bad.csv").write_text("file\na.nii\n")
    (tmp_path / "gone.csv").write_text("path\na.nii\n")
    monkeypatch.chdir(tmp_path)
    before = sorted(p for p in tmp_path.rglob("*") if "y" not in p.relative_to(tmp_path).parts)
    command, argv, words = REFUSED[name]
    assert command(argv) == 1
    # What a scan is unlike is said before the work, and so before what else is wrong.
    lines = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("warning: ")]
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert words in lines[0]
    assert sorted(p for p in tmp_path.rglob("*") if "y" not in p.relative_to(tmp_path).parts) == before


def test_skip_bad_names_what_it_leaves_out(folder, tmp_path, capsys):
    broken = tmp_path / "broken.nii.gz"
    broken.write_bytes((folder / SCAN).read_bytes()[:-30])
    argv = [
        *TINY_QUICK,
        "--data",
        str(folder / SCAN),
        str(broken),
        "--validation",
        str(folder / "scans" / "sub-1.nii.gz"),
        str(shutil.copy(broken, tmp_path / "held_out.nii.gz")),
        str(scans.save(tmp_path / "half.nii", half_of_seven())),
        "--run",
        str(tmp_path / "run"),
        "--steps",
        "1",
        "--skip-bad",
    ]
    assert train.main(argv) == 0
    warned = capsys.readouterr().err
    assert "warning: left out: " + str(broken) in warned
    assert "warning: left out: " + str(tmp_path / "held_out.nii.gz") in warned
    assert "warning: left out: half: the truth is constant" in warned
    assert (tmp_path / "run" / "saved_model").is_dir()
    assert [row["step"] for row in read_csv(tmp_path / "run" / "validation.csv")] == ["1"]


def test_evaluate_skips_what_is_bad(folder, tmp_path, capsys):
    broken = tmp_path / "broken.nii.gz"
    broken.write_bytes((folder / SCAN).read_bytes()[:-30])
    base = ["--model", str(folder / "run"), "-o", str(tmp_path / "results"), "--data", str(broken)]
    assert evaluate.main([*base, str(folder / SCAN)]) == 1
    assert f"error: {broken}: damaged" in capsys.readouterr().err
    assert evaluate.main([*base, str(folder / SCAN), "--skip-bad"]) == 0
    assert f"warning: left out: {broken}: damaged" in capsys.readouterr().err
    assert {row["case"] for row in read_csv(tmp_path / "results" / "table.csv")} == {"sub-0"}
    assert evaluate.main([*base, "--skip-bad", "--overwrite"]) == 1
    assert "none of the scans can be evaluated" in capsys.readouterr().err


@pytest.mark.parametrize("number", ["0", "-1", "1.5", "²", "1000001", "9" * 25])
def test_numbers_that_are_no_steps_or_seconds(capsys, number):
    for command, option in ((train, "--steps"), (predict, "--timeout")):
        with pytest.raises(SystemExit):
            command.main(["scan.nii", option, number])
        assert f"argument {option}" in capsys.readouterr().err


def test_an_empty_path_is_no_mask(capsys):
    with pytest.raises(SystemExit):
        evaluate.main(["--model", "m", "--data", "d", "-o", "x", "--mask", ""])
    assert "the path is empty" in capsys.readouterr().err


@pytest.mark.parametrize("command", list(__main__.COMMANDS))
def test_help(command, capsys):
    with pytest.raises(SystemExit) as stopped:
        __main__.main([command, "--help"])
    assert stopped.value.code == 0
    assert f"tf-mrsr {command}" in capsys.readouterr().out


def test_the_dispatcher(capsys):
    assert __main__.main([]) == 0
    assert __main__.main(["nonsense"]) == 2
    captured = capsys.readouterr()
    assert "predict" in captured.out
    assert "unknown command 'nonsense'" in captured.err


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("2GB", 2**31),
        ("1.5g", 3 * 2**29),
        ("500 MB", 500 * 2**20),
        ("4096", 4096),
        ("unlimited", 2**62),
        ("99999999TB", 2**62),
    ],
)
def test_memory_sizes(text, size):
    assert cli.memory_size(text) == size


@pytest.mark.parametrize("text", ["", "0", "0.1B", "GB", "-1GB", "1 potato"])
def test_what_is_no_memory_size(text):
    with pytest.raises(Exception, match="is not a size"):
        cli.memory_size(text)


@golden.needs_scans
def test_a_real_scan(folder, tmp_path):
    """A raw FLAIR scan of 320 x 320 x 48 voxels, oblique, LPS: grid and intensities are kept."""
    scan = golden.SHARED / "data" / "flair" / "sub-01_FLAIR.nii.gz"
    crop = nib.load(scan).slicer[100:150, 100:160, 10:34]
    nib.save(crop, tmp_path / "crop.nii.gz")
    assert (
        predict.main(
            [str(tmp_path / "crop.nii.gz"), "-o", str(tmp_path / "out.nii.gz"), "--model", str(folder / "run")]
        )
        == 0
    )
    result = nib.load(tmp_path / "out.nii.gz")
    np.testing.assert_allclose(result.affine, crop.affine @ np.diag([0.5, 0.5, 0.5, 1]), atol=1e-4)
    assert nib.aff2axcodes(result.affine) == nib.aff2axcodes(crop.affine) == ("L", "P", "S")
