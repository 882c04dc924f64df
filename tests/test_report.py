import warnings

import numpy as np
import pytest

from tf_mrsr.errors import ModelError
from tf_mrsr.report import figures
from tf_mrsr.report.tables import Results
from tf_mrsr.volume import Volume


def test_an_infinite_psnr_stands_in_the_table_without_a_spread(tmp_path):
    rows = [{"case": case, "ssim": 1.0, "mae": 0.0, "mse": 0.0, "seconds": 1.0} for case in "ab"]
    of_method = {"perfect": (float("inf"), float("inf")), "mixed": (30.0, float("inf")), "plain": (30.0, 32.0)}
    results = Results(
        ["how"],
        [{**row, "method": m, "psnr": p} for m, psnrs in of_method.items() for row, p in zip(rows, psnrs, strict=True)],
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        table = results.to_markdown()
        assert '"std": null' in results.to_json()
        figures.distribution(results, tmp_path / "distribution.png")
    assert "| perfect | inf | inf | inf | inf | 1.0000 (0.0000) |" in table
    assert "| mixed | inf | 30.00 | inf | inf |" in table
    assert "| plain | 31.00 (1.00) |" in table


def test_pictures_of_negative_scans(tmp_path):
    data = np.full((12, 11, 10), -5, np.float32)
    data[6, 5, 5] = 1
    truth = Volume(data, np.eye(4))
    figures.three_planes(truth, {"estimate": data + 1}, tmp_path / "planes.png")
    figures.differences(truth, {"estimate": data + 1}, tmp_path, "scan")
    assert (tmp_path / "planes.png").read_bytes().startswith(b"\x89PNG")
    assert len(list(tmp_path.glob("scan_differences_*.png"))) == 3


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("step,generator_loss\n10,0.5\n20,0.4,30,0.3\n", "line 3 is damaged .more values than columns"),
        ("step,generator_loss\n10,abc\n", "line 2 is damaged .could not convert"),
        ("10,0.5\n20,0.4\n", "line 1 is damaged .no column 'step'"),
    ],
)
def test_a_damaged_log_is_refused_by_its_line(tmp_path, text, words):
    (tmp_path / "log.csv").write_text(text)
    with pytest.raises(ModelError, match=rf"log\.csv: {words}"):
        figures.training_curve(tmp_path, tmp_path / "curve.png")


def test_a_log_is_drawn_with_its_gaps(tmp_path):
    (tmp_path / "log.csv").write_text("step,generator_loss,adversarial_loss\n10,0.5,\n20,0.4,0.1\n")
    assert figures.training_curve(tmp_path, tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
