"""What predict decides before it computes, and what ends a command early."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import tensorflow as tf

from tests import dicom_series, scans
from tf_mrsr import cli, predict
from tf_mrsr.errors import OutputError, VolumeError


@pytest.fixture
def stored(tmp_path):
    """A scan under a key in a hidden folder, and a link to it under its name, as DataLad keeps them."""
    key = tmp_path / "data" / ".git" / "annex" / "MD5E-s1--ab.nii.gz"
    key.parent.mkdir(parents=True)
    scans.save(key, scans.blobs((9, 9, 9), np.eye(4)) + 1)
    named = tmp_path / "data" / "sub-01" / "sub-01_T1w.nii.gz"
    named.parent.mkdir()
    named.symlink_to(os.path.relpath(key, named.parent))
    return named


def test_links_keep_their_names_and_hidden_folders_are_not_searched(stored, tmp_path):
    output, data = tmp_path / "out", stored.parents[1]
    expected = [(stored, output / "sub-01" / "sub-01_T1w.nii.gz")]
    assert predict.plan_outputs([str(data)], output, overwrite=False) == expected
    assert predict.plan_outputs([str(stored)], output, overwrite=False) == [(stored, output / "sub-01_T1w.nii.gz")]


def test_linked_series_keep_their_own_names(tmp_path):
    """Every person's series lies in a folder called dicom; the links say whose it is."""
    for name in ("p1", "p2"):
        dicom_series.save(tmp_path / name / "dicom", dicom_series.slices())
        (tmp_path / f"patient-{name}").symlink_to(tmp_path / name / "dicom")
    links = [tmp_path / "patient-p1", tmp_path / "patient-p2"]
    jobs = predict.plan_outputs([str(link) for link in links], tmp_path / "out", overwrite=False)
    assert jobs == [(link, tmp_path / "out" / link.name) for link in links]


def test_links_to_one_file_are_several_scans(stored, tmp_path):
    """As where two people's files are alike and a store keeps one."""
    other = stored.parents[1] / "sub-02" / "sub-02_T1w.nii.gz"
    other.parent.mkdir()
    other.symlink_to(stored.resolve())
    jobs = predict.plan_outputs([str(stored.parents[1]), str(other)], tmp_path / "out", overwrite=False)
    assert [scan for scan, _ in jobs] == [stored, other]


def test_what_may_not_be_replaced_is_found_before_the_work(tmp_path, capsys):
    for name in ("p1", "p2"):
        dicom_series.save(tmp_path / "in" / name, dicom_series.slices())
    (tmp_path / "out" / "p2").mkdir(parents=True)
    (tmp_path / "out" / "p2" / "notes.txt").write_text("mine")
    argv = [str(tmp_path / "in"), "-o", str(tmp_path / "out"), "--model", "sanchez2018_x2", "--overwrite"]
    assert predict.main(argv) == 1
    assert "p2: holds other things than a series of tf_mrsr" in capsys.readouterr().err
    assert not (tmp_path / "out" / "p1").exists()
    scan = scans.save(tmp_path / "scan.nii.gz", scans.blobs((9, 9, 9), np.eye(4)) + 1)
    (tmp_path / "out" / "scan.nii.gz").mkdir()
    argv[0] = str(scan)
    assert predict.main([*argv, "--skip-bad"]) == 1
    assert "scan.nii.gz: is a folder, where a file is to be written" in capsys.readouterr().err


def test_what_file_managers_leave_is_no_result(tmp_path):
    folder = tmp_path / "out" / "p1"
    folder.mkdir(parents=True)
    for name in (".DS_Store", "Thumbs.db"):
        (folder / name).touch()
    assert not predict._is_there(folder)
    (folder / "tf_mrsr_00001.dcm").touch()
    assert predict._is_there(folder)


def test_series_are_listed_where_the_output_has_no_such_letters(tmp_path):
    datasets = dicom_series.slices()
    for dataset in datasets:
        dataset.SeriesDescription = "Schädel"
    dicom_series.save(tmp_path, datasets)
    command = [sys.executable, "-m", "tf_mrsr.predict", str(tmp_path), "--list-series"]
    listed = subprocess.run(command, env={**os.environ, "PYTHONIOENCODING": "ascii"}, capture_output=True, check=True)
    assert listed.stdout.endswith(b"Sch\\xe4del\n")


