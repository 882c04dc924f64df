import os
import tempfile

# Before Keras is imported: as commands have it (see tf_mrsr.cli), whatever is set for other programs.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ["KERAS_HOME"] = tempfile.mkdtemp()

import gzip
import shutil

import hypothesis
import pytest

from tests import golden

# How long an example takes is the machine's own matter.
hypothesis.settings.register_profile("tf_mrsr", deadline=None)
hypothesis.settings.load_profile("tf_mrsr")


@pytest.fixture(scope="session", autouse=True)
def _keras_home():
    yield
    shutil.rmtree(os.environ["KERAS_HOME"])


@pytest.fixture(scope="session")
def golden_npz(tmp_path_factory):
    """The generator's weights as TensorLayer wrote them, unpacked."""
    path = tmp_path_factory.mktemp("tensorlayer") / "g_srgan.npz"
    with gzip.open(golden.NARCOMEY / "npz_m1" / "g_srgan.npz.gz") as packed, path.open("wb") as unpacked:
        shutil.copyfileobj(packed, unpacked)
    return path


@pytest.fixture
def without_export(monkeypatch):
    """Trainings end without a SavedModel, which takes longer to make than a few steps do."""
    from tf_mrsr.training import loop

    monkeypatch.setattr(loop, "export_run", lambda folder: None)
