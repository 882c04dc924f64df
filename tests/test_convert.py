"""What the convert command refuses, in one line and leaving nothing; what it converts is in tests/conversion."""

import os
import shutil

import numpy as np
import pytest

from tests.conversion.test_narcomey2018 import write_recipe
from tests.conversion.test_sanchez2018 import named, small, write_checkpoint
from tests.test_pickled_arrays import HOSTILE, npy
from tf_mrsr import convert
from tf_mrsr.inference import models

OF_VOLUMES = [
    *("--recipe", "sanchez2018_srgan3d_x2_subpixel_code"),
    *("--set", "network.generator.filters=2"),
    *("--set", "network.generator.num_residual_blocks=1"),
]
OF_SLICES = ["--recipe", "narcomey2018.yaml"]


@pytest.fixture
def checkpoint(tmp_path):
    (tmp_path / "checkpoint").mkdir()
    return write_checkpoint(tmp_path / "checkpoint" / "model", named(small()))


REFUSED = {
    "no source": (["gone", "-o", "out", *OF_VOLUMES], "gone: no such file, folder or checkpoint"),
    "no checkpoint": (["empty", "-o", "out", *OF_VOLUMES], "expected one checkpoint"),
    "no program": (
        ["checkpoint", "-o", "out", "--recipe", "li2017_3dsrgan_r3"],
        "no program to convert from for li2017",
    ),
    "unknown recipe": (["checkpoint", "-o", "out", "--recipe", "sanchez"], "unknown recipe"),
    "exists": (["checkpoint", "-o", "empty", *OF_VOLUMES], "exists already"),
    "not a model": (
        ["checkpoint", "-o", "empty", *OF_VOLUMES, "--overwrite"],
        "is not a model that this command wrote",
    ),
    "a file's name": (["checkpoint", "-o", "out.keras", *OF_VOLUMES], ".keras is the ending of a file"),
    "a pattern": (["checkpoint", "-o", "out [1]", *OF_VOLUMES], "out [1]: the path has [ in it"),
    "no folder": (["checkpoint", "-o", "gone/out", *OF_VOLUMES], "does not exist; make it first"),
    "other build": (
        ["checkpoint", "-o", "out", *OF_VOLUMES, "--set", "network.generator.filters=3"],
        "SRGAN_g/conv1/W_conv3d is (3, 3, 3, 1, 2) instead of (3, 3, 3, 1, 3)",
    ),
    "folder as npz": (["empty", "-o", "out.weights.h5", *OF_SLICES], "cannot be read (Is a directory)"),
    "hostile": (["hostile.npy", "-o", "out.weights.h5", *OF_SLICES], "pickle asks for posix.system"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_in_one_line_and_nothing_left_behind(checkpoint, tmp_path, monkeypatch, capsys, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "hostile.npy").write_bytes(npy(HOSTILE["system"][0]))
    write_recipe(tmp_path, {"out_channels": 1})
    before = sorted(tmp_path.rglob("*"))
    argv, words = REFUSED[name]
    assert convert.main(argv) == 1
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert words in lines[0]
    assert sorted(tmp_path.rglob("*")) == before


def test_overwrite_replaces_a_model(checkpoint, tmp_path, capsys):
    argv = [str(checkpoint), "-o", str(tmp_path / "x2"), *OF_VOLUMES]
    assert convert.main(argv) == 0
    first = os.stat(tmp_path / "x2").st_ino
    (tmp_path / "x2" / ".git").mkdir()
    (tmp_path / "x2" / ".git" / "HEAD").write_text("mine")
    assert convert.main([*argv, "--overwrite"]) == 1
    assert "holds .git/HEAD, which is not of the model" in capsys.readouterr().err
    shutil.rmtree(tmp_path / "x2" / ".git")
    assert convert.main([*argv, "--overwrite"]) == 0
    assert os.stat(tmp_path / "x2").st_ino != first
    assert models.load(tmp_path / "x2").recipe.name == "sanchez2018_srgan3d_x2_subpixel_code"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint", "x2"]


def test_a_saved_model_of_somebody_else_is_kept(checkpoint, tmp_path, capsys):
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "saved_model.pb").write_bytes(b"graph")
    argv = [str(checkpoint), "-o", str(tmp_path / "theirs"), *OF_VOLUMES, "--overwrite"]
    assert convert.main(argv) == 1
    assert "is not a model that this command wrote" in capsys.readouterr().err
    assert (tmp_path / "theirs" / "saved_model.pb").read_bytes() == b"graph"


def test_a_recipe_of_the_paper_is_warned_of(checkpoint, tmp_path, capsys):
    options = ["--recipe", "sanchez2018_srgan3d_x2_subpixel", *OF_VOLUMES[2:]]
    assert convert.main([str(checkpoint), "-o", str(tmp_path / "x2.weights.h5"), *options]) == 0
    assert "warning: sanchez2018_srgan3d_x2_subpixel follows the paper" in capsys.readouterr().err


def test_written_model_has_the_checkpoints_weights(checkpoint, tmp_path):
    output = tmp_path / "x2.weights.h5"
    assert convert.main([str(checkpoint), "-o", str(output), *OF_VOLUMES]) == 0
    copy = small()
    copy.load_weights(output)
    original = models.tf.train.load_checkpoint(str(checkpoint))
    np.testing.assert_array_equal(copy.get_layer("up1_conv").kernel, original.get_tensor("SRGAN_g/conv1-ub/1/W_conv3d"))
