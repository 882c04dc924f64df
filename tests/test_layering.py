"""Imports run downward only, and what answers at once imports no TensorFlow."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import tf_mrsr

PACKAGE = Path(tf_mrsr.__file__).parent
LAYERS = [
    {"errors", "progress", "limits", "fourier", "storage", "bfloat16"},
    {"geometry", "volume", "nifti", "dicom", "intensity", "pickled_arrays"},
    {"layers", "losses", "patches", "augmentation", "degradation", "metrics", "baselines", "cohort"},
    {"pairs", "matched_series", "slice_pairs"},
    {"networks"},
    {"recipe"},
    {"card", "card_page", "model_folder"},
    {"serving"},
    {"pipeline", "evaluation", "run_folder"},
    {"inference", "conversion"},
    {"report", "training"},
    {"cli"},
    {"prepare", "train", "predict", "evaluate", "convert", "export", "models", "doctor"},
    {"demo"},
    {"__main__"},
]
WITHOUT_TENSORFLOW = [
    "geometry",
    "volume",
    "nifti",
    "dicom.reading",
    "dicom.writing",
    "intensity",
    "degradation",
    "patches",
    "metrics",
    "baselines",
    "cohort",
    "pairs",
    "slice_pairs",
    "matched_series",
    "pickled_arrays",
    "recipe",
    "card",
    "card_page",
    "model_folder",
    "serving.client",
    "serving.config",
    "evaluation",
    "prepare",
    "train",
    "predict",
    "evaluate",
    "convert",
    "export",
    "models",
    "doctor",
    "demo",
]
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}


def _modules():
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        if parts[0] not in ("__init__", "_recipes", "_weights"):
            yield parts[0], path


def _imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "tf_mrsr":
            inner = node.module.split(".")[1:]
            yield from [inner[0]] if inner else [alias.name for alias in node.names]
        elif isinstance(node, ast.Import):
            yield from [a.name.split(".")[1] for a in node.names if a.name.startswith("tf_mrsr.")]


@pytest.mark.parametrize(("name", "path"), list(_modules()), ids=lambda value: getattr(value, "name", value))
def test_imports_run_downward(name, path):
    for imported in set(_imports(path)) - {"__version__", name}:
        assert RANK[imported] <= RANK[name], f"{path.name} imports {imported}, which stands above it"


def test_only_the_demo_and_the_dispatcher_import_commands():
    commands = {"prepare", "train", "predict", "evaluate", "convert", "export", "models", "doctor", "demo"}
    importers = {name for name, path in _modules() if commands & (set(_imports(path)) - {name})}
    assert importers == {"demo"}  # the dispatcher imports by name


def test_no_tensorflow_where_input_is_checked():
    code = "import sys, importlib\n" + "\n".join(f"importlib.import_module('tf_mrsr.{m}')" for m in WITHOUT_TENSORFLOW)
    code += "\nsys.exit('tensorflow' in sys.modules or 'keras' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
