import socket

import pytest
from tests.support.brokers import needs_mosquitto
from tests.support.devices import Device, make_bundle
from tests.support.waiting import wait_until

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
