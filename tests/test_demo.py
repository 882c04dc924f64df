import json
import os
from pathlib import Path

import nibabel as nib
import pytest

from tf_mrsr import demo
from tf_mrsr.geometry import GridMap

pytest.importorskip("nilearn", reason="the demo's head comes with nilearn")


def test_demo_goes_the_whole_way_and_protects_what_it_did_not_make(tmp_path, capsys, monkeypatch):
    head = demo._template()
    low = [n // 2 - 32 for n in head.shape]
    middle = head.data[tuple(slice(n, n + 64) for n in low)]
    monkeypatch.setattr(demo, "_template", lambda: head.resampled(middle, GridMap((1, 1, 1), tuple(low))))
    output = tmp_path / "demo"
    assert demo.main(["-o", str(output)]) == 0
    assert "numbers of real ones" in capsys.readouterr().out
    low_res, result = (nib.load(output / f"head_{name}.nii.gz") for name in ("low_res", "super_resolved"))
    assert result.shape == tuple(2 * n for n in low_res.shape)
    assert (output / "results" / "figures" / "head.png").exists()
    summary = json.loads((output / "results" / "table.json").read_text())["summary"]
    assert summary["network"]["psnr"]["mean"] > summary["cubic"]["psnr"]["mean"] + 1

    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("three years of work")
    assert demo.main(["-o", str(tmp_path / "mine"), "--overwrite"]) == 1
    assert os.listdir(tmp_path / "mine") == ["thesis.txt"]
    assert demo.main(["-o", str(output)]) == 1
    (output / "results" / ".notes").write_text("what I saw")
    capsys.readouterr()
    assert demo.main(["-o", str(output), "--overwrite"]) == 1
    assert f"holds {Path('results', '.notes')}, which no demo made" in capsys.readouterr().err
    assert (output / "results" / ".notes").exists()
