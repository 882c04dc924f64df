"""What a prediction's report finds, with models that are known, and that ``predict --report`` writes it."""

import csv
import json
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest

from tests import dicom_series, scans
from tests.conversion.test_files import make_run
from tf_mrsr import baselines, predict, recipe
from tf_mrsr import volume as volumes
from tf_mrsr.errors import OutputError, VolumeError
from tf_mrsr.report import page, trust
from tf_mrsr.volume import Volume

X2 = recipe.load("sanchez2018_srgan3d_x2_subpixel")
R3 = recipe.load("li2017_3dsrcnn_r3")
COARSE = np.diag([2.0, 2.0, 2.0, 1.0])


def scan(shape=(24, 22, 20), affine=COARSE):
    return Volume(scans.blobs(shape, affine) + 100, affine)


def cubic_and(add, chosen=X2, order=(0, 1, 2)):
    """A model that adds something to the cubic spline: ``add`` of the number of voxels that it gets."""
    degradation = chosen.training_degradation()

    def super_resolve(volume):
        turned = volume.with_axes(order) if volume.spacing_mm[2] != max(volume.spacing_mm) else volume
        grid_map = degradation.network_grid_map()
        shape = [n * f for n, f in zip(turned.shape, degradation.factors, strict=True)]
        data = baselines.interpolate(turned.data, grid_map, shape, "cubic")
        result = turned.resampled(data + np.float32(add(volume.data.size)), grid_map)
        return result if turned is volume else result.with_axes(np.argsort(order))

    return super_resolve


def examine(super_resolve, chosen=X2, volume=None):
    volume = scan() if volume is None else volume
    return trust.examine(volume, super_resolve(volume), super_resolve, chosen)


def test_of_the_spline_itself_there_is_nothing_to_say():
    found, cubic = examine(cubic_and(lambda size: 0))
    assert (found.gain, found.added, found.added_in_test, found.detail) == (0, 0, 0, None)
    assert found.contradiction == found.cubic_contradiction > 0
    assert found.remarks() == []
    assert cubic.shape == (48, 44, 40)
    assert found.mean_ratio == pytest.approx(1, abs=0.02)


def test_what_a_network_adds_is_held_against_what_it_added_one_step_coarser():
    """Shares of the foreground's 99th percentile."""
    volume = scan()
    bright = np.percentile(volume.data[trust._foreground(volume)], 99)
    found, _ = examine(cubic_and(lambda size: -60 if size == volume.data.size else -40))
    assert (found.added, found.added_in_test) == (pytest.approx(60 / bright), pytest.approx(40 / bright))
    assert found.detail == pytest.approx(1.5)
    assert found.gain < 0
    worse, noisy, contradicts = found.remarks()
    assert f"one step coarser the network is {-found.gain:.1f} dB worse than the cubic spline" in worse
    assert "adds 1.5 times the detail" in noisy
    assert f"lies further from the scan ({found.contradiction:.1%}" in contradicts


def test_the_test_is_the_evaluation_of_the_scan():
    """PSNR inside the foreground of the scan, of what the recipe's degradation leaves of it."""
    volume, degradation = scan(), X2.training_degradation()
    found, _ = examine(cubic_and(lambda size: 1))
    low_res = degradation(volume.data)
    cubic = baselines.interpolate(low_res, degradation.network_grid_map(), volume.shape, "cubic")
    mask = trust._foreground(volume)
    inside = volume.data[mask]
    for psnr, estimate in ((found.cubic_psnr, cubic), (found.network_psnr, cubic + 1)):
        error = np.mean((inside - estimate[mask]).astype(np.float64) ** 2)
        assert psnr == pytest.approx(10 * np.log10(np.ptp(inside) ** 2 / error), abs=1e-4)


@pytest.mark.parametrize("order", [(0, 1, 2), (0, 2, 1), (1, 2, 0)])
def test_slices_may_lie_along_any_axis(order):
    """Thick slices, stored in any order of axes: the same numbers, and the spline on the result's own axes."""
    thick = Volume(scans.blobs((16, 14, 30), np.diag([1.0, 1, 3, 1])) + 100, np.diag([1.0, 1, 3, 1]))
    expected, _ = examine(cubic_and(lambda size: 2, R3), R3, thick)
    stored = thick.with_axes(order)
    model = cubic_and(lambda size: 2, R3, np.argsort(order))
    found, cubic = examine(model, R3, stored)
    for name, value in vars(expected).items():
        assert getattr(found, name) == pytest.approx(value, rel=1e-5), name
    assert found.added == pytest.approx(found.added_in_test)
    np.testing.assert_allclose(model(stored).data - cubic, 2, atol=1e-3)


def test_a_scan_that_is_too_small_to_be_tested_gets_the_rest():
    found, _ = examine(cubic_and(lambda size: 1), volume=scan((12, 12, 12)))
    assert (found.gain, found.added_in_test, found.detail) == (None, None, None)
    assert found.added > 0


