"""Files below a folder, and putting finished files and folders in their place."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from tf_mrsr.errors import DataError, OutputError

_LITTER = ("Thumbs.db", "desktop.ini")
BROKEN_LINK = "a link to a file that is not there; fetch the file (DataLad: datalad get), or remove the link"


def files_below(folder: Path) -> list[Path]:
    """All files in a folder and below it, sorted by path; what is hidden (.git, .DS_Store) is not looked into.

    Links to folders are followed, but no folder is listed twice, so loops end. Links to files that are not there are
    listed, so that whoever reads them finds out.

    Raises:
        DataError: if the folder, or one below it, cannot be read.
    """
    found, seen = [], set()
    starts = [folder]
    for start in starts:  # linked folders are added at the end, so that each is known by its own place if it has one
        for place, folders, names in os.walk(start, onerror=_refuse):
            identity = _identity(place)
            if identity in seen:
                folders.clear()
                continue
            seen.add(identity)
            folders[:] = [name for name in folders if not name.startswith(".")]
            starts += [Path(place, name) for name in sorted(folders) if os.path.islink(os.path.join(place, name))]
            paths = (Path(place, name) for name in names if not name.startswith("."))
            found += [path for path in paths if os.path.isfile(path) or not os.path.exists(path)]
    return sorted(found)


def content(folder: Path) -> list[Path]:
    """What lies in a folder, but for hidden entries and what file managers of macOS and Windows leave."""
    return [entry for entry in folder.iterdir() if not entry.name.startswith(".") and entry.name not in _LITTER]


def foreign_file(folder: Path, is_ours: Callable[[Path], bool]) -> Path | None:
    """The first file or link below a folder that is about to be replaced and would be lost; None if there is none.

    Args:
        folder: where to look, hidden folders too.
        is_ours: whether a file is one that the program made; takes its path below the folder.

    Returns:
        Path below the folder.
    """
    kept = (path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    below = (path.relative_to(folder) for path in kept if path.name not in (*_LITTER, ".DS_Store"))
    return min((path for path in below if not is_ours(path)), default=None)


def is_broken_link(path: Path) -> bool:
    return os.path.islink(path) and not os.path.exists(path)


def put_in_place(new: Path, folder: Path) -> None:
    """Renames the folder ``new`` to ``folder``; what was there stays there if that fails or is interrupted.

    Args:
        new: a folder beside ``folder``.
        folder: where it goes; no link, which would be replaced in place of what it leads to.

    Raises:
        OSError: if it cannot be renamed.
    """
    old = folder.with_name(f".{folder.name}.old")
    replaces = folder.exists()
    if replaces:
        shutil.rmtree(old, ignore_errors=True)
    try:
        if replaces:
            os.replace(folder, old)
        os.replace(new, folder)
    except BaseException:
        if replaces and not folder.exists():
            os.replace(old, folder)
        raise
    shutil.rmtree(old, ignore_errors=True)


def fill_in_place(new: Path, folder: Path, replaced: Sequence[Path]) -> None:
    """Moves the files of ``new`` into the folder that is there, which keeps its owner, permissions and mounts.

    Args:
        new: a folder within ``folder``.
        folder: where they go.
        replaced: files in ``folder`` that make room; they are back where moving fails or is interrupted.

    Raises:
        OSError: if they cannot be moved.
    """
    old = new.with_name(f"{new.name}.old")
    old.mkdir()
    moves = [(path, old / path.name) for path in replaced]
    moves += [(path, folder / path.name) for path in sorted(new.iterdir())]
    done = []
    try:
        for source, target in moves:
            os.replace(source, target)
            done.append((source, target))
    except BaseException:
        for source, target in reversed(done):
            os.replace(target, source)
        old.rmdir()  # what could not be put back stays there
        raise
    shutil.rmtree(old, ignore_errors=True)


def make_folder(folder: Path) -> None:
    """Makes a folder and those above it that are missing.

    Raises:
        OutputError: if it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be made ({error.strerror})") from error


def write_text(path: Path, text: str) -> None:
    """Writes a file in UTF-8 under a temporary name, then renames it.

    Raises:
        OutputError: if it cannot be written.
    """
    temporary = None
    try:
        # A name of its own: several tasks may write the same file.
        number, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent)
        temporary = Path(name)
        with open(number, "w", encoding="utf-8") as stream:
            stream.write(text)
        give_permissions(temporary, path)
        os.replace(temporary, path)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror}); check the folder and the disk") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def give_permissions(path: Path, replaced: Path) -> None:
    """Temporary files and folders are made for their owner alone; results get what those that they replace have, or
    what any other program's would.
    """
    if replaced.exists():
        shutil.copymode(replaced, path)
        return
    umask = os.umask(0)
    os.umask(umask)
    path.chmod((0o777 if path.is_dir() else 0o666) & ~umask)


def _identity(folder: str) -> tuple[int, int]:
    try:
        status = os.stat(folder)
    except OSError as error:
        _refuse(error)
    return status.st_dev, status.st_ino


def _refuse(error: OSError) -> NoReturn:
    raise DataError(
        f"{error.filename}: the folder cannot be read ({error.strerror}); check its permissions, or leave it out"
    ) from error
