"""A PredictionService on a real socket that runs an exported SavedModel, as TensorFlow Serving does."""

from concurrent import futures
from contextlib import contextmanager

import grpc
import numpy as np
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2

from tf_mrsr.serving import messages
from tf_mrsr.serving.client import Address

UNLIMITED = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]


class SavedModelService:
    """Answers Predict for one model; ``failures`` are the status codes to answer with first."""

    def __init__(self, folder, name, failures=()):
        self._model = tf.saved_model.load(str(folder))
        self._name, self.failures = name, list(failures)
        self.requests = []

    def __call__(self, request, context):
        self.requests.append(request)
        if self.failures:
            context.abort(self.failures.pop(0), "as the test wants it")
        if request.model_spec.name != self._name:
            context.abort(grpc.StatusCode.NOT_FOUND, "Servable not found for request")
        signature = self._model.signatures[request.model_spec.signature_name]
        # Through TensorFlow's own messages, which says that ours are the same on the wire.
        inputs = {k: tf.make_ndarray(_theirs(v)) for k, v in request.inputs.items()}
        expected = set(signature.structured_input_signature[1])
        if set(inputs) != expected:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"Inputs expected to be in the set {sorted(expected)}.")
        try:
            outputs = signature(**{name: tf.constant(value) for name, value in inputs.items()})
        except tf.errors.InvalidArgumentError as error:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, error.message)
        response = messages.PredictResponse()
        for name, value in outputs.items():
            response.outputs[name].ParseFromString(as_field(value.numpy()).SerializeToString())
        return response


def _theirs(tensor):
    return tensor_pb2.TensorProto.FromString(tensor.SerializeToString())


def as_field(value):
    """Values in their own field, not packed as bytes, as TensorFlow Serving answers unless it is told otherwise."""
    proto = tf.make_tensor_proto(value, shape=np.shape(value))
    if proto.tensor_content:
        field = {tf.float32: "float_val", tf.float64: "double_val"}[tf.as_dtype(proto.dtype)]
        getattr(proto, field).extend(np.ravel(value).tolist())
        proto.ClearField("tensor_content")
    return proto


@contextmanager
def serve(service, *, name="x2"):
    """Yields the address at which ``service`` answers."""
    handler = grpc.unary_unary_rpc_method_handler(
        service,
        request_deserializer=messages.PredictRequest.FromString,
        response_serializer=lambda response: response.SerializeToString(),
    )
    server = grpc.server(futures.ThreadPoolExecutor(2), options=UNLIMITED)
    package, method = messages.PREDICT.strip("/").split("/")
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(package, {method: handler})])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield Address(f"127.0.0.1:{port}", name)
    finally:
        server.stop(None).wait()
