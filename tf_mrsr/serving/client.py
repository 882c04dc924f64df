"""Super-resolving scans with a model that a TensorFlow Serving somewhere runs, by gRPC. Needs no TensorFlow here."""

from __future__ import annotations

import re
import time
from dataclasses import replace
from typing import Any, NamedTuple

import grpc
import numpy as np
from google.protobuf.message import DecodeError, Message

from tf_mrsr.errors import GeometryError, ServerError, VolumeError, graph_reason
from tf_mrsr.geometry import check_affine
from tf_mrsr.limits import DEFAULT_MEMORY, SERVER_TIMEOUT
from tf_mrsr.serving import messages
from tf_mrsr.volume import Volume

# Waits between tries where nobody answers, as while a server starts; seconds.
RETRY_WAITS = (0.5, 1.0, 2.0, 4.0, 8.0)
_MOST_BYTES = 2**31 - 1  # of one message, by protobuf
_CHANNEL_OPTIONS = (
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.enable_http_proxy", 0),  # a scan goes where the address says, whatever http_proxy is set to
)
_ADDRESS = re.compile(r"(?P<host>\[[0-9a-fA-F:]+\]|[^/:\s]+):(?P<port>\d+)/(?P<model>[^/\s]+)")


class Address(NamedTuple):
    """Where a model is served."""

    target: str
    model: str

    def __str__(self) -> str:
        return f"{self.target}/{self.model}"


def parse_address(text: str) -> Address:
    """The address of "HOST:PORT/NAME".

    Raises:
        ServerError: if it is not of this form.
    """
    match = _ADDRESS.fullmatch(text)
    if match is None or not 0 < int(match["port"]) < 2**16:
        raise ServerError(f"{text!r} is not the address of a served model; expected HOST:PORT/NAME")
    return Address(f"{match['host']}:{match['port']}", match["model"])


class RemoteModel:
    """A served model, to be used like ``tf_mrsr.inference.models.Model``.

    Scans travel unencrypted: within one machine or a trusted network, or through a tunnel.

    Args:
        address: where it is served.
        timeout: seconds within which each answer must be there, retries included.
    """

    def __init__(self, address: Address, *, timeout: float = SERVER_TIMEOUT) -> None:
        self._address, self._timeout = address, timeout
        self._channel = grpc.insecure_channel(address.target, options=_CHANNEL_OPTIONS)
        self._predict = self._channel.unary_unary(
            messages.PREDICT, request_serializer=_serialized, response_deserializer=messages.PredictResponse.FromString
        )

    def __enter__(self) -> RemoteModel:
        return self

    def __exit__(self, *_: object) -> None:
        self._channel.close()

    def super_resolve(self, volume: Volume, memory_bytes: int = DEFAULT_MEMORY, stride: int | None = None) -> Volume:
        """The volume (x, y, z) on the network's finer grid, or in its other contrast.

        Args:
            volume: the scan.
            memory_bytes: what the computation may take, on the server.
            stride: for models that average patches, voxels from one patch to the next; None for the recipe's.

        Raises:
            VolumeError: if the scan is too large for a message, the server refuses it, as one too small for the model,
                or the server's memory or the time does not suffice for it.
            ServerError: if there is no answer, or none that can be used.
        """
        if volume.data.nbytes > _MOST_BYTES - 2**20:
            raise VolumeError("the volume is larger than the 2 GB that one message holds; predict it with --model")
        inputs = {"affine": volume.affine, "memory_bytes": np.int64(memory_bytes)}
        if stride is None:  # the signature that travels most cheaply, and whose stride is the recipe's own
            tensor = messages.to_tensor(volume.data).SerializeToString()
            outputs = self._ask("bytes", {**inputs, "volume_bytes": tensor})
            data = self._from_bytes(outputs.get("volume_bytes"))
        else:
            outputs = self._ask("serving_default", {**inputs, "volume": volume.data, "stride": np.int32(stride)})
            data = outputs.get("volume")
        return self._result(volume, data, outputs.get("affine"))

    def _from_bytes(self, serialized: Any) -> Any:
        if not isinstance(serialized, bytes):
            return serialized
        try:
            return messages.from_tensor(messages.Tensor.FromString(serialized))
        except DecodeError as error:
            raise self._not_understood() from error

    def _result(self, volume: Volume, data: Any, affine: Any) -> Volume:
        if not isinstance(data, np.ndarray) or not isinstance(affine, np.ndarray) or data.ndim != 3:
            raise self._not_understood()
        if not np.all(np.isfinite(data)):
            raise VolumeError("the result is not finite; rescale the scan's intensities if they are extreme")
        try:
            return replace(volume, data=data, affine=check_affine(affine))
        except GeometryError as error:
            raise self._not_understood() from error

    def _not_understood(self) -> ServerError:
        return ServerError(
            f"{self._address}: the answer is not that of a model of tf_mrsr; export the model again and serve that"
        )

    def _ask(self, signature: str, inputs: dict[str, Any]) -> dict[str, Any]:
        request = messages.predict_request(self._address.model, signature, inputs)
        deadline = time.monotonic() + self._timeout
        waits = iter(RETRY_WAITS)
        while True:
            try:
                response = self._predict(request, timeout=max(deadline - time.monotonic(), 0.001))
            except grpc.RpcError as error:
                wait = next(waits, None)
                if error.code() != grpc.StatusCode.UNAVAILABLE or wait is None or time.monotonic() + wait > deadline:
                    raise self._error(error) from error
                time.sleep(wait)
            else:
                return {name: messages.from_tensor(tensor) for name, tensor in response.outputs.items()}

    def _error(self, error: grpc.RpcError) -> Exception:
        code, details = error.code(), graph_reason(error.details() or "")
        of_scan = {
            grpc.StatusCode.INVALID_ARGUMENT: f" refuses it: {details}",
            grpc.StatusCode.DEADLINE_EXCEEDED: f": no answer within {self._timeout:g} s; raise --timeout",
            grpc.StatusCode.RESOURCE_EXHAUSTED: f": the server's memory or message size does not suffice ({details}); "
            "lower --memory, or raise the server's limits",
        }.get(code)
        if of_scan is not None:
            return VolumeError(f"{self._address}{of_scan}")
        what = {
            grpc.StatusCode.UNAVAILABLE: "nobody answers; is the server started, and is this its gRPC port (8500)?",
            grpc.StatusCode.NOT_FOUND: "the server has no such model; its names stand in models.config",
            grpc.StatusCode.UNIMPLEMENTED: "no TensorFlow Serving answers at this port; give its gRPC port (8500)",
        }.get(code, f"the server fails with {code.name} ({details})")
        return ServerError(f"{self._address}: {what}")


def _serialized(request: Message) -> bytes:
    return request.SerializeToString()
