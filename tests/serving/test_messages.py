import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorflow.core.framework import tensor_pb2

from tests.serving.prediction_server import as_field
from tf_mrsr.errors import ServerError
from tf_mrsr.serving import messages

ARRAYS = [
    np.arange(24, dtype=np.float32).reshape(2, 3, 4),
    np.float64([[1.5, -2], [0, 1e300]]),
    np.int64(2**40),
    np.int32(-3),
    np.zeros((0, 3), np.float32),
]


@pytest.mark.parametrize("array", ARRAYS, ids=lambda a: f"{a.dtype}{a.shape}")
def test_tensors_are_tensorflows_own(array):
    """Ours are read by TensorFlow, TensorFlow's by us, packed as bytes or as numbers."""
    theirs = tensor_pb2.TensorProto.FromString(messages.to_tensor(array).SerializeToString())
    np.testing.assert_array_equal(tf.make_ndarray(theirs), array)
    for proto in (tf.make_tensor_proto(array), as_field(array)):
        ours = messages.from_tensor(messages.Tensor.FromString(proto.SerializeToString()))
        np.testing.assert_array_equal(ours, array)
        assert ours.dtype == array.dtype


@settings(max_examples=50)
@given(st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=20))
def test_any_floats_come_back(values):
    array = np.array(values, np.float32)
    np.testing.assert_array_equal(messages.from_tensor(messages.to_tensor(array)), array)


def test_bytes_are_a_string_scalar():
    theirs = tensor_pb2.TensorProto.FromString(messages.to_tensor(b"\x00a\xff").SerializeToString())
    assert tf.make_ndarray(theirs).item() == b"\x00a\xff"
    assert messages.from_tensor(messages.to_tensor(b"\x00a\xff")) == b"\x00a\xff"


def test_one_value_fills_a_shape():
    proto = messages.Tensor(dtype=1, tensor_shape={"dim": [{"size": 2}, {"size": 3}]}, float_val=[1, 7])
    np.testing.assert_array_equal(messages.from_tensor(proto), [[1, 7, 7], [7, 7, 7]])


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"dtype": 10}, "type 10"),
        ({"dtype": 1, "tensor_shape": {"dim": [{"size": 2}]}, "tensor_content": b"1234" * 3}, "3 values for a tensor"),
        ({"dtype": 1, "tensor_shape": {"dim": [{"size": 2}]}}, "0 values for a tensor"),
    ],
)
def test_what_is_no_array(fields, words):
    with pytest.raises(ServerError, match=words):
        messages.from_tensor(messages.Tensor(**fields))


def test_a_request_by_its_bytes():
    """Written out by hand from predict.proto and model.proto: field number * 8 + wire type, length, content."""
    request = messages.predict_request("x2", "bytes", {"s": np.int32(5)})
    tensor = b"\x08\x03" + b"\x12\x00" + b"\x22\x04\x05\x00\x00\x00"  # dtype 3, empty shape, content
    entry = b"\x0a\x01s" + b"\x12" + bytes([len(tensor)]) + tensor
    spec = b"\x0a\x02x2" + b"\x1a\x05bytes"
    expected = b"\x0a" + bytes([len(spec)]) + spec + b"\x12" + bytes([len(entry)]) + entry
    assert request.SerializeToString() == expected


def test_the_same_as_tensorflow_servings_package():
    """Where tensorflow-serving-api is installed, its classes read ours."""
    predict_pb2 = pytest.importorskip("tensorflow_serving.apis.predict_pb2", reason="tensorflow-serving-api is absent")
    ours = messages.predict_request("x2", "patches", {"patches": np.ones((1, 2, 2, 2, 1), np.float32)})
    theirs = predict_pb2.PredictRequest.FromString(ours.SerializeToString())
    assert (theirs.model_spec.name, theirs.model_spec.signature_name) == ("x2", "patches")
    np.testing.assert_array_equal(tf.make_ndarray(theirs.inputs["patches"]), np.ones((1, 2, 2, 2, 1)))
