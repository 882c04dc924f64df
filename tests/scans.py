"""Small scans and models for tests."""

import contextlib
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from tf_mrsr import recipe

OBLIQUE = nib.affines.from_matvec(
    nib.eulerangles.euler2mat(0.3, -0.2, 0.5) @ np.diag([-0.9, 1.1, 2.0]), (12.0, -34.0, 56.0)
)


def blobs(shape, affine, seed=0):
    """A smooth positive image, sampled where ``affine`` puts the voxels: a sum of Gaussians some voxels wide."""
    rng = np.random.default_rng(seed)
    corner = np.array(shape) - 1
    places = nib.affines.apply_affine(affine, np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1))
    extent = np.linalg.norm(affine[:3, :3] * corner, axis=0).min()
    image = np.zeros(shape)
    for center in rng.uniform(0.15, 0.85, (12, 3)) * corner:
        distance = np.linalg.norm(places - nib.affines.apply_affine(affine, center), axis=-1)
        image += rng.uniform(100, 400) * np.exp(-((distance / (extent * rng.uniform(0.1, 0.25))) ** 2))
    return image.astype(np.float32)


def save(path, data, affine=None, **header):
    """Writes a NIfTI file with nibabel, fields of the header set as given."""
    affine = np.eye(4) if affine is None else affine
    image = nib.Nifti1Image(data, affine)
    for name, value in header.items():
        image.header[name] = value
    nib.save(image, path)
    return path


def untrained_run(folder):
    """The folder of a run that is not trained yet: what commands may read before they load TensorFlow."""
    folder.mkdir()
    (folder / "recipe.yaml").write_text(recipe.load("sanchez2018_srgan3d_x2_quick").to_yaml())
    facts = {"seed": 0, "steps": None, "precision": "float32", "data": "", "validation_data": ""}
    (folder / "run.json").write_text(json.dumps(facts))
    return folder


@contextlib.contextmanager
def loaded_once(folder):
    """Keeps the models that commands load from below ``folder``, which do not change: making their graphs is slow."""
    from tf_mrsr.inference import models

    load, kept = models.load, {}

    def load_once(path, precision="float32"):
        if not Path(path).resolve().is_relative_to(folder):
            return load(path, precision)
        key = (Path(path).resolve(), precision)
        if key not in kept:
            kept[key] = load(path, precision)
        return kept[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(models, "load", load_once)
        yield
