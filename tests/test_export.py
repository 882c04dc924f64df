"""The export command, and the exported folder through every way of loading it."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import tensorflow as tf
import yaml

from tests import scans
from tf_mrsr import export, model_folder, predict, recipe, train
from tf_mrsr.conversion import keras_files
from tf_mrsr.errors import ModelError, OutputError
from tf_mrsr.inference import models
from tf_mrsr.limits import UNLIMITED
from tf_mrsr.networks.structure import up_to_stage
from tf_mrsr.serving import config, messages
from tf_mrsr.training.loop import Trainer
from tf_mrsr.volume import Volume

TINY = [
    *("--recipe", "sanchez2018_srgan3d_x2_quick"),
    *("--set", "network.generator.filters=4", "--set", "network.generator.num_residual_blocks=1"),
    *("--set", "patches.shape=[16,16,16]", "--set", "patches.per_volume=8"),
]
VOLUME = scans.blobs((14, 12, 10), scans.OBLIQUE) + 1
MEMORY = np.int64(2**40)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A scan, a run on it, and the run exported: models/x2/1."""
    folder = tmp_path_factory.mktemp("export")
    data = (scans.blobs((25, 22, 20), scans.OBLIQUE) + 20).astype(np.int16)
    scans.save(folder / "sub-0_T1w.nii.gz", data, scans.OBLIQUE)
    run = [*TINY, "--data", str(folder / "sub-0_T1w.nii.gz"), "--run", str(folder / "run"), "--steps", "2"]
    assert train.main([*run, "--seed", "5"]) == 0
    stated = ["--data-description", "one head", "--licence", "CC0", "--contrast", "T1w"]
    assert export.main(["--model", str(folder / "run"), "-o", str(folder / "models" / "x2"), *stated]) == 0
    with scans.loaded_once(folder / "run"):
        yield folder


@pytest.fixture(scope="module")
def exported(folder):
    return folder / "models" / "x2" / "1"


@pytest.fixture(scope="module")
def averager(tmp_path_factory):
    """A model that averages patches, saved."""
    changes = ["network.generator.filters=[2,2,2,2,2,2,2,2,1]", "prediction.patch=12", "prediction.stride=6"]
    chosen = recipe.load("taloma2020_adv", changes)
    window = (100.0, 50.0) if chosen.intensity.target == "own" else None
    model = models.Model(chosen, models.resolver_for(chosen, models.build_generator(chosen), window))
    folder = tmp_path_factory.mktemp("averager") / "1"
    models.save(model, folder)
    return model, folder


def expected(folder, volume=VOLUME, affine=scans.OBLIQUE):
    return models.load(folder / "run").super_resolve(Volume(volume, affine), UNLIMITED)


def test_the_card_tells_of_the_run(folder, exported):
    card = json.loads((exported / "card.json").read_text())
    assert (card["name"], card["recipe"], card["factors"]) == ("x2", "sanchez2018_srgan3d_x2_quick", [2, 2, 2])
    assert card["facts"] == {"data": "one head", "licence": "CC0", "contrasts": ["T1w"], "notes": ""}
    assert card["training"] == {
        "tf_mrsr": "0.1.0",
        "seed": 5,
        "steps": 2,
        "precision": "float32",
        "scans": 1,
        "start_from": None,
    }
    assert card["spacing_mm"] == {"least": [0.9, 1.1, 2.0], "most": [0.9, 1.1, 2.0]}
    assert {"saved_model.pb", "README.md", "assets.extra/tf_serving_warmup_requests"} <= set(card["files"])
    assert "one head" in (exported / "README.md").read_text()
    # What training leaves is the same kind of folder.
    assert model_folder.read_card(folder / "run" / "saved_model").training == model_folder.read_card(exported).training


