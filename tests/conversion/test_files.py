"""Networks as Keras and ONNX files: out of a run by the export command, and back by convert."""

import importlib.util
import zipfile

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf

from tests import scans
from tf_mrsr import export, model_folder, recipe, run_folder
from tf_mrsr.__main__ import main
from tf_mrsr.conversion import keras_files, onnx_files
from tf_mrsr.errors import ModelError
from tf_mrsr.inference import models
from tf_mrsr.limits import UNLIMITED
from tf_mrsr.volume import Volume

SMALL = ["network.generator.filters=4", "network.generator.num_residual_blocks=1"]
NETWORKS = {
    "volumes": ("sanchez2018_srgan3d_x2_subpixel", SMALL),
    "interpolating": ("sanchez2018_srgan3d_x2_pretrained", SMALL),
    "thin slices": ("li2017_3dsrcnn_r3_pretrained", ["network.generator.filters=4"]),
    "slices": ("narcomey2018_srgan_model2", SMALL),
    "contrasts": ("taloma2020_adv", ["network.generator.filters=[2,2,2,2,2,2,2,2,1]"]),
}
WINDOW = (321.5, 87.25)
AFFINE = np.diag([1.0, 1.0, 3.0, 1.0])
needs_onnx = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in export.ONNX_PACKAGES), reason="the extra onnx is missing"
)


def randomise(generator):
    rng = np.random.default_rng(0)
    for variable in generator.weights:
        low = 0.5 if "variance" in variable.path or "gamma" in variable.path else -0.3
        variable.assign(rng.uniform(low, 0.9, variable.shape))
    return generator


def make_run(folder, kind):
    """A run as training leaves it, its weights at random; and the options that name its recipe."""
    name, changes = NETWORKS[kind]
    chosen = recipe.load(name, changes)
    facts = {"seed": 0, "steps": 1, "precision": "float32", "data": "", "validation_data": ""}
    window = WINDOW if chosen.intensity.target == "own" else None
    run_folder.create_run(folder, chosen, {**facts, "target_window": window})
    generator = randomise(models.build_generator(chosen))
    stages = tf.Variable(1, dtype=tf.int32, trainable=False)
    run_folder.save_checkpoint(run_folder.generator_manager(folder, generator, stages), 1)
    return folder, ["--recipe", name, *(item for change in changes for item in ("--set", change))]


@pytest.fixture(scope="module", params=NETWORKS)
def run(request, tmp_path_factory):
    folder, options = make_run(tmp_path_factory.mktemp("files") / request.param, request.param)
    with scans.loaded_once(folder):
        yield folder, options


@pytest.fixture(scope="module")
def of_slices(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("files") / "run", "slices")


@pytest.mark.parametrize(
    ("run", "kind", "file"),
    [
        *((network, "keras", "net.keras") for network in ("volumes", "thin slices", "contrasts")),
        *((network, "weights", "net.weights.h5") for network in ("volumes", "interpolating", "slices", "contrasts")),
    ],
    indirect=["run"],
)
def test_out_and_back(run, kind, file, tmp_path, capsys):
    folder, options = run
    output, back = tmp_path / file, tmp_path / "model"
    assert main(["export", "--model", str(folder), "-o", str(output), "--format", kind]) == 0
    assert [path.name for path in tmp_path.iterdir()] == [file]
    told = capsys.readouterr().out
    command = ["convert", str(output), "-o", str(back), *options]
    if "--target-window" in told:
        assert main(command) == 1
        assert "give it with --target-window CENTRE WIDTH" in capsys.readouterr().err
        command += told.split("not in the file: ")[1].split()
        assert "e" not in "".join(command[-2:])  # for argparse -3e-08 is an option
    assert main(command) == 0
    ours, theirs = models.load(folder), models.load(back)
    assert theirs.target_window == ours.target_window
    volume = Volume(scans.blobs((16, 17, 9), AFFINE) + 1, AFFINE)
    first, second = (model.super_resolve(volume, UNLIMITED) for model in (ours, theirs))
    np.testing.assert_array_equal(first.data, second.data)
    np.testing.assert_array_equal(first.affine, second.affine)


