import os

import nibabel as nib
import pytest

from tf_mrsr import demo

pytest.importorskip("nilearn", reason="the demo's head comes with nilearn")


def test_demo_goes_the_whole_way_and_protects_what_it_did_not_make(tmp_path, capsys):
    output = tmp_path / "demo"
    assert demo.main(["-o", str(output), "--steps", "1"]) == 0
    printed = capsys.readouterr().out
    assert "not how good a network gets" in printed
    assert "changed: network.generator.filters=16" in printed
    low_res, result = (nib.load(output / f"head_{name}.nii.gz") for name in ("low_res", "super_resolved"))
    assert result.shape == tuple(2 * n for n in low_res.shape)
    assert (output / "results" / "figures" / "head.png").exists()
    assert (output / "results" / "table.md").exists()

    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("three years of work")
    assert demo.main(["-o", str(tmp_path / "mine"), "--overwrite"]) == 1
    assert os.listdir(tmp_path / "mine") == ["thesis.txt"]
    assert demo.main(["-o", str(output)]) == 1
