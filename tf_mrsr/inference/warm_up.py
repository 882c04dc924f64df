"""The requests that TensorFlow Serving runs by itself when it loads a model, so that the first user does not wait."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import tensorflow as tf

from tf_mrsr.limits import DEFAULT_MEMORY
from tf_mrsr.serving import messages

FILE = "tf_serving_warmup_requests"
# Long enough that no axis is shorter than what a network needs, short enough to cost nothing.
_SIDE = 16


def write(path: Path, model: str, signatures: Iterable[str], *, stride: int | None) -> None:
    """Writes one request for each signature of a resolver: PredictionLog messages in a TFRecord file.

    Args:
        path: the file.
        model: the name under which it is served.
        signatures: their names.
        stride: for models that average patches, else None.
    """
    ramp = np.linspace(0, 1, _SIDE**3, dtype=np.float32).reshape((_SIDE,) * 3)
    place = {"affine": np.eye(4), "memory_bytes": np.int64(DEFAULT_MEMORY)}
    strides = {} if stride is None else {"stride": np.int32(stride)}
    requests = {
        "serving_default": {"volume": ramp, **place, **strides},
        "patches": {"patches": ramp[None, ..., None]},
        "slices": {"slices": ramp[..., None]},
        "bytes": {"volume_bytes": messages.to_tensor(ramp).SerializeToString(), **place},
    }
    with tf.io.TFRecordWriter(str(path)) as writer:
        for signature in signatures:
            log = messages.PredictionLog()
            log.predict_log.request.CopyFrom(messages.predict_request(model, signature, requests[signature]))
            writer.write(log.SerializeToString())