def test_signatures_explain_themselves(exported):
    signatures = tf.saved_model.load(str(exported)).signatures
    named = {name: (set(s.structured_input_signature[1]), set(s.structured_outputs)) for name, s in signatures.items()}
    assert named == {
        "serving_default": ({"volume", "affine", "memory_bytes"}, {"volume", "affine"}),
        "patches": ({"patches"}, {"patches"}),
        "bytes": ({"volume_bytes", "affine", "memory_bytes"}, {"volume_bytes", "affine"}),
    }


def test_bytes_and_patches(folder, exported):
    signatures = tf.saved_model.load(str(exported)).signatures
    ours = expected(folder)
    result = signatures["bytes"](
        volume_bytes=tf.io.serialize_tensor(VOLUME), affine=tf.constant(scans.OBLIQUE), memory_bytes=tf.constant(MEMORY)
    )
    np.testing.assert_allclose(tf.io.parse_tensor(result["volume_bytes"], tf.float32), ours.data, rtol=1e-6)
    np.testing.assert_array_equal(result["affine"], ours.affine)
    # The network alone on what the whole way gives it, twice in a batch: half of the maximum, both ways.
    half = VOLUME.max() / 2
    batch = np.stack([(VOLUME - half) / half] * 2)[..., None]
    patches = signatures["patches"](patches=tf.constant(batch))["patches"].numpy()
    for patch in patches:
        np.testing.assert_allclose(patch[..., 0] * half + half, ours.data, atol=1e-4 * ours.data.max())


def in_session(folder, inputs, signature="serving_default"):
    """As TensorFlow Serving: the graph and its variables, no Python objects."""
    with tf.compat.v1.Session(graph=tf.Graph()) as session:
        loaded = tf.compat.v1.saved_model.load(session, ["serve"], str(folder)).signature_def[signature]
        feeds = {loaded.inputs[name].name: value for name, value in inputs.items()}
        return session.run({name: info.name for name, info in loaded.outputs.items()}, feeds)


def test_the_same_in_a_session(folder, exported):
    result = in_session(exported, {"volume": VOLUME, "affine": scans.OBLIQUE, "memory_bytes": MEMORY})
    ours = expected(folder)
    np.testing.assert_allclose(result["volume"], ours.data, atol=1e-5 * ours.data.max())
    np.testing.assert_array_equal(result["affine"], ours.affine)


