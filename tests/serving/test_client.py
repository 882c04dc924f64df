import socket
import subprocess
import sys
from dataclasses import replace

import grpc
import numpy as np
import pytest

from tests import scans
from tests.serving.prediction_server import SavedModelService, serve
from tf_mrsr import predict, recipe
from tf_mrsr.errors import ServerError, VolumeError
from tf_mrsr.inference import models
from tf_mrsr.limits import UNLIMITED
from tf_mrsr.serving import client, messages
from tf_mrsr.serving.client import Address, RemoteModel, parse_address
from tf_mrsr.volume import Volume, read_volume

SMALL = ["network.generator.filters=4", "network.generator.num_residual_blocks=1"]
VOLUME = Volume(scans.blobs((14, 12, 10), scans.OBLIQUE) + 1, scans.OBLIQUE)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    chosen = recipe.load("sanchez2018_srgan3d_x2_quick", SMALL)
    model = models.Model(chosen, models.resolver_for(chosen, models.build_generator(chosen)))
    folder = tmp_path_factory.mktemp("served") / "x2" / "1"
    folder.parent.mkdir()
    models.save(model, folder)
    return model, folder


@pytest.fixture
def no_waits(monkeypatch):
    monkeypatch.setattr(client, "RETRY_WAITS", (0.01, 0.01, 0.01))


def test_the_server_gives_what_the_model_gives(exported):
    model, folder = exported
    with serve(SavedModelService(folder, "x2")) as address, RemoteModel(address) as remote:
        theirs = remote.super_resolve(VOLUME, UNLIMITED)
    ours = model.super_resolve(VOLUME, UNLIMITED)
    np.testing.assert_allclose(theirs.data, ours.data, rtol=1e-5)
    np.testing.assert_array_equal(theirs.affine, ours.affine)


def test_a_scan_goes_through_no_web_proxy(exported, monkeypatch):
    _, folder = exported
    with socket.create_server(("localhost", 0)) as proxy, serve(SavedModelService(folder, "x2")) as address:
        for name in ("http_proxy", "https_proxy", "grpc_proxy"):
            monkeypatch.setenv(name, f"http://localhost:{proxy.getsockname()[1]}")
        for name in ("no_proxy", "no_grpc_proxy"):
            monkeypatch.delenv(name, raising=False)
        with RemoteModel(address) as remote:
            assert remote.super_resolve(VOLUME, UNLIMITED).shape == (28, 24, 20)
        proxy.settimeout(0)
        with pytest.raises(BlockingIOError):  # nobody called
            proxy.accept()


def test_a_model_of_slices_takes_a_few_of_them(tmp_path):
    chosen = recipe.load("narcomey2018_srresnet_model1", SMALL)
    model = models.Model(chosen, models.resolver_for(chosen, models.build_generator(chosen)))
    models.save(model, tmp_path / "slices")
    volume = Volume(VOLUME.data[:, :, :6], np.diag([1.0, 1.0, 5.0, 1.0]))
    with serve(SavedModelService(tmp_path / "slices", "x2")) as address, RemoteModel(address) as remote:
        theirs = remote.super_resolve(volume, UNLIMITED)
        with pytest.raises(VolumeError, match=r"8 voxels or more along the axes\] \[0 1\].* \[7 12 6\]"):
            remote.super_resolve(replace(volume, data=volume.data[:7]), UNLIMITED)
    np.testing.assert_allclose(theirs.data, model.super_resolve(volume, UNLIMITED).data, rtol=1e-5)


def test_the_command(exported, tmp_path, capsys):
    """Scan to scan over the socket, the header's codes kept, more than gRPC's own 4 MB in the answer."""
    model, folder = exported
    data = scans.blobs((56, 52, 48), scans.OBLIQUE) + 1
    scans.save(tmp_path / "scan.nii.gz", data, scans.OBLIQUE)
    with serve(SavedModelService(folder, "x2")) as address:
        argv = [str(tmp_path / "scan.nii.gz"), "-o", str(tmp_path / "out.nii.gz"), "--server", str(address)]
        assert predict.main(argv) == 0
    result = read_volume(tmp_path / "out.nii.gz")
    assert result.data.nbytes > 4 * 2**20
    ours = model.super_resolve(read_volume(tmp_path / "scan.nii.gz"), UNLIMITED)
    np.testing.assert_allclose(result.data, ours.data, rtol=1e-4)
    np.testing.assert_allclose(result.affine, ours.affine, atol=1e-5)
    assert capsys.readouterr().err.count("warning") == 0