def test_a_full_disk_is_one_line(of_slices, tmp_path, monkeypatch, capsys):
    """HDF5 finds out when it closes the file, and raises no OSError."""

    def fail(self, path):
        path.write_bytes(b"half")
        raise RuntimeError("Unable to synchronously close file")

    monkeypatch.setattr(keras.Model, "save_weights", fail)
    output = tmp_path / "net.weights.h5"
    assert main(["export", "--model", str(of_slices[0]), "-o", str(output), "--format", "weights"]) == 1
    assert "net.weights.h5: cannot be written; check the folder and the disk" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_keras_reads_them_by_itself(run, tmp_path):
    folder, options = run
    for kind, file in (("keras", "net.keras"), ("weights", "net.weights.h5")):
        assert main(["export", "--model", str(folder), "-o", str(tmp_path / file), "--format", kind]) == 0
    generator = models.load_generator(folder)
    whole = keras.saving.load_model(tmp_path / "net.keras", safe_mode=True)
    built = models.build_generator(recipe.load(options[1], options[3::2]))
    built.load_weights(tmp_path / "net.weights.h5")
    batch = np.random.default_rng(1).uniform(-1, 1, (*(2, 9, 11, 10)[: len(generator.input_shape) - 1], 1))
    expected = generator(batch, training=False).numpy()
    for other in (whole, built):
        np.testing.assert_array_equal(other(batch, training=False), expected)


def edited(path, change):
    """A weights file after a change of its content."""
    with h5py.File(path, "r+") as file:
        change(file)
    return path


def _replace(file, place, value):
    del file[place]
    file[place] = value


def _link(file, place):
    del file[place]
    file[place] = h5py.ExternalLink("other.h5", "x")


def _outside(file, place):
    shape = file[place].shape
    del file[place]
    file.create_dataset(place, shape, "f4", external=[("other", 0, h5py.h5f.UNLIMITED)])


FIRST = "layers/conv2d/vars/0"
FAULTS = {
    "missing": (lambda f: f.__delitem__(FIRST), "conv_first/kernel is missing"),
    "left over": (lambda f: f.create_dataset("layers/dense/vars/0", (3,)), "layers/dense/vars/0 is left over"),
    "misshapen": (
        lambda f: _replace(f, FIRST, np.zeros((3, 3, 1, 5), "f4")),
        "conv_first/kernel is (3, 3, 1, 5) instead of (3, 3, 1, 4)",
    ),
    "huge": (
        lambda f: (f.__delitem__(FIRST), f.create_dataset(FIRST, (2**20, 2**20, 2**10), "f4", chunks=(1, 1, 2**10))),
        "conv_first/kernel is (1048576, 1048576, 1024) instead of",
    ),
    "not finite": (lambda f: f[FIRST].write_direct(np.full((3, 3, 1, 4), np.inf, "f4")), "NaN or infinite"),
    "text": (
        lambda f: _replace(f, FIRST, np.full((3, 3, 1, 4), b"x")),
        "conv_first/kernel is no plain array of numbers",
    ),
    "a link": (lambda f: _link(f, FIRST), "conv_first/kernel is missing"),
    "another file's bytes": (lambda f: _outside(f, FIRST), "conv_first/kernel is no plain array of numbers"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_tensors_that_do_not_fit(name, of_slices, tmp_path):
    change, words = FAULTS[name]
    generator = models.load_generator(of_slices[0])
    before = generator.get_weights()
    keras_files.save(generator, tmp_path / "net.weights.h5")
    with pytest.raises(ModelError) as refused:
        keras_files.load(generator, edited(tmp_path / "net.weights.h5", change))
    assert words in str(refused.value)
    for value, expected in zip(generator.get_weights(), before, strict=True):
        np.testing.assert_array_equal(value, expected)


def test_an_optimisers_state_is_left_aside(of_slices, tmp_path):
    generator = models.load_generator(of_slices[0])
    trained = keras.models.clone_model(generator)
    trained.set_weights(generator.get_weights())
    trained.compile("adam", "mse")
    trained.fit(np.zeros((1, 9, 9, 1)), np.zeros((1, 9, 9, 3)), verbose=0)
    trained.save(tmp_path / "net.keras")
    keras_files.load(generator, tmp_path / "net.keras")
    np.testing.assert_array_equal(generator.get_weights()[0], trained.get_weights()[0])


def _flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)


def _without_weights(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", "{}")


def _bomb(path):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model.weights.h5", bytes(2**27))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (_flip, "damaged, or no .keras"),
        (lambda path: path.write_bytes(path.read_bytes()[:-200]), "damaged, or no .keras"),
        (lambda path: path.write_text("no file of Keras"), "damaged, or no .keras"),
        (_without_weights, "damaged, or no .keras"),
        (_bomb, "holds 128 MB of weights, far more than"),
    ],
)
def test_damaged_files(damage, words, of_slices, tmp_path, capsys):
    folder, options = of_slices
    path = tmp_path / "net.keras"
    assert main(["export", "--model", str(folder), "-o", str(path), "--format", "keras"]) == 0
    damage(path)
    assert main(["convert", str(path), "-o", str(tmp_path / "model"), *options]) == 1
    (message,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("error: "))
    assert words in message
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_nothing_of_a_models_description_is_run(of_slices, tmp_path):
    """Only the weights are read: a description that asks for code does no harm."""
    folder, _ = of_slices
    generator = models.load_generator(folder)
    keras_files.save(generator, tmp_path / "net.keras")
    with zipfile.ZipFile(tmp_path / "net.keras") as archive:
        weights = archive.read("model.weights.h5")
    with zipfile.ZipFile(tmp_path / "net.keras", "w") as archive:
        archive.writestr("config.json", '{"module": "builtins", "class_name": "exec", "config": {"value": "1/0"}}')
        archive.writestr("model.weights.h5", weights)
    other = models.build_generator(models.load(folder).recipe)
    keras_files.load(other, tmp_path / "net.keras")
    np.testing.assert_array_equal(other.get_weights()[0], generator.get_weights()[0])