def test_the_same_through_saved_model_cli(folder, exported, tmp_path):
    inputs = {"volume": VOLUME, "affine": scans.OBLIQUE, "memory_bytes": MEMORY}
    for name, value in inputs.items():
        np.save(tmp_path / f"{name}.npy", value)
    argv = ["run", "--dir", str(exported), "--tag_set", "serve", "--signature_def", "serving_default"]
    files = ";".join(f"{name}={tmp_path / name}.npy" for name in inputs)
    module = "from tensorflow.python.tools.saved_model_cli import main; main()"
    command = [sys.executable, "-c", module, *argv, "--inputs", files, "--outdir", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    ours = expected(folder)
    # It writes its outputs under the names of the signature's.
    np.testing.assert_allclose(np.load(tmp_path / "out" / "volume.npy"), ours.data, atol=1e-5 * ours.data.max())


def _nan(volume):
    volume = volume.copy()
    volume[1, 2, 3] = np.nan
    return volume


def _flat(affine):
    affine = affine.copy()
    affine[:3, 1] = affine[:3, 0]
    return affine


INVALID = {
    "nan": (_nan(VOLUME), scans.OBLIQUE, "the volume holds NaN or infinite voxels"),
    "infinite": (VOLUME * np.float32(np.inf), scans.OBLIQUE, "the volume holds NaN or infinite voxels"),
    "small": (VOLUME[:7], scans.OBLIQUE, r"8 voxels or more .* \[0 1 2\] \[\(from 0\), it has\] \[7 12 10\]"),
    "3 x 4": (VOLUME, scans.OBLIQUE[:3], r"\[3,4\] is not compatible with expected shape \[4,4\]"),
    "3 x 3": (VOLUME, scans.OBLIQUE[:3, :3], r"\[3,3\] is not compatible with expected shape \[4,4\]"),
    "singular": (VOLUME, _flat(scans.OBLIQUE), "the affine is singular"),
    "zero": (VOLUME, np.diag([0.0, 1, 1, 1]), "the affine is singular"),
    "nan affine": (VOLUME, scans.OBLIQUE * np.nan, "the affine holds NaN"),
    "last row": (VOLUME, scans.OBLIQUE.T.copy(), "the last row of the affine must be 0 0 0 1"),
}


@pytest.fixture(scope="module")
def session(exported):
    session = tf.compat.v1.Session(graph=tf.Graph())
    with session.graph.as_default():  # not for longer: what other tests run is eager
        signatures = tf.compat.v1.saved_model.load(session, ["serve"], str(exported)).signature_def
    yield session, signatures
    session.close()


@pytest.fixture(scope="module")
def loaded(exported):
    return tf.saved_model.load(str(exported))


@pytest.mark.parametrize("name", INVALID)
def test_invalid_input_is_refused_with_a_reason(loaded, session, name):
    volume, affine, words = INVALID[name]
    inputs = {"volume": volume, "affine": affine, "memory_bytes": MEMORY}
    with pytest.raises(tf.errors.InvalidArgumentError, match=words):
        loaded.signatures["serving_default"](**{key: tf.constant(value) for key, value in inputs.items()})
    running, signatures = session
    spec = signatures["serving_default"]
    feeds = {spec.inputs[key].name: value for key, value in inputs.items()}
    with pytest.raises(tf.errors.InvalidArgumentError, match=words):
        running.run(spec.outputs["volume"].name, feeds)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"junk", "Could not parse"),
        (tf.io.serialize_tensor(VOLUME[0]).numpy(), r"\[12,10\] is not compatible"),
        (tf.io.serialize_tensor(VOLUME.astype(np.float64)).numpy(), "double"),
        (tf.io.serialize_tensor(_nan(VOLUME)).numpy(), "holds NaN"),
    ],
    ids=["junk", "rank 2", "float64", "nan"],
)
def test_invalid_bytes(loaded, content, words):
    with pytest.raises(tf.errors.InvalidArgumentError, match=words):
        loaded.signatures["bytes"](
            volume_bytes=tf.constant(content), affine=tf.constant(scans.OBLIQUE), memory_bytes=tf.constant(MEMORY)
        )


def test_patches_of_several_channels_are_refused(loaded):
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"\[1,9,9,9,2\] is not compatible"):
        loaded.signatures["patches"](patches=tf.zeros((1, 9, 9, 9, 2)))


def test_another_rank_is_refused(loaded, session):
    with pytest.raises(tf.errors.InvalidArgumentError):
        loaded.signatures["serving_default"](
            volume=tf.constant(VOLUME[0]), affine=tf.constant(scans.OBLIQUE), memory_bytes=tf.constant(MEMORY)
        )
    running, signatures = session
    spec = signatures["serving_default"]
    with pytest.raises(ValueError, match=r"which has shape (\(None, None, None\)|'\(None, None, None\)')"):
        running.run(spec.outputs["volume"].name, {spec.inputs["volume"].name: VOLUME[0]})


def warm_up_requests(folder):
    file = folder / "assets.extra" / "tf_serving_warmup_requests"
    for record in tf.data.TFRecordDataset(str(file)):
        yield messages.PredictionLog.FromString(record.numpy()).predict_log.request


@pytest.mark.parametrize("kind", ["whole", "patches"])
def test_warm_up_requests_run(kind, exported, averager):
    folder = exported if kind == "whole" else averager[1]
    signatures = tf.saved_model.load(str(folder)).signatures
    asked = set()
    for request in warm_up_requests(folder):
        signature = signatures[request.model_spec.signature_name]
        inputs = {name: messages.from_tensor(tensor) for name, tensor in request.inputs.items()}
        outputs = signature(**{name: tf.constant(value) for name, value in inputs.items()})
        assert set(outputs) == set(signature.structured_outputs)
        asked.add(request.model_spec.signature_name)
    assert asked == set(signatures)


