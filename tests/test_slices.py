"""Thick slices to thin ones: pairs of series, networks of slices, the commands from end to end."""

import json

import nibabel as nib
import numpy as np
import pytest

from tests import scans
from tf_mrsr.__main__ import main
from tf_mrsr.cohort import Scan

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
    return folder


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