def test_what_is_not_written(of_slices, tmp_path, capsys, monkeypatch):
    folder, options = of_slices
    models.save(models.load(folder)._replace(generator=None), tmp_path / "saved")
    (tmp_path / "there.keras").write_text("x")
    monkeypatch.setattr(export, "ONNX_PACKAGES", ("numpy", "no_such_package"))
    for model, output, kind, words in (
        (folder, "x.h5", "keras", "expected a name that ends in .keras"),
        (folder, "x.h5", "weights", "expected a name that ends in .weights.h5"),
        (folder, "there.keras", "keras", "exists already"),
        (folder, "gone/x.keras", "keras", "does not exist; make it first"),
        (folder, "x.keras", "saved_model", "write the network alone with tf-mrsr export --format keras"),
        (
            folder,
            "x.onnx",
            "onnx",
            "needs no_such_package; install them with pip install '.[onnx]' in tf_mrsr's folder",
        ),
        (tmp_path / "saved", "x.keras", "keras", "has no generator.weights.h5, and the batch norms of its SavedModel"),
    ):
        command = ["export", "--model", str(model), "-o", str(tmp_path / output), "--format", kind]
        assert main(command) == 1
        assert words in capsys.readouterr().err
    assert (
        main(
            ["export", "--model", str(folder), "-o", str(tmp_path / "there.keras"), "--format", "keras", "--overwrite"]
        )
        == 0
    )
    for options_ in (["--format", "keras", "--licence", "CC0"], ["--overwrite"]):
        with pytest.raises(SystemExit):
            main(["export", "--model", str(folder), "-o", str(tmp_path / "y"), *options_])
    window = ["--target-window", "1", "2"]
    assert main(["convert", str(tmp_path / "there.keras"), "-o", str(tmp_path / "y"), *options, *window]) == 1
    assert "--target-window is for folders of models from one contrast to another" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["saved", "there.keras"]


@needs_onnx
def test_onnx_gives_what_the_generator_gives(run, tmp_path):
    import onnxruntime

    folder, _ = run
    assert main(["export", "--model", str(folder), "-o", str(tmp_path / "net.onnx"), "--format", "onnx"]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["net.onnx"]
    generator = models.load_generator(folder)
    session = onnxruntime.InferenceSession(str(tmp_path / "net.onnx"))
    shape = (*(3, 15, 12, 16)[: len(generator.input_shape) - 1], 1)
    batch = np.random.default_rng(1).uniform(-1, 1, shape).astype(np.float32)
    expected = generator(batch, training=False).numpy()
    (result,) = session.run(None, {generator.input.name: batch})
    np.testing.assert_allclose(result, expected, atol=1e-4 * np.abs(expected).max())


@needs_onnx
def test_onnx_that_differs_is_not_written(of_slices, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_files, "MOST_DIFFERENCE", -1.0)
    with pytest.raises(ModelError, match="does not give what the generator gives"):
        onnx_files.save(models.load_generator(of_slices[0]), tmp_path / "net.onnx")
    assert not list(tmp_path.iterdir())
    assert not model_folder.is_saved_model(tmp_path)


@needs_onnx
def test_what_onnx_cannot_hold_is_told_in_one_line(of_slices, tmp_path, monkeypatch):
    def export(*_, **__):
        raise ValueError("no such operation")

    monkeypatch.setattr(keras.Model, "export", export)
    with pytest.raises(ModelError, match=r"net.onnx: the network cannot be converted to ONNX \(ValueError\)"):
        onnx_files.save(models.load_generator(of_slices[0]), tmp_path / "net.onnx")
    assert not list(tmp_path.iterdir())
