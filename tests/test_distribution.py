"""What the distributions hold, by setuptools' own list and by what it copies for a wheel."""

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


def test_the_wheel_has_recipes_and_weights(tmp_path):
    pytest.importorskip("setuptools")
    command = [sys.executable, "setup.py", "-q", "build_py", "--build-lib", str(tmp_path)]
    egg_info = ["egg_info", "--egg-base", str(tmp_path)]
    subprocess.run([*command[:3], *egg_info, *command[3:]], cwd=ROOT, check=True, capture_output=True)
    for folder, package, pattern in (("train", "_recipes", "*.yaml"), ("weights", "_weights", "**/*")):
        expected = {p.relative_to(ROOT / folder) for p in (ROOT / folder).glob(pattern) if p.is_file()}
        built = tmp_path / "tf_mrsr" / package
        assert expected
        assert {p.relative_to(built) for p in built.rglob("*") if p.is_file()} == expected