def test_averaging_takes_a_stride_and_has_one_of_its_own(averager):
    model, folder = averager
    signatures = tf.saved_model.load(str(folder)).signatures
    volume = scans.blobs((20, 18, 16), np.eye(4)) + 1
    place = {"affine": tf.constant(np.eye(4)), "memory_bytes": tf.constant(MEMORY)}
    results = [
        signatures["serving_default"](volume=tf.constant(volume), stride=tf.constant(stride), **place)["volume"]
        for stride in (6, 12)
    ]
    default = signatures["bytes"](volume_bytes=tf.io.serialize_tensor(volume), **place)["volume_bytes"]
    np.testing.assert_allclose(tf.io.parse_tensor(default, tf.float32), results[0], rtol=1e-5)
    assert not np.allclose(results[0], results[1])
    ours = model.super_resolve(Volume(volume, np.eye(4)), UNLIMITED)
    np.testing.assert_allclose(ours.data, results[0], rtol=1e-5)
    for stride in (0, 13):
        with pytest.raises(tf.errors.InvalidArgumentError, match=f"1 to 12 voxels, a whole patch, got.*{stride}"):
            signatures["serving_default"](volume=tf.constant(volume), stride=tf.constant(stride), **place)


def test_a_saved_model_is_exported_again_with_new_facts(folder, exported, tmp_path):
    assert (
        export.main(["--model", str(folder / "models" / "x2"), "-o", str(tmp_path / "again"), "--licence", "MIT"]) == 0
    )
    again = tmp_path / "again" / "1"
    first, second = model_folder.read_card(exported), model_folder.read_card(again)
    assert (second.name, second.facts.licence, second.facts.data) == ("again", "MIT", "one head")
    assert second.training == first.training
    results = [models.load(f).super_resolve(Volume(VOLUME, scans.OBLIQUE), UNLIMITED).data for f in (exported, again)]
    np.testing.assert_array_equal(*results)


@pytest.mark.parametrize("source", ["run", "models/x2"])
def test_training_goes_on_from_a_trained_model(folder, source, tmp_path, monkeypatch):
    """With a learning rate that moves nothing, the run ends with the weights that it was given, killed early or not."""
    still = [
        "stages.0.generator.optimizer.learning_rate=1e-30",
        "stages.0.generator.optimizer.final_learning_rate=null",
    ]
    command = [*TINY, "--data", str(folder / "sub-0_T1w.nii.gz"), "--run", str(tmp_path / "run"), "--steps", "1"]
    for value in still:
        command += ["--set", value]
    command += ["--start-from", str(folder / source)]
    with monkeypatch.context() as patch:  # killed before the first checkpoint that a step leads to
        patch.setattr(Trainer, "run", lambda self: sys.exit(143))
        with pytest.raises(SystemExit):
            train.main(command)
    assert train.main(["--resume", *command[len(TINY) : len(TINY) + 4]]) == 0
    given, kept = (models.load_generator(run).trainable_variables for run in (folder / "run", tmp_path / "run"))
    for one, other in zip(given, kept, strict=True):
        np.testing.assert_array_equal(one, other)
    card = model_folder.read_card(tmp_path / "run" / "saved_model")
    assert card.training.start_from == source.rpartition("/")[2]
    assert f"begun with the weights of {card.training.start_from}" in (
        tmp_path / "run" / "saved_model" / "README.md"
    ).read_text(encoding="utf-8")


