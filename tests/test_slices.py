"""Thick slices to thin ones: pairs of series, networks of slices, the commands from end to end."""

import csv
import hashlib
import json
import shutil

import nibabel as nib
import numpy as np
import pytest
import tensorflow as tf

from tests import dicom_series, scans
from tests.networks.test_vgg19 import formula_weights, write_npy
from tf_mrsr import evaluate, intensity, model_folder, recipe
from tf_mrsr.__main__ import main
from tf_mrsr.cohort import Scan, find_pairs, read_scan
from tf_mrsr.degradation import MatchedSlices
from tf_mrsr.errors import DataError, RecipeError
from tf_mrsr.inference import models
from tf_mrsr.limits import UNLIMITED
from tf_mrsr.matched_series import match
from tf_mrsr.pairs import read_pair
from tf_mrsr.recipe import Optimizer
from tf_mrsr.serving import messages
from tf_mrsr.training.step import make_optimizer
from tf_mrsr.volume import read_volume, stem

SIZE = (24, 20)
SMALL = ["network.generator.filters=4", "network.generator.num_residual_blocks=1"]
SET = [item for change in SMALL for item in ("--set", change)]
TURN = nib.eulerangles.euler2mat(0.3, -0.2, 0.5)
THIN = nib.affines.from_matvec(TURN @ np.diag([0.9, 1.1, 1.0]), (12.0, -34.0, 56.0))
NUM_THIN = 27


def along_slices(index):
    """Index map: the first slice lies where slice ``index`` did."""
    move = np.eye(4)
    move[2, 3] = index
    return move


THICK = THIN @ along_slices(1) @ np.diag([1, 1, 3, 1])


