import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

import pytest

import tf_mrsr
from tf_mrsr import cli, doctor, model_folder
from tf_mrsr.errors import DeviceError


def findings(capsys):
    return {line[:24].strip(): line[24:] for line in capsys.readouterr().out.splitlines()}


def test_the_doctor_tells_what_is_there(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(model_folder, "weights_directory", lambda: tmp_path)
    assert doctor.main([]) == 0
    found = findings(capsys)
    assert found["numpy"] == importlib.metadata.version("numpy")
    assert found["TensorFlow"].startswith("2.")
    assert found["convolution"].startswith("runs, on ")
    assert found["convolution by XLA"].startswith(("runs, on ", "fails: "))
    assert float(found["bfloat16"].removesuffix(" times the speed of float32 (for --precision)")) > 0
    assert str(tmp_path) in found["shipped models"]
    assert int(found["processor cores"]) >= 1
    assert "GB" in found["memory"]


def test_the_doctor_says_how_to_get_what_is_missing(capsys, monkeypatch):
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: None)
    assert doctor.main([]) == 0
    found = findings(capsys)
    assert found["nilearn"] == "not installed; for tf-mrsr demo: pip install '.[demo]' in tf_mrsr's folder"
    assert found["TensorFlow"].startswith("missing: pip install tensorflow")


def test_the_doctor_goes_on_where_a_package_is_broken(capsys, monkeypatch):
    monkeypatch.delattr(tf_mrsr, "model_folder")
    monkeypatch.setitem(sys.modules, "tf_mrsr.model_folder", None)  # its import fails, as with a broken SciPy
    assert doctor.main([]) == 0
    found = findings(capsys)
    assert found["shipped models"].startswith("cannot be listed (")
    assert found["TensorFlow"].startswith("2.")


@pytest.mark.parametrize(
    ("machine", "set_by_user", "found"),
    [("x86_64", None, "1"), ("AMD64", None, "1"), ("x86_64", "0", "0"), ("aarch64", None, None)],
)
def test_one_dnn_is_switched_on_where_nobody_says_otherwise(monkeypatch, machine, set_by_user, found):
    monkeypatch.delenv("TF_ENABLE_ONEDNN_OPTS", raising=False)
    if set_by_user is not None:
        monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", set_by_user)
    monkeypatch.setattr(cli.platform, "machine", lambda: machine)
    cli.switch_on_onednn()
    assert os.environ.get("TF_ENABLE_ONEDNN_OPTS") == found
    words = {"1": "on (TF_ENABLE_ONEDNN_OPTS=1)", "0": "switched off by", None: "left to TensorFlow"}[found]
    assert doctor._one_dnn().startswith(words)
    monkeypatch.delenv("TF_ENABLE_ONEDNN_OPTS", raising=False)


def test_a_gpu_that_is_not_there(monkeypatch):
    import tensorflow as tf

    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [])
    with pytest.raises(DeviceError, match="finds no GPU; tf-mrsr doctor says"):
        cli.load_tensorflow("gpu")


def test_devices_are_chosen_before_tensorflow_runs():
    """In a fresh process: with cpu no GPU is left, where there is one or not. What no command uses can be imported
    afterwards, but was not.
    """
    code = (
        "from tf_mrsr import cli; cli.load_tensorflow('cpu')\n"
        "import sys, tensorflow as tf\n"
        "print(len(tf.config.get_visible_devices('GPU')), 'sklearn' in sys.modules)\n"
        "import matplotlib.pyplot, pandas, sklearn"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "0 False\n")


def test_a_broken_tensorflow_is_said_in_one_line(tmp_path):
    package = tmp_path / "tensorflow"
    package.mkdir()
    (package / "__init__.py").write_text("raise ImportError('libfoo.so.1')")
    path = os.pathsep.join([str(tmp_path), str(Path(cli.__file__).parents[1])])
    command = [sys.executable, "-m", "tf_mrsr", "doctor"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": path})
    assert (done.returncode, done.stderr) == (0, "")
    assert "cannot be loaded (libfoo.so.1); install it anew" in done.stdout


def test_what_is_set_for_keras_elsewhere_does_not_hold(tmp_path):
    (tmp_path / "keras.json").write_text('{"backend": "jax", "image_data_format": "channels_first"}')
    code = (
        "from tf_mrsr import cli; cli.load_tensorflow()\n"
        "import keras; print(keras.config.backend(), keras.config.image_data_format())"
    )
    env = {**os.environ, "KERAS_HOME": str(tmp_path), "KERAS_BACKEND": "jax"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=env)
    assert (done.returncode, done.stdout) == (0, "tensorflow channels_last\n")
