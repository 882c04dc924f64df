import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import gzip
import shutil

import pytest

from tests import golden


@pytest.fixture(scope="session")
def golden_npz(tmp_path_factory):
    """The generator's weights as TensorLayer wrote them, unpacked."""
    path = tmp_path_factory.mktemp("tensorlayer") / "g_srgan.npz"
    with gzip.open(golden.NARCOMEY / "npz_m1" / "g_srgan.npz.gz") as packed, path.open("wb") as unpacked:
        shutil.copyfileobj(packed, unpacked)
    return path
