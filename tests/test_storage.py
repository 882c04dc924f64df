import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tf_mrsr import storage
from tf_mrsr.errors import DataError, OutputError


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


@pytest.fixture
def interrupted(monkeypatch):
    """Renaming to a folder called "model" is interrupted, once."""
    rename, left = os.replace, [KeyboardInterrupt()]

    def replace(source, target):
        if Path(target).name == "model" and left:
            raise left.pop()
        rename(source, target)

    monkeypatch.setattr(storage.os, "replace", replace)


@pytest.mark.parametrize("there", ["nothing", "old"])
def test_a_folder_is_put_in_place(tmp_path, there):
    folder = tmp_path / "model"
    if there == "old":
        _file(folder / "old")
    _file(tmp_path / ".model.old" / "killed")
    _file(tmp_path / "new" / "file")
    storage.put_in_place(tmp_path / "new", folder)
    assert [path.name for path in folder.iterdir()] == ["file"]
    assert os.listdir(tmp_path) == ["model"]


@pytest.mark.usefixtures("interrupted")
def test_what_was_there_stays_if_its_replacement_is_interrupted(tmp_path):
    folder, new = tmp_path / "model", tmp_path / "new"
    _file(folder / "old")
    _file(new / "file")
    with pytest.raises(KeyboardInterrupt):
        storage.put_in_place(new, folder)
    assert storage.files_below(tmp_path) == [folder / "old", new / "file"]
    storage.put_in_place(new, folder)
    assert storage.files_below(tmp_path) == [folder / "file"]


def test_a_folder_that_is_filled_stays_the_same_one(tmp_path, monkeypatch):
    folder, new = tmp_path / "out", tmp_path / "out" / ".new"
    old = _file(folder / "a")
    for name in ("b", "c"):
        _file(new / name)
    folder.chmod(0o700)
    before = folder.stat()
    replace = os.replace

    def fail_at_last(source, target):
        if Path(source).name == "c":
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(os, "replace", fail_at_last)
    with pytest.raises(KeyboardInterrupt):
        storage.fill_in_place(new, folder, [old])
    assert sorted(p.name for p in folder.iterdir()) == [".new", "a"]
    assert sorted(p.name for p in new.iterdir()) == ["b", "c"]
    monkeypatch.setattr(os, "replace", replace)
    storage.fill_in_place(new, folder, [old])
    assert sorted(p.name for p in folder.iterdir()) == [".new", "b", "c"]
    assert (folder.stat().st_ino, folder.stat().st_mode) == (before.st_ino, before.st_mode)


def test_what_cannot_be_put_back_is_not_deleted(tmp_path, monkeypatch):
    folder, new = tmp_path / "out", tmp_path / "out" / ".new"
    old = _file(folder / "a")
    _file(new / "b")
    replace, moved = os.replace, []

    def fail_after_one(source, target):
        if moved:
            raise OSError("disk")
        moved.append(source)
        replace(source, target)

    monkeypatch.setattr(os, "replace", fail_after_one)
    with pytest.raises(OSError, match="disk"):
        storage.fill_in_place(new, folder, [old])
    assert (folder / ".new.old" / "a").is_file()


def test_default_permissions(tmp_path):
    before = os.umask(0o027)
    try:
        for path in (_file(tmp_path / "file"), tmp_path):
            path.chmod(0o700)
            storage.give_permissions(path, path.with_name("new"))
    finally:
        os.umask(before)
    assert [path.stat().st_mode & 0o777 for path in (tmp_path / "file", tmp_path)] == [0o640, 0o750]


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


def test_text_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "list.csv"
    storage.write_text(path, "Größe\n")
    assert path.read_text(encoding="utf-8") == "Größe\n"
    path.unlink()
    path.mkdir()
    with pytest.raises(OutputError, match="cannot be written"):
        storage.write_text(path, "text")
    assert list(tmp_path.iterdir()) == [path]


def test_many_write_one_file_at_once(tmp_path):
    """No task's temporary file is another's."""
    path = tmp_path / "table.csv"
    texts = [str(number) * 1000 for number in range(4)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda text: [storage.write_text(path, text) for _ in range(50)], texts))
    assert path.read_text() in texts
    assert os.listdir(tmp_path) == ["table.csv"]