def test_between_contrasts_the_scan_tells_nothing():
    chosen = recipe.load("taloma2020_resgan")
    found, cubic = trust.examine(scan(), replace(scan(), data=scan().data * 2), lambda volume: volume, chosen)
    assert cubic is None
    assert (found.gain, found.added, found.contradiction) == (None, None, None)
    assert (found.mean_ratio, found.highest) == (pytest.approx(2), pytest.approx(2 * found.scan_highest))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("model") / "x2", "volumes")[0]


@pytest.fixture
def people(tmp_path):
    for name in ("p1", "p2"):
        (tmp_path / "in" / name).mkdir(parents=True)
        scans.save(tmp_path / "in" / name / "T1w.nii.gz", scan((17, 16, 18)).data, COARSE)
    return tmp_path / "in"


def test_reports_lie_as_the_results_do_with_a_table_of_all(model, people, tmp_path, capsys):
    argv = [str(people), "-o", str(tmp_path / "out"), "--model", str(model), "--report", str(tmp_path / "qc")]
    assert predict.main(argv) == 0
    names = ["p1/T1w.html", "p1/T1w.json", "p2/T1w.html", "p2/T1w.json", "reports.csv"]
    assert sorted(str(p.relative_to(tmp_path / "qc")) for p in (tmp_path / "qc").rglob("*.*")) == names
    content = json.loads((tmp_path / "qc" / "p1" / "T1w.json").read_text())
    assert (content["scan"], content["input"]["voxels"]) == ("T1w", [17, 16, 18])
    assert content["output"] == {"voxels": [34, 32, 36], "spacing_mm": [1, 1, 1]}
    assert content["gain"] == pytest.approx(content["network_psnr"] - content["cubic_psnr"])
    result = nib.load(tmp_path / "out" / "p1" / "T1w.nii.gz").get_fdata()
    assert content["highest"] == pytest.approx(result.max(), rel=1e-6)
    assert content["gain"] < 0  # weights at random
    html = (tmp_path / "qc" / "p1" / "T1w.html").read_text()
    assert content["remarks"][0] in html
    assert "34 x 32 x 36" in html
    assert "data:image/png;base64,iVBOR" in html
    table = list(csv.DictReader((tmp_path / "qc" / "reports.csv").open()))
    assert [row["scan"] for row in table] == ["p1/T1w", "p2/T1w"]
    assert float(table[0]["gain"]) == pytest.approx(content["gain"], rel=1e-3)

    assert predict.main([*argv[:2], str(tmp_path / "new"), *argv[3:]]) == 1
    assert "p1/T1w.html: exists already" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
    (tmp_path / "out" / "p2" / "T1w.nii.gz").unlink()
    (tmp_path / "qc" / "p2" / "T1w.json").unlink()
    assert predict.main([*argv, "--skip-existing"]) == 0
    assert json.loads((tmp_path / "qc" / "p2" / "T1w.json").read_text())["remarks"] == content["remarks"]


def test_a_report_of_a_series_and_of_a_file(model, tmp_path):
    dicom_series.save(tmp_path / "series", dicom_series.slices(dicom_series.voxels((20, 18, 16))))
    for output, name in (("derived", "derived"), ("x.nii.gz", "x")):
        argv = [str(tmp_path / "series"), "-o", str(tmp_path / output), "--model", str(model)]
        assert predict.main([*argv, "--report", str(tmp_path / f"qc_{name}")]) == 0
        written = sorted(p.name for p in (tmp_path / f"qc_{name}").iterdir())
        assert written == sorted([f"{name}.html", f"{name}.json", "reports.csv"])
        html = (tmp_path / f"qc_{name}" / f"{name}.html").read_text()
        assert dicom_series.CANARY not in html


def test_what_reports_cannot_be(model, people, tmp_path, capsys):
    argv = [str(people), "-o", str(tmp_path / "out"), "--model", str(model), "--report"]
    assert predict.main([*argv, str(tmp_path / "qc.html")]) == 1
    assert "reports are a folder of pages" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        predict.main([str(people), "-o", "out", "--server", "localhost:1/x", "--report", str(tmp_path / "qc")])
    assert "--report needs the model and its card" in capsys.readouterr().err
    (tmp_path / "qc").mkdir()
    (tmp_path / "qc" / "other.json").write_text("[1]")
    assert page.table_of(tmp_path / "qc").count("\n") == 1
    (tmp_path / "qc" / "other.json").write_text("{")
    assert predict.main([*argv, str(tmp_path / "qc")]) == 1
    assert "other.json: cannot be read as a report" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_reports_replace_nothing_but_reports(model, people, tmp_path, capsys):
    argv = [str(people / "p1" / "T1w.nii.gz"), "-o", str(tmp_path / "T1w.nii.gz"), "--model", str(model)]
    (tmp_path / "bids").mkdir()
    sidecar = tmp_path / "bids" / "T1w.json"
    sidecar.write_text('{"RepetitionTime": 2.0}')
    for extra, words in ([], "T1w.json: exists already"), (["--overwrite"], "T1w.json: was not made by a report"):
        assert predict.main([*argv, "--report", str(tmp_path / "bids"), *extra]) == 1
        assert words in capsys.readouterr().err
    assert sidecar.read_text() == '{"RepetitionTime": 2.0}'
    sidecar.unlink()
    (tmp_path / "bids" / "reports.csv").write_text("mine\n")
    assert predict.main([*argv, "--report", str(tmp_path / "bids"), "--overwrite"]) == 1
    assert "reports.csv: was not made by a report" in capsys.readouterr().err
    assert not (tmp_path / "T1w.nii.gz").exists()