@pytest.mark.parametrize(
    ("option", "words"),
    [
        (["--list-series"], "error: an empty text: no such file or folder"),
        (["--series-uid", "1.2", "-o", "out", "--model", "x"], "error: one of the scans is an empty text"),
    ],
)
def test_an_empty_text_is_no_folder_of_series(tmp_path, monkeypatch, capsys, option, words):
    dicom_series.save(tmp_path, dicom_series.slices())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(predict, "_read_card", lambda arguments: None)
    assert predict.main(["", *option]) == 1
    assert words in capsys.readouterr().err


def test_a_link_to_nothing_is_no_scan_less(stored, tmp_path):
    """Content that was not fetched: listed, so that reading it says so."""
    (stored.parent / "sub-01_T2w.nii.gz").symlink_to("nowhere.nii.gz")
    jobs = predict.plan_outputs([str(stored.parent)], tmp_path / "out", overwrite=False)
    assert [scan.name for scan, _ in jobs] == ["sub-01_T1w.nii.gz", "sub-01_T2w.nii.gz"]


@pytest.mark.parametrize("place", ["file", "file/out", "file/out/x.nii"])
def test_a_file_where_a_folder_is_needed_is_found_before_the_work(stored, tmp_path, place):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"file: is a file, where|does not exist; make it first"):
        predict.plan_outputs([str(stored)], tmp_path / place, overwrite=False)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--overwrite", "--skip-existing"], "not allowed with"),
        (["--timeout", "3"], "--timeout is for --server"),
    ],
)
def test_options_that_do_not_go_together(stored, capsys, options, words):
    with pytest.raises(SystemExit) as stopped:
        predict.main([str(stored), "-o", "x.nii", "--model", "sanchez2018_x2", *options])
    assert stopped.value.code == 2
    assert words in capsys.readouterr().err


def test_what_the_card_does_not_cover_is_refused_before_the_model_is_loaded(stored, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(predict, "_open_model", lambda arguments: pytest.fail("the model was loaded"))
    thick = tmp_path / "thick.nii.gz"
    scans.save(thick, scans.blobs((9, 9, 9), np.eye(4)) + 1, np.diag([1, 1, 9, 1]))
    argv = [str(thick), "-o", str(tmp_path / "x.nii"), "--model", "sanchez2018_x2", "--strict"]
    assert predict.main(argv) == 1
    assert "leave out --strict" in capsys.readouterr().err


def test_nothing_left_to_do_loads_nothing(stored, tmp_path, monkeypatch):
    monkeypatch.setattr(predict, "_open_model", lambda arguments: pytest.fail("the model was loaded"))
    (tmp_path / "x.nii").touch()
    argv = [str(stored), "-o", str(tmp_path / "x.nii"), "--model", "sanchez2018_x2", "--skip-existing"]
    assert predict.main(argv) == 0


def test_names_that_tables_cannot_hold_are_refused(stored, tmp_path, capsys):
    try:
        scan = tmp_path / os.fsdecode(b"M\xfcller.nii.gz")
        shutil.copy(stored, scan)
    except OSError:
        pytest.skip("this file system takes no such names")
    assert predict.main([str(scan), "-o", str(tmp_path / "x.nii"), "--model", "sanchez2018_x2"]) == 1
    assert "the name is not in UTF-8" in capsys.readouterr().err


@pytest.fixture
def ctrl_c():
    """Ctrl-C as in a terminal's foreground; shells let their background jobs ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_is_heard_during_a_computation(ctrl_c):
    begun, wanted, done = tf.Variable(False), tf.Variable(True), threading.Event()

    @tf.function
    def computation():
        begun.assign(True)
        return tf.while_loop(lambda i: wanted, lambda i: (i + 1,), (0,))

    def work():
        computation()
        done.set()

    def interrupt():
        while not begun.numpy():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(5)  # by then it was heard, or it waits for the computation's end
        wanted.assign(False)

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        cli.interruptible(work)
    assert wanted.numpy()
    assert done.wait(60)


def test_interruptible_work_gives_its_result_and_its_error():
    assert cli.interruptible(lambda: 3) == 3

    def fail():
        raise VolumeError("no")

    with pytest.raises(VolumeError, match="no"):
        cli.interruptible(fail)


def test_a_reader_that_has_seen_enough():
    with subprocess.Popen(
        [sys.executable, "-m", "tf_mrsr", "models"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141


def test_a_missing_package_is_named_in_one_line(capsys):
    def work(arguments):
        import no_such_package  # noqa: F401

    assert cli.run(work, None) == 1
    assert capsys.readouterr().err == (
        "error: a package is missing or broken (No module named 'no_such_package'); tf-mrsr doctor lists what is "
        "needed\n"
    )
