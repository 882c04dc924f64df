"""What a source distribution holds, by setuptools' own list of it."""

import subprocess
import sys
from pathlib import Path

import pytest

from tf_mrsr.storage import files_below

ROOT = Path(__file__).parents[1]
FOLDERS = ("benchmarks", "docs", "tests", "tf_mrsr", "train", "weights")
FILES = ("CHANGELOG.md", "CITATION.cff", "Dockerfile", "LICENSE", "Makefile", "README.md", "pyproject.toml", "setup.py")


def test_the_source_distribution_is_whole(tmp_path):
    pytest.importorskip("setuptools")
    command = [sys.executable, "setup.py", "-q", "egg_info", "--egg-base", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (listed,) = tmp_path.glob("*.egg-info/SOURCES.txt")
    here = [path.relative_to(ROOT) for folder in FOLDERS for path in files_below(ROOT / folder)]
    expected = {path.as_posix() for path in here if path.suffix != ".pyc"} | set(FILES)
    assert expected - set(listed.read_text().splitlines()) == set()