def test_two_scans_never_share_a_report(model, tmp_path, capsys):
    (tmp_path / "in").mkdir()
    for name in ("s.nii", "s.nii.gz"):
        scans.save(tmp_path / "in" / name, scan((17, 16, 18)).data, COARSE)
    argv = [str(tmp_path / "in"), "-o", str(tmp_path / "out"), "--model", str(model), "--report", str(tmp_path / "qc")]
    assert predict.main(argv) == 1
    assert "qc/s: two reports would be written to this place" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("place", ["out", "out/report"])
def test_reports_do_not_lie_in_a_series(model, tmp_path, capsys, place):
    dicom_series.save(tmp_path / "series", dicom_series.slices())
    argv = [str(tmp_path / "series"), "-o", str(tmp_path / "out"), "--model", str(model)]
    assert predict.main([*argv, "--report", str(tmp_path / place)]) == 1
    assert "which is to be a DICOM series alone" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_skip_bad_holds_for_reports_too(model, people, tmp_path, capsys, monkeypatch):
    examine = trust.examine

    def fail_once(*arguments):
        monkeypatch.setattr(trust, "examine", examine)
        raise VolumeError("cannot be examined")

    monkeypatch.setattr(trust, "examine", fail_once)
    argv = [str(people), "-o", str(tmp_path / "out"), "--model", str(model), "--report", str(tmp_path / "qc")]
    assert predict.main([*argv, "--skip-bad"]) == 0
    assert "p1/T1w.nii.gz: cannot be examined" in capsys.readouterr().err
    written = [str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.gz")]
    assert written == ["p2/T1w.nii.gz"]


def test_no_report_without_its_result(model, people, tmp_path, capsys, monkeypatch):
    """A disk that is full ends the call, a result that DICOM cannot hold is left out; no report is left behind."""
    argv = [str(people), "-o", str(tmp_path / "out"), "--model", str(model), "--report", str(tmp_path / "qc")]
    write = volumes.write_volume

    def fail_once(error):
        def fail(*_, **__):
            monkeypatch.setattr(volumes, "write_volume", write)
            raise error

        monkeypatch.setattr(volumes, "write_volume", fail)

    fail_once(OutputError("the disk is full"))
    assert predict.main([*argv, "--skip-bad"]) == 1
    assert "error: the disk is full" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "qc").rglob("*.*")] == ["reports.csv"]
    fail_once(VolumeError("16 bits do not hold it"))
    assert predict.main([*argv, "--skip-bad"]) == 0
    assert f"warning: left out: {people / 'p1' / 'T1w.nii.gz'}: 16 bits do not hold it" in capsys.readouterr().err
    assert [row["scan"] for row in csv.DictReader((tmp_path / "qc" / "reports.csv").open())] == ["p2/T1w"]
    assert predict.main([*argv, "--skip-existing"]) == 0
    assert [row["scan"] for row in csv.DictReader((tmp_path / "qc" / "reports.csv").open())] == ["p1/T1w", "p2/T1w"]


def test_too_few_slices_for_the_test_leave_the_rest_of_the_report():
    low_res = scan((32, 32, 6))
    chosen = recipe.load("narcomey2018_srgan_model2")
    thin = low_res.resampled(np.repeat(low_res.data, 3, 2), chosen.testing_degradation().network_grid_map())
    found, _ = trust.examine(low_res, thin, lambda volume: volume, chosen)
    assert found.gain is None
    assert found.contradiction == pytest.approx(0, abs=1e-6)


def test_a_scan_of_mean_zero_has_no_ratio_of_means():
    balanced = scan((8, 8, 8))
    balanced.data[:4] = -balanced.data[4:]
    found, _ = trust.examine(balanced, balanced, lambda volume: volume, recipe.load("taloma2020_resgan"))
    assert found.mean_ratio is None


def test_reports_of_other_versions_are_left_out_of_the_table(tmp_path):
    (tmp_path / "old.json").write_text('{"kind": "tf_mrsr report"}')
    assert page.table_of(tmp_path).count("\n") == 1
