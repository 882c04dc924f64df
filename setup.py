"""Packaging. ``train/`` and ``weights/`` travel inside the wheel as ``tf_mrsr._recipes`` and ``tf_mrsr._weights``."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (ROOT / "tf_mrsr" / "__init__.py").read_text()).group(1)
# Permissive licences only: pylibjpeg-libjpeg, which reads older JPEG, is GPL.
CODECS = ["pylibjpeg>=2,<3", "pylibjpeg-openjpeg>=2.3,<3", "pyjpegls>=1.4,<2"]

setup(
    name="tf-mrsr",
    version=VERSION,
    description="Published MR super-resolution and synthesis networks, geometry-true, in TensorFlow/Keras",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0 AND CC-BY-4.0",
    python_requires=">=3.10,<3.14",
    packages=[*find_packages(include=["tf_mrsr", "tf_mrsr.*"]), "tf_mrsr._recipes", "tf_mrsr._weights"],
    package_dir={"tf_mrsr._recipes": "train", "tf_mrsr._weights": "weights"},
    package_data={"tf_mrsr._recipes": ["*.yaml"], "tf_mrsr._weights": ["**/*"]},
    install_requires=[
        "tensorflow>=2.20,<2.22",
        "keras>=3.12,<4",
        "numpy>=1.26,<3",
        "h5py>=3.11,<4",
        "scipy>=1.13,<2",
        "scikit-image>=0.24,<1",
        "nibabel>=5.3,<6",
        "pydicom>=3,<4",
        "pyyaml>=6,<7",
        "grpcio>=1.60,<2",
        "protobuf>=5,<8",
        "matplotlib>=3.9,<4",
    ],
    extras_require={
        "gpu": ["tensorflow[and-cuda]>=2.20,<2.22"],
        "codecs": CODECS,
        "tensorboard": ["tensorboard>=2.19,<3"],
        "onnx": ["tf2onnx>=1.17,<2", "onnx>=1.16,<2", "onnxruntime>=1.18,<2"],
        "demo": ["nilearn>=0.11,<1"],
        # Peers that `make bench` measures beside tf_mrsr where they are installed.
        "bench": ["torch>=2.6,<3", "monai>=1.5,<2"],
        "test": [
            "pytest>=8,<10",
            "pytest-xdist>=3.6,<4",
            "hypothesis>=6.100,<7",
            "ruff>=0.17,<0.18",
            "nilearn>=0.11,<1",
            "highdicom>=0.25,<1",
            *CODECS,
        ],
    },
    entry_points={"console_scripts": ["tf-mrsr = tf_mrsr.__main__:main"]},
    classifiers=[
        "Intended Audience :: Science/Research",
        "Intended Audience :: Healthcare Industry",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Medical Science Apps.",
    ],
)