def test_another_factor_is_another_network(tmp_path, capsys):
    """The arguments are the same there: the factor comes from the degradation."""
    small = ["network.generator.filters=2", "patches.shape=[8,8,0]", "patches.per_volume=4"]
    scans.save(tmp_path / "a.nii.gz", scans.blobs((16, 16, 12), np.diag([1, 1, 3, 1])) + 1, np.diag([1, 1, 3, 1]))
    command = ["--recipe", "li2017_3dsrcnn_r3_quick", "--data", str(tmp_path / "a.nii.gz"), "--steps", "1"]
    for value in small:
        command += ["--set", value]
    assert train.main([*command, "--run", str(tmp_path / "three")]) == 0
    start = ["--run", str(tmp_path / "two"), "--set", "degradation.factor=2", "--start-from", str(tmp_path / "three")]
    assert train.main([*command, *start]) == 1
    assert "choose a recipe of the same network" in capsys.readouterr().err


def test_an_older_model_stays_where_it_cannot_be_replaced(exported, tmp_path, monkeypatch):
    model = models.rebuild(exported)
    models.save(model, tmp_path / "model")
    (tmp_path / ".model.old").mkdir()  # as a kill leaves it
    (tmp_path / ".model.old" / "card.json").write_text("{}")
    models.save(model, tmp_path / "model")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    replace = os.replace

    def fail(source, target):
        if Path(target).name == "model" and "partial" in Path(source).name:
            raise OSError("disk")
        replace(source, target)

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OutputError, match="cannot be written"):
        models.save(model, tmp_path / "model")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    models.load(tmp_path / "model")


def test_where_no_training_goes_on_from(folder, exported, averager, tmp_path, capsys):
    command = [*TINY, "--data", str(folder / "sub-0_T1w.nii.gz"), "--run", str(tmp_path / "run"), "--steps", "1"]
    for source, options, words in (
        (exported, ["--set", "network.generator.filters=8"], "choose a recipe of the same network"),
        (averager[1], [], "give its run's folder"),
        (tmp_path / "none", [], "no such folder"),
    ):
        assert train.main([*command, *options, "--start-from", str(source)]) == 1
        assert words in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    gone = tmp_path / "gone"
    shutil.copytree(folder / "run", gone)
    facts = json.loads((gone / "run.json").read_text())
    (gone / "run.json").write_text(json.dumps({**facts, "start_from": "x2"}))
    shutil.rmtree(gone / "state")
    assert train.main(["--run", str(gone), "--data", str(folder / "sub-0_T1w.nii.gz"), "--resume"]) == 1
    assert "stopped before its first checkpoint" in capsys.readouterr().err
    resume = ["--run", str(folder / "run"), "--data", str(folder / "sub-0_T1w.nii.gz"), "--resume"]
    assert train.main([*resume, "--start-from", str(exported)]) == 1
    assert "leave those options out" in capsys.readouterr().err


def test_pictures_and_notes_are_part_of_the_card(folder, exported, tmp_path):
    (tmp_path / "facts.yaml").write_text("notes: Good for **heads**.")
    picture = exported / "pictures" / "training.png"  # any PNG will do
    output = tmp_path / "pictured"
    words = ["--card", str(tmp_path / "facts.yaml"), "--picture", str(picture)]
    assert export.main(["--model", str(folder / "run"), "-o", str(output), *words]) == 0
    assert export.main(["--model", str(output / "1"), "-o", str(output)]) == 0
    for version in ("1", "2"):
        page = (output / version / "README.md").read_text()
        assert "Good for **heads**." in page
        for name in ("scan1.png", "training.png"):
            assert f"](pictures/{name})" in page
            assert (output / version / "pictures" / name).read_bytes() == picture.read_bytes()
            assert f"pictures/{name}" in json.loads((output / version / "card.json").read_text())["files"]


def test_another_picture_leaves_the_curve_of_training(exported, tmp_path):
    picture = exported / "pictures" / "training.png"
    assert export.main(["--model", str(exported), "-o", str(tmp_path / "x"), "--picture", str(picture)]) == 0
    assert sorted(path.name for path in (tmp_path / "x" / "1" / "pictures").iterdir()) == ["scan1.png", "training.png"]


