"""The few messages of TensorFlow Serving that we send, read and log, by their field numbers.

What travels is told by numbers and types alone, which never change; those here are of tensorflow/core/framework/
tensor.proto, tensor_shape.proto and of tensorflow_serving/apis/{model,predict,prediction_log}.proto. The package
tensorflow-serving-api would bring the same, but asks for the package ``tensorflow`` beside ``tensorflow-cpu``, and for
TensorFlow on a machine that only sends scans away. The descriptors live in a pool of their own, so both may be loaded.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import Message

from tf_mrsr.errors import ServerError

_PACKAGE = "tf_mrsr.serving"
_Field = descriptor_pb2.FieldDescriptorProto
_TYPES = {
    "int32": _Field.TYPE_INT32,
    "int64": _Field.TYPE_INT64,
    "float": _Field.TYPE_FLOAT,
    "double": _Field.TYPE_DOUBLE,
    "string": _Field.TYPE_STRING,
    "bytes": _Field.TYPE_BYTES,
}
# Message -> field -> (number, type); "*" marks a repeated field, "map" one from strings to messages.
_MESSAGES: dict[str, dict[str, tuple[int, str]]] = {
    "Dim": {"size": (1, "int64")},
    "TensorShape": {"dim": (2, "*Dim")},
    "Tensor": {
        "dtype": (1, "int32"),
        "tensor_shape": (2, "TensorShape"),
        "tensor_content": (4, "bytes"),
        "float_val": (5, "*float"),
        "double_val": (6, "*double"),
        "int_val": (7, "*int32"),
        "string_val": (8, "*bytes"),
        "int64_val": (10, "*int64"),
    },
    "Int64Value": {"value": (1, "int64")},
    "ModelSpec": {"name": (1, "string"), "version": (2, "Int64Value"), "signature_name": (3, "string")},
    "PredictRequest": {
        "model_spec": (1, "ModelSpec"),
        "inputs": (2, "map Tensor"),
        "output_filter": (3, "*string"),
    },
    "PredictResponse": {"outputs": (1, "map Tensor"), "model_spec": (2, "ModelSpec")},
    "PredictLog": {"request": (1, "PredictRequest"), "response": (2, "PredictResponse")},
    "PredictionLog": {"predict_log": (6, "PredictLog")},
}


def _add_field(message: descriptor_pb2.DescriptorProto, name: str, number: int, kind: str) -> None:
    field = message.field.add(name=name, number=number, label=_Field.LABEL_OPTIONAL)
    if kind.startswith("map "):
        entry = message.nested_type.add(name=f"{name.title()}Entry")
        entry.options.map_entry = True
        _add_field(entry, "key", 1, "string")
        _add_field(entry, "value", 2, kind.removeprefix("map "))
        kind = f"*{message.name}.{entry.name}"
    if kind.startswith("*"):
        field.label = _Field.LABEL_REPEATED
        kind = kind[1:]
    if kind in _TYPES:
        field.type = _TYPES[kind]
    else:
        field.type, field.type_name = _Field.TYPE_MESSAGE, f".{_PACKAGE}.{kind}"


def _message_classes() -> dict[str, type[Message]]:
    file = descriptor_pb2.FileDescriptorProto(name="tf_mrsr_serving.proto", package=_PACKAGE, syntax="proto3")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, (number, kind) in fields.items():
            _add_field(message, field, number, kind)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.{name}")) for name in _MESSAGES
    }


_CLASSES = _message_classes()
Tensor = _CLASSES["Tensor"]
PredictRequest = _CLASSES["PredictRequest"]
PredictResponse = _CLASSES["PredictResponse"]
PredictionLog = _CLASSES["PredictionLog"]

PREDICT = "/tensorflow.serving.PredictionService/Predict"
# TensorFlow's number of a type, NumPy's, and the field that holds values where they are not packed as bytes.
_STRING = 7
_NUMERIC = {
    1: (np.dtype("<f4"), "float_val"),
    2: (np.dtype("<f8"), "double_val"),
    3: (np.dtype("<i4"), "int_val"),
    9: (np.dtype("<i8"), "int64_val"),
}


def predict_request(model: str, signature: str, inputs: dict[str, Any]) -> Message:
    """The request that asks ``signature`` of ``model``; inputs are arrays, or bytes for a string scalar."""
    request = PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = model, signature
    for name, value in inputs.items():
        request.inputs[name].CopyFrom(to_tensor(value))
    return request


def to_tensor(value: np.ndarray | np.generic | bytes) -> Message:
    """The message of an array of float32, float64, int32 or int64, or of bytes as a string scalar."""
    if isinstance(value, bytes):
        return Tensor(dtype=_STRING, tensor_shape={}, string_val=[value])
    number = next(number for number, (dtype, _) in _NUMERIC.items() if dtype == value.dtype)
    shape = {"dim": [{"size": size} for size in value.shape]}
    return Tensor(dtype=number, tensor_shape=shape, tensor_content=value.astype(_NUMERIC[number][0]).tobytes())


def from_tensor(tensor: Message) -> np.ndarray | bytes:
    """The array of a message, however the server packed it.

    Raises:
        ServerError: if it is of another type, or its values do not fill its shape.
    """
    if tensor.dtype == _STRING and len(tensor.string_val) == 1:
        return tensor.string_val[0]
    if tensor.dtype not in _NUMERIC:
        raise ServerError(f"the server answered with a tensor of type {tensor.dtype}, which is not known here")
    dtype, values_field = _NUMERIC[tensor.dtype]
    shape = tuple(dim.size for dim in tensor.tensor_shape.dim)
    if tensor.tensor_content:
        values = np.frombuffer(tensor.tensor_content, dtype)
    else:
        values = np.array(getattr(tensor, values_field), dtype)
        missing = int(np.prod(shape)) - len(values)
        if len(values) and missing > 0:  # the last value stands for all that follow
            values = np.pad(values, (0, missing), mode="edge")
    if values.size != np.prod(shape):
        raise ServerError(f"the server answered with {values.size} values for a tensor of shape {shape}")
    return values.reshape(shape)
