import os
from pathlib import Path

import pytest

from tf_mrsr import storage
from tf_mrsr.errors import DataError


def _names(folder):
    return [path.relative_to(folder).as_posix() for path in storage.files_below(folder)]


def _file(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("here")
    return path


def test_files_are_sorted_as_paths(tmp_path):
    for name in ("b", "a/z", "a.x", "a/b/c"):
        _file(tmp_path / name)
    assert storage.files_below(tmp_path) == sorted(storage.files_below(tmp_path))
    assert _names(tmp_path) == ["a/b/c", "a/z", "a.x", "b"]


def test_what_is_hidden_below_a_folder_is_not_searched(tmp_path, monkeypatch):
    folder = tmp_path / ".partial"  # hidden itself, which does not count
    for name in ("scan", ".DS_Store", ".git/annex/objects/scan", "sub/.old/scan"):
        _file(folder / name)
    walked = []
    identity = storage._identity
    monkeypatch.setattr(storage, "_identity", lambda place: walked.append(Path(place)) or identity(place))
    assert _names(folder) == ["scan"]
    assert walked == [folder, folder / "sub"]


def test_links_are_followed_once(tmp_path):
    _file(tmp_path / "elsewhere" / "x")
    folder = tmp_path / "folder"
    _file(folder / "real" / "y")
    (folder / "again").symlink_to(folder / "real")
    (folder / "loop").symlink_to(folder)
    (folder / "other").symlink_to(tmp_path / "elsewhere")
    (folder / "file").symlink_to(folder / "real" / "y")
    assert _names(folder) == ["file", "other/x", "real/y"]


def test_broken_links_are_listed_and_pipes_are_not(tmp_path):
    link = tmp_path / "scan"
    link.symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe")
    assert storage.files_below(tmp_path) == [link]
    assert storage.is_broken_link(link)
    assert not storage.is_broken_link(_file(tmp_path / "file"))


def test_an_unreadable_folder_is_named(tmp_path, monkeypatch):
    closed = tmp_path / "closed"
    closed.mkdir()

    def scandir(path, scandir=os.scandir):
        if Path(path) == closed:
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(storage.os, "scandir", scandir)
    with pytest.raises(DataError, match=r"closed: the folder cannot be read \(Permission denied\)"):
        storage.files_below(tmp_path)
    with pytest.raises(DataError, match=r"nowhere: .*No such file"):
        storage.files_below(tmp_path / "nowhere")