def test_the_command_needs_no_tensorflow(exported):
    code = (
        "import sys; sys.modules['tensorflow'] = sys.modules['keras'] = None\n"
        "from tf_mrsr import predict; from tf_mrsr.serving import client\n"
        "client.RemoteModel(client.parse_address('localhost:1/x'))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_server_that_starts_is_waited_for(exported, no_waits):
    service = SavedModelService(exported[1], "x2", failures=[grpc.StatusCode.UNAVAILABLE] * 2)
    with serve(service) as address, RemoteModel(address) as remote:
        remote.super_resolve(VOLUME, UNLIMITED)
    assert len(service.requests) == 3


def test_nobody_answers(no_waits):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, but nobody listens
        address = Address(f"127.0.0.1:{taken.getsockname()[1]}", "x2")
        with RemoteModel(address) as remote, pytest.raises(ServerError, match="nobody answers; is the server started"):
            remote.super_resolve(VOLUME, UNLIMITED)


def test_waiting_ends_with_the_deadline(exported, monkeypatch):
    monkeypatch.setattr(client, "RETRY_WAITS", (60.0,))
    service = SavedModelService(exported[1], "x2", failures=[grpc.StatusCode.UNAVAILABLE] * 9)
    with (
        serve(service) as address,
        RemoteModel(address, timeout=5) as remote,
        pytest.raises(ServerError, match="nobody answers"),
    ):
        remote.super_resolve(VOLUME, UNLIMITED)
    assert len(service.requests) == 1


@pytest.mark.parametrize(
    ("code", "kind", "words"),
    [
        (grpc.StatusCode.DEADLINE_EXCEEDED, VolumeError, "raise --timeout"),  # a smaller scan may pass
        (grpc.StatusCode.RESOURCE_EXHAUSTED, VolumeError, "lower --memory"),
        (grpc.StatusCode.UNIMPLEMENTED, ServerError, "gRPC port"),
        (grpc.StatusCode.INTERNAL, ServerError, "fails with INTERNAL"),
    ],
)
def test_other_failures_are_not_tried_again(exported, code, kind, words):
    service = SavedModelService(exported[1], "x2", failures=[code])
    with serve(service) as address, RemoteModel(address) as remote, pytest.raises(kind, match=words):
        remote.super_resolve(VOLUME, UNLIMITED)
    assert len(service.requests) == 1


def test_an_unknown_model(exported):
    service = SavedModelService(exported[1], "x2")
    with (
        serve(service, name="x4") as address,
        RemoteModel(address) as remote,
        pytest.raises(ServerError, match="no such"),
    ):
        remote.super_resolve(VOLUME, UNLIMITED)


def test_the_graph_refuses_through_the_server(exported):
    """What the client does not look for: the graph's own words come back."""
    data = VOLUME.data.copy()
    data[3, 3, 3] = np.nan
    with serve(SavedModelService(exported[1], "x2")) as address, RemoteModel(address) as remote:
        with pytest.raises(VolumeError, match="holds NaN or infinite voxels"):
            remote.super_resolve(replace(VOLUME, data=data), UNLIMITED)
        with pytest.raises(VolumeError, match=r"the volume must have 8 voxels or more along .* \[7 12 10\]"):
            remote.super_resolve(replace(VOLUME, data=VOLUME.data[:7]), UNLIMITED)
        with pytest.raises(VolumeError, match="expected to be in the set"):  # a stride for a model without one
            remote.super_resolve(VOLUME, UNLIMITED, stride=4)


SERIALIZED = messages.to_tensor(VOLUME.data).SerializeToString()


@pytest.mark.parametrize(
    "outputs",
    [
        {},
        {"volume_bytes": b"junk!"},
        {"volume_bytes": np.float32(1)},
        {"volume_bytes": SERIALIZED, "affine": np.zeros((4, 4))},
        {"volume_bytes": SERIALIZED, "affine": np.eye(3)},
    ],
)
def test_an_answer_of_another_model(outputs):
    def service(request, context):
        response = messages.PredictResponse()
        for name, value in outputs.items():
            response.outputs[name].CopyFrom(messages.to_tensor(value))
        return response

    with serve(service) as address, RemoteModel(address) as remote, pytest.raises(ServerError, match="not that of a"):
        remote.super_resolve(VOLUME, UNLIMITED)


@pytest.mark.parametrize(
    "text", ["", "x2", "host/x2", "host:8500", "host:8500/", "host:0/x2", "host:99999/x", "a b:1/x"]
)
def test_what_is_no_address(text, tmp_path, capsys):
    with pytest.raises(ServerError, match="HOST:PORT/NAME"):
        parse_address(text)


@pytest.mark.parametrize("text", ["localhost:8500/x2", "10.0.0.7:1/a.b-c", "[::1]:8500/x2"])
def test_addresses(text):
    assert str(parse_address(text)) == text


@pytest.mark.parametrize("option", [["--strict"], ["--precision", "bfloat16"]])
def test_what_a_server_cannot_be_asked(tmp_path, capsys, option):
    scans.save(tmp_path / "a.nii", VOLUME.data, scans.OBLIQUE)
    argv = [str(tmp_path / "a.nii"), "-o", str(tmp_path / "b.nii"), "--server", "localhost:1/x2", *option]
    assert predict.main(argv) == 1
    assert "use --model" in capsys.readouterr().err
