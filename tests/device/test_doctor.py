import socket

import pytest
from tests.support.brokers import needs_mosquitto
from tests.support.devices import Device, dense_model, golden_set, make_bundle
from tests.support.foreign_ops import custom_op, newer_op
from tests.support.waiting import wait_until

from fieldloop import backends
from fieldloop_cloud.fleet.broker import MosquittoBroker
from fieldloop_cloud.release.certificates import CertificateAuthority
from fieldloop_device import doctor
from fieldloop_device.agent import Agent
from fieldloop_device.doctor import examine

BROKER = "[broker]\nhost = '127.0.0.1'\nport = {port}\ntls = {tls}\n"


def findings(device):
    return {finding.check: finding for finding in examine(device.path)}


@pytest.fixture
def device(tmp_path):
    return Device(tmp_path / "device")


def test_a_sound_device_is_fine(device):
    found = findings(device)
    for check in ("settings", "disk", "keys", "bundle", "outbox", "broker", "runtime"):
        assert found[check].is_fine, found[check]
    assert "release 1" in found["bundle"].detail


def test_without_a_root_the_machine_is_looked_at():
    checks = {finding.check for finding in examine(None)}
    assert {"runtime", "clock", "backend ai-edge-litert"} <= checks
    assert "bundle" not in checks


def test_a_root_that_is_none_says_so(tmp_path):
    (finding,) = (item for item in examine(tmp_path) if item.check == "settings")
    assert not finding.is_fine
    assert "provision" in finding.remedy


@pytest.mark.parametrize(
    "bundle", [b"rotten", make_bundle(golden_wrong_by=1.0), make_bundle(device_classes=("mcu",))]
)
def test_a_bundle_that_will_not_run_is_found(tmp_path, bundle):
    finding = findings(Device(tmp_path / "device", bundle=bundle))["bundle"]
    assert not finding.is_fine
    assert finding.remedy


def test_a_corrupt_outbox_is_found(device):
    device.root.outbox.write_bytes(b"rubbish" * 100)
    assert "put aside" in findings(device)["outbox"].remedy


def test_a_broker_that_is_away_is_found(device, monkeypatch):
    monkeypatch.setattr(doctor, "_CONNECT_TIMEOUT_S", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    device.configure(BROKER.format(port=port, tls="false"))
    finding = findings(device)["broker"]
    assert not finding.is_fine
    assert str(port) in finding.detail


@needs_mosquitto
def test_a_broker_is_tried_as_the_device_does(device, tmp_path):
    with MosquittoBroker(tmp_path / "broker") as broker:
        device.configure(BROKER.format(port=broker.port, tls="false"))
        finding = findings(device)["broker"]
        assert finding.is_fine
        assert "accepts this device" in finding.detail
        with Agent(device.path) as agent:
            wait_until(lambda: agent.status.is_connected)
            agent.record(cut=True)
            assert "the running agent is connected" in findings(device)["broker"].detail


@needs_mosquitto
def test_a_broker_that_refuses_this_device_is_found(device, tmp_path):
    authority = CertificateAuthority(tmp_path / "ca")
    server = authority.issue_server(tmp_path / "broker", ["127.0.0.1", "localhost"])
    with MosquittoBroker(tmp_path / "broker", tls=server, devices=["pump-1"]) as broker:
        device.configure(BROKER.format(port=broker.port, tls="true"))
        authority.issue_device(device.root.tls, "pump-1")
        device.root.ca_file.write_bytes(authority.certificate_file.read_bytes())
        assert findings(device)["broker"].is_fine
        stranger = CertificateAuthority(tmp_path / "other-ca")
        stranger.issue_device(tmp_path / "stranger", "pump-1")
        for path in (device.root.cert_file, device.root.key_file):
            path.write_bytes((tmp_path / "stranger" / path.name).read_bytes())
        finding = findings(device)["broker"]
        assert not finding.is_fine
        assert "rovision" in finding.remedy


def test_a_private_key_that_others_may_read_is_found(device):
    device.configure(BROKER.format(port=9, tls="true"))
    assert "Provision" in findings(device)["keys"].remedy
    device.root.tls.mkdir()
    for path in (device.root.ca_file, device.root.cert_file, device.root.key_file):
        path.write_text("x")
    device.root.key_file.chmod(0o644)
    assert "chmod 600" in findings(device)["keys"].remedy
    device.root.key_file.chmod(0o600)
    assert findings(device)["keys"].is_fine
    assert not findings(device)["broker"].is_fine


def test_a_full_disk_is_found(device, monkeypatch):
    usage = type(doctor.shutil.disk_usage("/"))
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _path: usage(10**9, 10**9, 10**6))
    assert "Free disk space" in findings(device)["disk"].remedy


def test_a_runtime_that_cannot_work_here_brings_its_remedy(device, monkeypatch):
    monkeypatch.setenv("FIELDLOOP_BACKEND", "tflite-runtime")
    found = findings(device)
    assert not found["runtime"].is_fine
    assert "pip install" in found["runtime"].remedy


GOOD = dense_model()


@pytest.mark.parametrize(
    ("model", "said", "remedy"),
    [
        (newer_op(GOOD), "FULLY_CONNECTED in version 99", "Update the runtime"),
        (custom_op(GOOD, b"FlexErf"), "Select TensorFlow ops", "builtin ops only"),
        (custom_op(GOOD, b"MyOp"), "custom op MyOp", "builtin ops only"),
    ],
    ids=["newer", "flex", "custom"],
)
def test_an_op_that_the_runtime_lacks_is_named_with_its_remedy(tmp_path, model, said, remedy):
    bundle = make_bundle(model=model, golden=golden_set(GOOD))
    finding = findings(Device(tmp_path / "device", bundle=bundle))["bundle"]
    assert not finding.is_fine
    assert said in finding.detail
    assert remedy in finding.remedy


@pytest.fixture
def installed(monkeypatch):
    """Pretend that exactly these backends are installed, beside this NumPy."""

    def pretend(*names, numpy):
        packages = {backends._PACKAGES[name] for name in names}
        monkeypatch.delenv(backends.BACKEND_VARIABLE, raising=False)
        monkeypatch.setattr(
            backends.importlib.util, "find_spec", lambda name: name in packages or None
        )
        monkeypatch.setattr(backends, "_version", lambda _name, _package: "2.14.0")
        monkeypatch.setattr(backends.np, "__version__", numpy)

    return pretend


def test_a_numpy_that_breaks_tflite_runtime_is_found_before_it_does(installed):
    installed("tflite-runtime", numpy="2.1.0")
    found = {item.check: item for item in examine(None)}
    for check in ("backend tflite-runtime", "runtime"):
        assert not found[check].is_fine
        assert "NumPy 2.1.0" in found[check].detail
        assert "numpy<2" in found[check].remedy


def test_a_machine_without_a_runtime_is_told_which_wheel_it_needs(installed):
    installed(numpy="1.26.4")
    found = {item.check: item for item in examine(None)}
    assert not found["runtime"].is_fine
    assert "ai-edge-litert" in found["runtime"].remedy
    assert "fieldloop-device[tflite]" in found["runtime"].remedy


def test_a_delegate_that_is_not_there_is_found(device):
    device.configure("[runtime]\ndelegate = '/missing/libedgetpu.so.1'\n")
    finding = findings(device)["bundle"]
    assert "delegate cannot be loaded" in finding.detail
    assert "leave it out" in finding.remedy