def test_a_picture_that_is_none_is_refused(folder, tmp_path, capsys):
    (tmp_path / "fake.png").write_text("not a png")
    for path in (folder / "sub-0_T1w.nii.gz", tmp_path / "fake.png", tmp_path / "gone.png"):
        words = ["--picture", str(path)]
        assert export.main(["--model", str(folder / "run"), "-o", str(tmp_path / "x"), *words]) == 1
        assert "not a PNG file" in capsys.readouterr().err
        assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("option", ["--licence", "--data-description", "--contrast"])
@pytest.mark.parametrize(("text", "words"), [(" ", "the text is empty"), ("H\udcf4pital", "is not in UTF-8")])
def test_what_nobody_can_have_stated(capsys, option, text, words):
    with pytest.raises(SystemExit):
        export.main(["--model", "m", "-o", "x", option, text])
    assert words in capsys.readouterr().err


def test_a_generator_in_stages_comes_back_with_those_that_are_in_the_file(tmp_path):
    changes = ["network.generator.filters=[2,2,2,2,2,2,2,2,1]"]
    chosen = recipe.load("taloma2020_resgan_acm", changes)
    generator = models.build_generator(chosen)
    for stages in (1, 2):
        trained = up_to_stage(generator, stages)
        keras_files.save(trained, tmp_path / f"{stages}.weights.h5")
        loaded = models.load_stages(models.build_generator(chosen), tmp_path / f"{stages}.weights.h5")
        assert len(loaded.weights) == len(trained.weights)
        for ours, theirs in zip(trained.weights, loaded.weights, strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_the_card_tells_the_step_of_the_weights(folder, tmp_path):
    """That of the checkpoint which is loaded, not the largest number among the files."""
    run = tmp_path / "run"
    shutil.copytree(folder / "run", run)
    assert model_folder.read_card(run).training.steps == 2
    for path in (run / "generator").glob("ckpt-2*"):
        shutil.copy(path, path.with_name(path.name.replace("ckpt-2", "ckpt-1")))
    index = run / "generator" / "checkpoint"
    index.write_text(index.read_text().replace("ckpt-2", "ckpt-1"))
    assert model_folder.read_card(run).training.steps == 1


def test_an_averaging_model_is_rebuilt(averager):
    model, folder = averager
    volume = Volume(scans.blobs((14, 12, 10), np.eye(4)) + 1, np.eye(4))
    rebuilt = models.rebuild(folder)
    assert rebuilt.target_window == model.target_window
    np.testing.assert_array_equal(
        rebuilt.super_resolve(volume, UNLIMITED).data, model.super_resolve(volume, UNLIMITED).data
    )


def test_versions_and_serving_files(folder, tmp_path):
    parent = tmp_path / "models"
    argv = ["--model", str(folder / "run"), "--serving-config", "-o"]
    for name in ("x2", "x2", "other.one"):
        assert export.main([*argv, str(parent / name)]) == 0
    assert sorted(p.name for p in (parent / "x2").iterdir()) == ["1", "2"]
    listed = (parent / "models.config").read_text()
    assert re.findall(r'name: "(.+)"', listed) == ["other.one", "x2"]
    assert re.findall(r'base_path: "(.+)"', listed) == ["/models/other.one", "/models/x2"]
    assert listed.count("{") == listed.count("}") == 3
    services = yaml.safe_load((parent / "compose.yaml").read_text())["services"]
    assert services["volumes"]["image"] == config.IMAGE
    assert "--model_config_file=/models/models.config" in services["volumes"]["command"]
    assert not any("batching" in word for word in services["volumes"]["command"])
    assert "--batching_parameters_file=/models/batching.config" in services["patches"]["command"]
    assert "max_batch_size { value: 16 }" in (parent / "batching.config").read_text()

    (parent / "models.config").write_text("mine")
    assert export.main([*argv, str(parent / "x2")]) == 1
    assert (parent / "models.config").read_text() == "mine"
    assert sorted(p.name for p in (parent / "x2").iterdir()) == ["1", "2"]


@pytest.mark.parametrize(
    ("output", "words"),
    [
        ("models/x2/1", "versions are numbered here"),
        ("models/x2.onnx", r"\.onnx is the ending of a file"),
        ("models [1]/x2", r"the path has \[ in it"),
        ("run", "is itself a run"),
        ("a b", "letters, digits"),
        ("sub-0_T1w.nii.gz", "is a file"),
    ],
)
def test_where_nothing_is_exported(folder, monkeypatch, output, words):
    monkeypatch.chdir(folder)
    with pytest.raises(OutputError, match=words):
        export._next_version(folder / output)


def test_tampered_models_are_refused_by_the_command(folder, exported, tmp_path, capsys):
    copy = tmp_path / "copy"
    shutil.copytree(exported, copy)
    variables = next((copy / "variables").glob("*.data*"))
    content = bytearray(variables.read_bytes())
    content[100] ^= 1
    variables.write_bytes(content)
    argv = [str(folder / "sub-0_T1w.nii.gz"), "-o", str(tmp_path / "x.nii"), "--model", str(copy)]
    assert predict.main(argv) == 1
    assert "is damaged or was changed" in capsys.readouterr().err
    assert not (tmp_path / "x.nii").exists()


def test_a_saved_model_of_another_network_is_not_rebuilt(exported, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(exported, copy)
    file = copy / "assets.extra" / "recipe.yaml"
    file.write_text(file.read_text().replace("filters: 4", "filters: 5"))
    card = model_folder.cards.of_recipe(model_folder.read_recipe(copy))
    (copy / "card.json").write_text(card.with_files(copy).to_json())
    with pytest.raises(ModelError, match="not those of the network"):
        models.rebuild(copy)


def test_predict_compares_with_the_card(folder, exported, tmp_path, capsys):
    """A scan of the training's own voxels is too fine for a model that halves them; --strict says no."""
    scan, good = tmp_path / "sub-1_T2w.nii.gz", tmp_path / "sub-2_T1w.nii.gz"
    scans.save(scan, VOLUME, scans.OBLIQUE)
    scans.save(good, VOLUME, scans.OBLIQUE @ np.diag([2, 2, 2, 1]))
    argv = ["-o", str(tmp_path / "out.nii.gz"), "--model", str(exported)]
    assert predict.main([str(scan), *argv, "--strict"]) == 1
    assert not (tmp_path / "out.nii.gz").exists()
    assert predict.main([str(scan), *argv]) == 0
    told = capsys.readouterr().err
    assert "trained on scans of 0.90 x 1.10 x 2.00 mm" in told
    assert "the file's name says T2w; the model was trained on T1w" in told
    assert predict.main([str(good), *argv, "--strict", "--overwrite"]) == 0
    assert "warning" not in capsys.readouterr().err
    assert nib.load(tmp_path / "out.nii.gz").shape == (28, 24, 20)


def test_shipped_names_through_the_commands(folder, exported, tmp_path, monkeypatch, capsys):
    weights = tmp_path / "weights"
    shutil.copytree(exported, weights / "brain_x2")
    monkeypatch.setattr(model_folder, "weights_directory", lambda: weights)
    monkeypatch.chdir(tmp_path)
    scan = str(folder / "sub-0_T1w.nii.gz")
    assert predict.main([scan, "-o", "out.nii.gz", "--model", "brain_x2"]) == 0
    assert nib.load("out.nii.gz").shape == (50, 44, 40)
    capsys.readouterr()
    assert predict.main([scan, "-o", "out2.nii.gz", "--model", "brain_x3"]) == 1
    assert "did you mean 'brain_x2'?" in capsys.readouterr().err
