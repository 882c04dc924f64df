"""The models that come with the package: whole, described, and better than interpolation on something simple."""

import dataclasses
import os
import shutil
import subprocess
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from tests import scans
from tf_mrsr import card, model_folder, models, predict, recipe
from tf_mrsr.card import NOT_STATED
from tf_mrsr.inference import models as trained

NAMES = model_folder.shipped()
MOST_BYTES = 20 * 2**20
LARGE = "taloma2020_t1w_to_t2w"  # too large to hold its weights twice


def test_what_is_shipped():
    isotropic = {"sanchez2018_x2", "sanchez2018_x2_robust", "sanchez2018_x4"}
    thin_slices = {"li2017_3dsrcnn_r2", "li2017_3dsrcnn_r3", "li2017_3dsrcnn_r4", "li2017_3dsrgan_r3"}
    assert set(NAMES) == isotropic | thin_slices | {LARGE}


@pytest.mark.parametrize("name", NAMES)
def test_every_model_is_whole_and_described(name):
    folder = model_folder.weights_directory() / name
    facts = card.read(folder)  # checks every file's sha256
    assert facts.name == name
    assert NOT_STATED not in (facts.facts.data, facts.facts.licence)
    assert facts.training is not None
    assert facts.spacing_mm is not None
    summary = facts.measured.summary
    others = [values["psnr"]["mean"] for method, values in summary.items() if not method.startswith("network")]
    assert summary["network"]["psnr"]["mean"] > max(others)
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) < MOST_BYTES


@pytest.mark.parametrize("name", NAMES)
def test_its_recipe_is_the_one_in_train(name):
    """With the changes that the card names; the words about departures may get better later."""
    shipped = model_folder.read_recipe(model_folder.weights_directory() / name)
    in_train = recipe.load(shipped.name, shipped.changes)
    assert dataclasses.replace(in_train, departures=()) == dataclasses.replace(shipped, departures=())


@pytest.mark.parametrize("name", [name for name in NAMES if name != LARGE])
def test_a_training_can_go_on_from_it(name):
    """What it keeps for that is the network that it computes with."""
    folder = model_folder.weights_directory() / name
    loaded = trained.load(name)
    fresh = trained.build_generator(loaded.recipe)
    trained.load_initial_weights(fresh, loaded.recipe, folder)
    kept = trained.resolver_for(loaded.recipe, fresh).network_variables
    for variable, shipped in zip(kept, loaded.resolver.network_variables, strict=True):
        np.testing.assert_allclose(variable, shipped, rtol=1e-5, atol=1e-7)


TF_MRSR = """#!/usr/bin/env bash
echo "$*" >> "$CALLS"
while [ $# -gt 0 ]; do
    [ "$1" = -o ] && mkdir -p "$2/1"
    shift
done
"""


@pytest.mark.parametrize("name", NAMES)
def test_the_script_trains_as_the_card_says(name, tmp_path):
    """``train/weights.sh`` with a tf-mrsr that only notes how it is called; its last training is the shipped one."""
    train = model_folder.weights_directory().parent / "train"
    shutil.copytree(train, tmp_path / "train")
    (tmp_path / "weights").mkdir()
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "tf-mrsr").write_text(TF_MRSR)
    (tmp_path / "bin" / "tf-mrsr").chmod(0o755)
    path = os.pathsep.join([str(tmp_path / "bin"), os.environ["PATH"]])
    env = {**os.environ, "PATH": path, "CALLS": str(tmp_path / "calls")}
    env.pop("PRECISION", None)
    script = tmp_path / "train" / "weights.sh"
    done = subprocess.run(["bash", script, "scans", tmp_path / "runs", name], env=env, check=True, capture_output=True)
    assert done.stdout == b""
    assert (tmp_path / "weights" / name).is_dir()

    facts = card.read(model_folder.weights_directory() / name)
    last = [line.split() for line in (tmp_path / "calls").read_text().splitlines() if line.startswith("train ")][-1]
    given = {last[i]: last[i + 1] for i in range(1, len(last) - 1) if last[i].startswith("--")}
    assert Path(given["--run"]).name == name
    assert given["--recipe"] == facts.recipe
    assert given["--precision"] == facts.training.precision
    assert int(given["--steps"]) == facts.training.steps
    assert Path(given.get("--start-from", "None")).name == str(facts.training.start_from)
    assert ([given["--set"]] if "--set" in given else []) == list(facts.changes)
    scans_given = [word for word in last if word.startswith("scans/")]
    pairs = 2 if facts.contrasts else 1
    assert len(scans_given) == pairs * facts.training.scans
    stated = card.read_facts(script.parent / "cards" / f"{name}.yaml")
    assert stated == facts.facts


@pytest.mark.parametrize("name", NAMES)
def test_by_name_through_the_command(name, tmp_path, capsys):
    """A smooth scan comes back on its finer grid and in its own intensities."""
    facts = card.read(model_folder.weights_directory() / name)
    spacing = np.array(facts.spacing_mm.least) * facts.factors
    affine = np.diag([*spacing, 1])
    data = scans.blobs((20, 18, 16), affine) + 50
    scan = scans.save(tmp_path / "scan.nii.gz", data, affine)
    assert predict.main([str(scan), "-o", str(tmp_path / "fine.nii.gz"), "--model", name, "--strict"]) == 0
    fine = nib.load(tmp_path / "fine.nii.gz")
    assert fine.shape == tuple(n * f for n, f in zip(data.shape, facts.factors, strict=True))
    np.testing.assert_allclose(fine.header.get_zooms(), facts.spacing_mm.least, rtol=1e-3)
    if facts.contrasts:
        return  # the intensities are another contrast's
    inner = tuple(slice(4 * f, -4 * f) for f in facts.factors)
    assert abs(np.asarray(fine.dataobj)[inner].mean() / data[4:-4, 4:-4, 4:-4].mean() - 1) < 0.05


def test_models_lists_them(capsys):
    assert models.main([]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in NAMES)
    assert "not measured" not in printed
