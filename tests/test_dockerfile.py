"""No container engine is needed: the Dockerfile is read, and what it promises is looked up in it."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
TARGETS = ["cpu", "gpu", "serving"]


def instructions():
    """(instruction, arguments) of every line, continued lines joined, ARG defaults put in."""
    text = re.sub(r"\\\n\s*", "", "\n".join(line for line in FILE.splitlines() if not line.startswith("#")))
    defaults = dict(re.findall(r"^ARG (\w+)=(\S+)$", text, re.MULTILINE))
    for line in filter(None, text.splitlines()):
        name, _, rest = line.partition(" ")
        yield name, re.sub(r"\$\{(\w+)\}", lambda match: defaults.get(match[1], match[0]), rest)


def stages():
    """Stage -> its instructions, those of the stage that it builds on first."""
    found = {}
    for name, rest in instructions():
        if name == "FROM":
            base, _, stage = rest.partition(" AS ")
            found[stage] = [*found.get(base, [("FROM", base)])]
            current = found[stage]
        elif name != "ARG":
            current.append((name, rest))
    return found


def last(stage, instruction):
    return [rest for name, rest in stages()[stage] if name == instruction][-1]


def test_targets():
    assert set(TARGETS) <= set(stages())
    assert list(stages())[-1] == "cpu"  # what is built where no target is named


@pytest.mark.parametrize("stage", TARGETS)
def test_each_target(stage):
    image = last(stage, "FROM")
    assert re.fullmatch(r"[\w./-]+:[\w.-]+", image)
    assert not image.endswith(":latest")
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", last(stage, "USER"))  # a number, which runAsNonRoot can check
    for instruction in ("ENTRYPOINT", "CMD"):
        words = json.loads(last(stage, instruction))  # exec form: signals reach the program
        assert words
        assert all(isinstance(word, str) for word in words)
    environment = dict(pair.split("=", 1) for n, rest in stages()[stage] if n == "ENV" for pair in rest.split())
    assert environment["HOME"] == "/tmp"
    assert environment["TF_FORCE_GPU_ALLOW_GROWTH"] == "true"


def test_what_is_copied_is_there_and_let_through():
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert ignored[0] == "*"
    copied = [word for name, rest in instructions() if name == "COPY" for word in rest.split()[:-1]]
    for word in copied:
        assert (ROOT / word).exists()
        assert f"!{word}" in ignored
    # What the build reads, setup.py foremost, is among them.
    assert {"setup.py", "pyproject.toml", "README.md", "tf_mrsr", "train", "weights"} <= set(copied)


def test_what_is_installed():
    extras = (ROOT / "setup.py").read_text()
    assert '"gpu": ["tensorflow[and-cuda]' in extras
    assert last("gpu", "RUN") == "pip install '.[gpu]'"
    assert last("cpu", "RUN") == "pip install ."


def test_the_server_reads_what_export_writes():
    from tf_mrsr.serving import config

    assert last("serving", "FROM") == config.IMAGE
    assert f"--model_config_file=/models/{config.MODELS_FILE}" in json.loads(last("serving", "CMD"))
