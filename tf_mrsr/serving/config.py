"""The files that start the official TensorFlow Serving image on a folder of exported models.

The image's batching is for the whole server: it joins requests along their first axis. Patches can be joined so,
volumes cannot, and requests with scalars among their inputs are refused. So volumes and patches get a server each.
"""

from __future__ import annotations

import re
from pathlib import Path

from tf_mrsr import model_folder, storage
from tf_mrsr.errors import OutputError

MARK = "# Written by tf-mrsr export --serving-config, which replaces it."
IMAGE = "tensorflow/serving:2.20.0"
MODELS_FILE, BATCHING_FILE, COMPOSE_FILE = "models.config", "batching.config", "compose.yaml"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def write(folder: Path) -> list[Path]:
    """Writes models.config, batching.config and compose.yaml into a folder of models (models/x2/1, models/x4/1).

    Returns:
        The files.

    Raises:
        OutputError: as ``check``, or if one cannot be written.
    """
    check(folder)
    texts = {
        MODELS_FILE: _models_config(served(folder)),
        BATCHING_FILE: f"{MARK}\n{_BATCHING}",
        COMPOSE_FILE: f"{MARK}\n{_COMPOSE}",
    }
    for name, text in texts.items():
        storage.write_text(folder / name, text)
    return [folder / name for name in texts]


def check(folder: Path) -> None:
    """Raises an OutputError if a file of somebody else's would be replaced."""
    for name in (MODELS_FILE, BATCHING_FILE, COMPOSE_FILE):
        file = folder / name
        if file.exists() and not file.read_text(encoding="utf-8", errors="replace").startswith(MARK):
            raise OutputError(f"{file}: was not written by tf-mrsr export, so it is not replaced; move it away")


def check_name(name: str) -> None:
    """Raises an OutputError if a model cannot be served by this name."""
    if not _NAME.fullmatch(name):
        raise OutputError(f"{name!r}: the folder's name is the model's; use letters, digits, dot, dash and underscore")


def served(folder: Path) -> list[str]:
    """Names of the models in a folder of models."""
    return sorted(
        p.name for p in folder.iterdir() if _NAME.fullmatch(p.name) and p.is_dir() and model_folder.versions(p)
    )


def _models_config(names: list[str]) -> str:
    configs = "".join(
        f'  config {{\n    name: "{name}"\n    base_path: "/models/{name}"\n    model_platform: "tensorflow"\n  }}\n'
        for name in names
    )
    return f"{MARK}\nmodel_config_list {{\n{configs}}}\n"


_BATCHING = """\
# For the server of patches; sizes count patches, not requests.
max_batch_size { value: 16 }
batch_timeout_micros { value: 5000 }
max_enqueued_batches { value: 64 }
num_batch_threads { value: 2 }
"""

_COMPOSE = f"""\
# docker compose up -d                       whole volumes: gRPC on 8500, REST on 8501
# docker compose --profile patches up -d     and patches, joined to batches: gRPC on 8510
# Ports are open to this machine only, because what travels is not encrypted.
x-server: &server
  image: {IMAGE}
  user: "1000:1000"
  entrypoint: ["tensorflow_model_server"]
  environment: ["TF_ENABLE_ONEDNN_OPTS=1"]
  volumes: [".:/models:ro"]
  read_only: true
  cap_drop: [ALL]
  restart: unless-stopped
services:
  volumes:
    <<: *server
    command:
      - --port=8500
      - --rest_api_port=8501
      - --model_config_file=/models/{MODELS_FILE}
    ports: ["127.0.0.1:8500:8500", "127.0.0.1:8501:8501"]
  patches:
    <<: *server
    profiles: [patches]
    # The warm-up requests for whole volumes cannot be batched.
    command:
      - --port=8500
      - --model_config_file=/models/{MODELS_FILE}
      - --enable_batching=true
      - --batching_parameters_file=/models/{BATCHING_FILE}
      - --enable_model_warmup=false
    ports: ["127.0.0.1:8510:8500"]
"""