@pytest.fixture(scope="module")
def patients(tmp_path_factory):
    """Three patients; each thick slice is the mean of three thin ones, of other intensities."""
    folder = tmp_path_factory.mktemp("patients")
    for number in range(3):
        (folder / f"p{number}").mkdir()
        thin = scans.blobs((*SIZE, NUM_THIN), THIN, seed=number) + 20
        thick = 0.8 * thin.reshape(*SIZE, NUM_THIN // 3, 3).mean(axis=-1)
        scans.save(folder / f"p{number}" / f"thin{number}.nii.gz", thin, THIN)
        scans.save(folder / f"p{number}" / f"thick{number}.nii.gz", thick.astype(np.float32), THICK)
    return folder


def pair(patients, number):
    folder = patients / f"p{number}"
    return Scan(folder / f"thin{number}.nii.gz", folder / f"thick{number}.nii.gz")


def write_list(path, *pairs):
    path.write_text("low_res,high_res\n" + "".join(f"{p.low_res},{p.high_res}\n" for p in pairs))
    return str(path)


@pytest.fixture(scope="module")
def model1(patients, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model1")
    lists = [write_list(folder / "train.csv", *(pair(patients, i) for i in (0, 1)))]
    lists.append(write_list(folder / "validation.csv", pair(patients, 2)))
    command = ["train", "--recipe", "narcomey2018_srresnet_model1", *SET, "--data", lists[0], "--validation", lists[1]]
    assert main([*command, "--run", str(folder / "run"), "--steps", "4"]) == 0
    with scans.loaded_once(folder / "run"):
        yield folder


def test_model1_from_end_to_end(model1, patients, tmp_path):
    thick = pair(patients, 2).low_res
    for name, model in (("run", model1 / "run"), ("saved", model1 / "run" / "saved_model")):
        assert main(["predict", str(thick), "-o", str(tmp_path / f"{name}.nii.gz"), "--model", str(model)]) == 0
    results = [nib.load(tmp_path / f"{name}.nii.gz") for name in ("run", "saved")]
    assert results[0].shape == (*SIZE, 9)
    np.testing.assert_allclose(results[0].affine, THICK, atol=1e-5)
    np.testing.assert_allclose(results[0].get_fdata(), results[1].get_fdata(), rtol=1e-5, atol=1e-3)

    command = ["evaluate", "--model", str(model1 / "run"), "--data", str(model1 / "validation.csv")]
    assert main([*command, "-o", str(tmp_path / "results")]) == 0
    rows = json.loads((tmp_path / "results" / "table.json").read_text())["cases"]
    assert [row["method"] for row in rows] == ["nearest", "network"]
    truth = nib.load(pair(patients, 2).high_res).get_fdata()[..., 1::3]
    for row, estimate in zip(rows, (nib.load(thick).get_fdata(), results[0].get_fdata()), strict=True):
        error = np.square(estimate - truth)
        assert row["mse"] == pytest.approx(error.mean() * SIZE[0], rel=1e-4)
        assert row["psnr"] == pytest.approx(10 * np.log10(np.ptp(truth) ** 2 / error.mean()), rel=1e-4)


def read(scan, factor=1, **changes):
    return read_pair(scan, MatchedSlices((1, 1, factor), **changes), nan="refuse", axes="slices_last")


def test_the_matched_slices_are_neither_resampled_nor_rescaled(patients):
    target, source = read(pair(patients, 0))
    files = [nib.load(path).get_fdata() for path in pair(patients, 0)]
    np.testing.assert_array_equal(target.data, files[0][..., 1::3].astype(np.float32))
    np.testing.assert_array_equal(source.data, files[1].astype(np.float32))
    np.testing.assert_allclose(target.affine, THICK, atol=1e-5)
    target, _ = read(pair(patients, 0), factor=3)
    np.testing.assert_array_equal(target.data, files[0].astype(np.float32))
    np.testing.assert_allclose(target.affine, THIN, atol=1e-5)


def save(path, data, affine):
    return scans.save(path, np.ascontiguousarray(data, np.float32), affine)


def noise(depth):
    return np.random.default_rng(0).uniform(1, 2, (*SIZE, depth))


def test_turned_and_flipped_series_are_brought_together(patients, tmp_path):
    """The same pair with the thin series stored backwards, mirrored, and with its slices along the first axis."""
    thin = nib.load(pair(patients, 0).high_res)
    flip = np.array([[1, 0, 0, 0], [0, -1, 0, SIZE[1] - 1], [0, 0, -1, NUM_THIN - 1], [0, 0, 0, 1.0]])
    data, affine = thin.get_fdata()[:, ::-1, ::-1], thin.affine @ flip
    turned = save(tmp_path / "thin.nii.gz", data.transpose(2, 0, 1), affine[:, [2, 0, 1, 3]])
    scan = pair(patients, 0)._replace(high_res=turned)
    for ours, expected in zip(read(scan, 3), read(pair(patients, 0), 3), strict=True):
        np.testing.assert_array_equal(ours.data, expected.data)
        np.testing.assert_allclose(ours.affine, expected.affine, atol=1e-4)
    volumes = [read_scan(path) for path in (scan.low_res, scan.high_res)]
    np.testing.assert_array_equal(match(scan, *volumes, 0.5).thin_numbers, NUM_THIN - 1 - 3 * np.arange(9))


def test_thick_slices_without_thin_ones_are_left_out(patients, tmp_path):
    """A thin series that begins far in front of the thick one and ends early."""
    rng = np.random.default_rng(0)
    thin = save(tmp_path / "thin.nii", rng.uniform(1, 2, (*SIZE, 40)), THIN @ along_slices(-25))
    scan = pair(patients, 0)._replace(high_res=thin)
    target, source = read(scan)
    # Thin slices lie at -25 ... 14, thick ones at 1, 4 ... 25; the one at 13 is the last that is covered.
    assert source.shape == (*SIZE, 5)
    np.testing.assert_array_equal(target.data, nib.load(thin).get_fdata()[..., 26:39:3].astype(np.float32))
    late = save(tmp_path / "late.nii", rng.uniform(1, 2, (*SIZE, 9)), THIN @ along_slices(6))
    _, source = read(scan._replace(high_res=late))
    np.testing.assert_allclose(source.affine[:3, 3], (THIN @ along_slices(7))[:3, 3], atol=1e-4)
    assert source.shape[2] == 3  # at 7, 10, 13


REFUSED = {
    "apart": (THIN @ along_slices(90), 9, "have no slices in the same place"),
    "another size": (THIN, None, "slices of 24x20 and 24x18 pixels"),
    "moved": (
        THIN @ np.array([[1, 0, 0, 1.2], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]),
        9,
        "up to 1.20 pixels apart",
    ),
    "tilted": (
        nib.affines.from_matvec(nib.eulerangles.euler2mat(0.1, 0, 0)) @ THIN,
        9,
        "do not have parallel slices",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_pairs_that_do_not_fit(name, patients, tmp_path):
    affine, depth, words = REFUSED[name]
    shape = (*SIZE, depth) if depth else (SIZE[0], SIZE[1] - 2, NUM_THIN)
    thin = save(tmp_path / "thin.nii", np.random.default_rng(0).uniform(1, 2, shape), affine)
    with pytest.raises(DataError, match=words):
        read(pair(patients, 0)._replace(high_res=thin))


def test_slices_that_lie_too_far_apart_are_named(patients, tmp_path):
    """Thin slices 4 apart, each used once, so that the last thick slice, at 25, gets the one at 32."""
    affine = THIN @ np.diag([1, 1, 4, 1])
    scan = pair(patients, 0)._replace(high_res=save(tmp_path / "thin.nii", noise(12), affine))
    words = r"slice 9 lies 7\.00 mm from slice 9 of .*more than 0\.5 of the 3\.00 mm between thick slices"
    with pytest.raises(DataError, match=words):
        read(scan)
    assert read(scan, max_distance=3)[1].shape == (*SIZE, 9)
    with pytest.raises(DataError, match=r"slices 3\.00 mm apart, but .* has slices 4\.00 mm apart"):
        read(scan, 3, max_distance=3)
    few = scan._replace(high_res=save(tmp_path / "few.nii", noise(8), affine))
    with pytest.raises(DataError, match=r"thick0.* and .*few\.nii: no high-resolution slice is left"):
        read(few)


def test_a_single_thin_scan_makes_its_own_thick_slices(tmp_path):
    affine = THIN @ np.diag([1, 1, 1.2, 1])
    scan = Scan(save(tmp_path / "thin.nii", noise(NUM_THIN), affine))
    thin = nib.load(scan.high_res).get_fdata()
    target, source = read(scan, simulated_thickness=5)
    np.testing.assert_allclose(source.data, thin[..., :25].reshape(*SIZE, 5, 5).mean(axis=-1), rtol=1e-5)
    np.testing.assert_array_equal(target.data, thin[..., 2:25:5].astype(np.float32))
    np.testing.assert_allclose(source.affine @ [3, 4, 2, 1], affine @ [3, 4, 12, 1], atol=1e-4)
    target, source = read(scan, factor=3)
    np.testing.assert_array_equal(target.data, thin.astype(np.float32))
    np.testing.assert_allclose(target.affine, affine, atol=1e-5)
    with pytest.raises(DataError, match="has 2 slices, fewer than the 3 that a thick slice averages"):
        read(Scan(save(tmp_path / "two.nii", noise(2), affine)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("degradation.factor=2", r"matched slices have the factors"),
        ("degradation.max_distance=0", "max_distance must be over 0"),
        ("degradation.simulated_thickness=4", "an odd number"),
        ("patches.shape=[0,0,0]", "1 along them"),
        ("patches={kind: grid, shape: [3, 0, 1], step: [3, 0, 1]}", "4 voxels or more"),
        ("axes=stored", "matched slices have the factors|needs axes slices_last"),
        ("evaluation.baselines=[cubic]", "the thick slice itself"),
        ("stages.0.generator.optimizer.drop_halfway=0", "drop_halfway must be over 0"),
        ("stages.0.generator.optimizer={learning_rate: 1, drop_halfway: 0.1, decay_per_epoch: 0.9}", "exclude each"),
        ("stages.0.generator.optimizer.decay_epochs=2", "decay_epochs must be 1 or more and goes with decay_per_epoch"),
    ],
)
def test_recipes_that_do_not_fit(change, message):
    with pytest.raises(RecipeError, match=message):
        recipe.load("narcomey2018_srresnet_model1", [change])


def test_networks_and_degradations_of_slices_go_together():
    with pytest.raises(RecipeError, match="vgg19_features' needs"):
        recipe.load("li2017_3dsrcnn_r3", ["stages.0.generator.content=[{loss: vgg19_features, weight: 1}]"])
    with pytest.raises(RecipeError, match=r"enlarges by \(1, 1, 3\), but .* \(1, 1, 1\)"):
        models.build_generator(recipe.load("narcomey2018_srresnet_model1", ["network.generator.out_channels=3"]))
    swapped = ["network={name: narcomey2018, generator: {}}", "departures=[]"]
    with pytest.raises(RecipeError, match="network of slices"):
        models.build_generator(recipe.load("li2017_3dsrcnn_r3", swapped))


def test_a_discriminator_of_other_slices_is_refused(model1, tmp_path, capsys):
    changes = [
        "network.discriminator.in_channels=3",
        "stages.1.generator.content=[{loss: mean_squared_error, weight: 1}]",
    ]
    command = ["train", "--recipe", "narcomey2018_srgan_model1", *SET, *(x for c in changes for x in ("--set", c))]
    assert main([*command, "--data", str(model1 / "train.csv"), "--run", str(tmp_path / "run"), "--steps", "1"]) == 1
    assert f"takes patches of {(*SIZE, 3)} voxels and channels, but would get {(*SIZE, 1)}" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_the_rate_drops_after_half_of_the_updates():
    for steps, full in ((1, 1), (2, 1), (5, 3), (100, 50)):
        rate = make_optimizer(Optimizer(0.5, drop_halfway=0.1), steps)._learning_rate
        rates = [float(rate(i)) for i in range(steps)]
        np.testing.assert_allclose(rates, [0.5] * full + [0.05] * (steps - full))


@pytest.fixture(scope="module")
def vgg19_file(tmp_path_factory):
    return write_npy(tmp_path_factory.mktemp("vgg19") / "vgg19.npy", formula_weights("chirp", 2.0))


MODEL2 = ["train", "--recipe", "narcomey2018_srgan_model2_code", *SET, "--steps", "2"]


@pytest.fixture(scope="module")
def model2(patients, vgg19_file, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model2")
    data = ["--data", write_list(folder / "train.csv", pair(patients, 0)), "--vgg19", str(vgg19_file)]
    assert main([*MODEL2, *data, "--run", str(folder / "run")]) == 0
    with scans.loaded_once(folder / "run"):
        yield folder


def test_model2_from_end_to_end(model2, patients, vgg19_file, tmp_path):
    losses = np.genfromtxt(model2 / "run" / "log.csv", delimiter=",", names=True)
    assert losses["vgg19_features"][-1] > 0
    assert losses["discriminator_loss"][-1] > 0
    kept = json.loads((model2 / "run" / "run.json").read_text())["vgg19"]
    assert kept == {"path": str(vgg19_file), "sha256": hashlib.sha256(vgg19_file.read_bytes()).hexdigest()}

    thick = pair(patients, 2).low_res
    output = tmp_path / "thin.nii.gz"
    assert main(["predict", str(thick), "-o", str(output), "--model", str(model2 / "run" / "saved_model")]) == 0
    result = nib.load(output)
    assert result.shape == (*SIZE, NUM_THIN)
    np.testing.assert_allclose(result.affine, THIN, atol=1e-4)

    data = write_list(tmp_path / "pairs.csv", pair(patients, 2))
    command = ["evaluate", "--model", str(model2 / "run"), "--data", data, "-o", str(tmp_path / "results")]
    assert main(command) == 0
    rows = {row["method"]: row for row in json.loads((tmp_path / "results" / "table.json").read_text())["cases"]}
    assert list(rows) == ["nearest", "linear", "cubic", "network"]
    truth = nib.load(pair(patients, 2).high_res).get_fdata()
    assert rows["network"]["mse"] == pytest.approx(np.square(result.get_fdata() - truth).mean(), rel=1e-4)
    copied = nib.load(thick).get_fdata().repeat(3, axis=2)
    assert rows["nearest"]["mse"] == pytest.approx(np.square(copied - truth).mean(), rel=1e-4)


@pytest.fixture(scope="module", params=["model1", "model2"])
def exported(request, tmp_path_factory):
    """A run, what it was exported to, and that loaded."""
    run = request.getfixturevalue(request.param) / "run"
    folder = tmp_path_factory.mktemp("exported") / request.param
    assert main(["export", "--model", str(run), "-o", str(folder), "--contrast", "T1w"]) == 0
    return run, folder / "1", tf.saved_model.load(str(folder / "1")).signatures


def test_an_exported_network_of_slices_is_the_run(exported, patients):
    run, _, signatures = exported
    assert set(signatures) == {"serving_default", "slices", "bytes"}
    scan = read_volume(pair(patients, 2).low_res)
    ours = models.load(run).super_resolve(scan, UNLIMITED)
    place = {"affine": tf.constant(scan.affine), "memory_bytes": tf.constant(UNLIMITED, tf.int64)}
    result = signatures["serving_default"](volume=tf.constant(scan.data), **place)
    np.testing.assert_allclose(result["volume"], ours.data, rtol=1e-6)
    np.testing.assert_array_equal(result["affine"], ours.affine)
    result = signatures["bytes"](volume_bytes=tf.io.serialize_tensor(scan.data), **place)
    np.testing.assert_allclose(tf.io.parse_tensor(result["volume_bytes"], tf.float32), ours.data, rtol=1e-6)
    # The network alone, on slices in network range; its channels are neighbouring slices.
    window = intensity.measure(models.load(run).recipe.intensity.kind, scan.data)
    slices = window.to_network(np.moveaxis(scan.data, 2, 0)[..., None])
    estimated = window.to_scan(signatures["slices"](slices=tf.constant(slices))["slices"].numpy())
    joined = estimated.transpose(1, 2, 0, 3).reshape(ours.shape)
    np.testing.assert_allclose(joined, ours.data, atol=1e-5 * ours.data.max())


def test_the_card_of_an_exported_network_of_slices(exported, model1, patients, tmp_path, capsys):
    run, folder, _ = exported
    card = model_folder.read_card(folder)
    assert card.by_slice
    assert card.spacing_mm.least == card.spacing_mm.most == (0.9, 1.1, 3 / card.factors[2])
    # The model's own kind of scan, and one that has no thick slices.
    command = ["-o", str(tmp_path / "out.nii.gz"), "--model", str(folder), "--strict"]
    assert main(["predict", str(pair(patients, 2).low_res), *command]) == 0
    assert "warning" not in capsys.readouterr().err
    cubes = scans.save(tmp_path / "cubes.nii", scans.blobs((16, 16, 16), np.eye(4)) + 20, np.eye(4))
    assert main(["predict", str(cubes), *command, "--overwrite"]) == 1
    made = "a thin slice in the place of each" if run.parent == model1 else "3 thin slices out of each"
    assert f"have no thick axis; the model makes {made} thick one" in capsys.readouterr().err


def test_warm_up_requests_of_a_network_of_slices(exported):
    _, folder, signatures = exported
    asked = []
    for record in tf.data.TFRecordDataset(str(folder / "assets.extra" / "tf_serving_warmup_requests")):
        request = messages.PredictionLog.FromString(record.numpy()).predict_log.request
        inputs = {name: tf.constant(messages.from_tensor(tensor)) for name, tensor in request.inputs.items()}
        signature = signatures[request.model_spec.signature_name]
        assert set(signature(**inputs)) == set(signature.structured_outputs)
        asked.append(request.model_spec.signature_name)
    assert sorted(asked) == ["bytes", "serving_default", "slices"]


VOLUME = np.linspace(0, 1, 24 * 20 * 4, dtype=np.float32).reshape(24, 20, 4)
INVALID = {
    "nan": (np.where(VOLUME == 1, np.nan, VOLUME), THICK, "the volume holds NaN"),
    "small slices": (VOLUME[:7], THICK, r"8 voxels or more along the axes\] \[0 1\] \[\(from 0\), it has\] \[7 20 4\]"),
    "no slices": (VOLUME[..., :0], THICK, "it has"),
    "3 x 4": (VOLUME, THICK[:3], r"\[3,4\] is not compatible"),
    "singular": (VOLUME, THICK @ np.diag([1, 1, 0, 1]), "the affine is singular"),
}


@pytest.mark.parametrize("name", INVALID)
def test_invalid_volumes_are_refused_in_the_graph_of_slices(exported, name):
    volume, affine, words = INVALID[name]
    with pytest.raises(tf.errors.InvalidArgumentError, match=words):
        exported[2]["serving_default"](
            volume=tf.constant(volume, tf.float32),
            affine=tf.constant(affine),
            memory_bytes=tf.constant(UNLIMITED, tf.int64),
        )


def test_invalid_slices_are_refused_in_the_graph(exported):
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"\[2,24,20,2\] is not compatible"):
        exported[2]["slices"](slices=tf.zeros((2, 24, 20, 2)))


def test_going_on_finds_the_same_weights_of_vgg19(model2, patients, vgg19_file, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(model2 / "run", run)
    again = ["train", "--resume", "--run", str(run), "--data", str(model2 / "train.csv")]
    assert main(again) == 0
    other = write_npy(tmp_path / "other.npy", formula_weights("sine", 1.0))
    assert main([*again, "--vgg19", str(other)]) == 1
    assert "not the weights of VGG19 that the run began with" in capsys.readouterr().err


def test_vgg19_is_asked_for_and_refused_where_it_means_nothing(patients, vgg19_file, tmp_path, capsys):
    data = ["--data", write_list(tmp_path / "train.csv", pair(patients, 0)), "--run", str(tmp_path / "run")]
    assert main([*MODEL2, *data]) == 1
    assert "give their file. It comes from https://" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    command = ["train", "--recipe", "narcomey2018_srresnet_model1", *data, "--vgg19", str(vgg19_file)]
    assert main(command) == 1
    assert "has no feature loss; leave --vgg19 out" in capsys.readouterr().err


def test_prepare_lists_pairs_and_slices(patients, tmp_path, capsys):
    assert main(["prepare", str(patients), "-o", str(tmp_path / "pairs.csv")]) == 0
    found = find_pairs([tmp_path / "pairs.csv"])
    assert [tuple(p.resolve() for p in scan) for scan in found] == [pair(patients, i) for i in range(3)]
    with (tmp_path / "pairs_slices.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 27
    assert rows[10] == {"patient": "p1", "low_res_slice": "2", "high_res_slice": "5", "distance_mm": "0.000"}
    assert main(["prepare", str(patients), "-o", str(tmp_path / "pairs.csv")]) == 1
    assert "pairs.csv: exists already" in capsys.readouterr().err
    assert main(["prepare", str(patients), "-o", str(tmp_path / "pairs.csv"), "--overwrite"]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pairs.csv", "pairs_slices.csv"]


def test_prepare_refuses_far_slices_and_odd_patients(patients, tmp_path, capsys):
    for number in (0, 1):
        shutil.copytree(patients / f"p{number}", tmp_path / "patients" / f"p{number}")
    shifted = THIN @ along_slices(1.7) @ np.diag([1, 1, 5, 1])
    save(tmp_path / "patients" / "p0" / "thin0.nii.gz", noise(5), shifted)
    save(tmp_path / "patients" / "p0" / "thick0.nii.gz", noise(4), THIN @ np.diag([1, 1, 6, 1]))
    command = ["prepare", str(tmp_path / "patients"), "-o", str(tmp_path / "pairs.csv")]
    assert main([*command, "--max-distance", "0.2"]) == 1
    assert "slice 1 lies 1.70 mm from slice 1" in capsys.readouterr().err
    assert not (tmp_path / "pairs.csv").exists()
    save(tmp_path / "patients" / "p0" / "third.nii", noise(4), THIN)
    assert main(command) == 1
    assert "has 3 scans; expected two" in capsys.readouterr().err
    assert main([*command, "--skip-bad"]) == 0
    assert "left out: " in capsys.readouterr().err
    assert len(find_pairs([tmp_path / "pairs.csv"])) == 1


def test_prepare_and_prediction_of_dicom(model1, tmp_path):
    """Two series in folders of their own; a derived series with the thick one's slices comes out."""
    affine = dicom_series.AFFINE @ np.diag([1, 1, 0.5, 1])
    thin = dicom_series.voxels((24, 20, 24), affine) + 5
    thick = np.rint(thin.reshape(24, 20, 8, 3).mean(axis=-1)).astype(np.int32)
    thick_affine = affine @ along_slices(1) @ np.diag([1, 1, 3, 1])
    for name, data, place in (("a", thin, affine), ("b", thick, thick_affine)):
        (tmp_path / "patients" / "p" / name).mkdir(parents=True)
        dicom_series.save(tmp_path / "patients" / "p" / name, dicom_series.slices(data, place))
    assert main(["prepare", str(tmp_path / "patients"), "-o", str(tmp_path / "pairs.csv")]) == 0
    assert find_pairs([tmp_path / "pairs.csv"]) == [
        Scan(tmp_path / "patients" / "p" / "a", tmp_path / "patients" / "p" / "b")
    ]
    command = ["predict", str(tmp_path / "patients" / "p" / "b"), "-o", str(tmp_path / "derived")]
    assert main([*command, "--model", str(model1 / "run")]) == 0
    derived = read_volume(tmp_path / "derived")
    np.testing.assert_allclose(derived.affine, thick_affine, atol=1e-3)
    assert derived.shape == (24, 20, 8)


def test_names_that_recur_among_patients_get_their_folders(tmp_path):
    pairs = [Scan(tmp_path / person / "thin.nii") for person in ("a", "b")]
    assert evaluate._names(pairs) == ["a_thin", "b_thin"]
    assert evaluate._names(pairs[:1]) == ["thin"]
    above = [Scan(tmp_path / person / "T1w" / "scan.nii") for person in ("a", "b")]
    assert evaluate._names(above) == ["a_T1w_scan", "b_T1w_scan"]
    with pytest.raises(DataError, match=r"two scans are named [\w-]*a_thin"):
        evaluate._names([pairs[0], pairs[0]])


def test_prepare_lists_links_under_their_own_names(patients, tmp_path):
    """As DataLad keeps files: under keys that need not have an ending."""
    (tmp_path / "store").mkdir()
    (tmp_path / "people" / "p").mkdir(parents=True)
    for path in (patients / "p0").iterdir():
        shutil.copy(path, tmp_path / "store" / f"key-{stem(path)}")
        (tmp_path / "people" / "p" / path.name).symlink_to(tmp_path / "store" / f"key-{stem(path)}")
    assert main(["prepare", str(tmp_path / "people"), "-o", str(tmp_path / "pairs.csv")]) == 0
    folder = tmp_path / "people" / "p"
    assert find_pairs([tmp_path / "pairs.csv"]) == [Scan(folder / "thin0.nii.gz", folder / "thick0.nii.gz")]


def test_a_link_to_a_store_keeps_its_name(tmp_path):
    (tmp_path / "store").mkdir()
    pairs = []
    for person in ("a", "b"):
        (tmp_path / person).mkdir()
        (tmp_path / "store" / f"key-{person}.nii").write_bytes(b"")
        (tmp_path / person / "thin.nii").symlink_to(tmp_path / "store" / f"key-{person}.nii")
        pairs.append(Scan(tmp_path / person / "thin.nii"))
    assert evaluate._names(pairs) == ["a_thin", "b_thin"]
