"""Provisioning gives an identity; flashing puts in only what the device itself would accept."""

import os
import stat
import tomllib
from types import SimpleNamespace

import pytest
from cryptography import x509
from tests.support.releases import bundle_bytes, publish

from fieldloop.device_root import DeviceRoot, locked, read_active
from fieldloop.errors import (
    BundleError,
    CompatibilityError,
    ConfigError,
    DataError,
    EnvironmentFaultError,
    TrustError,
    UnsupportedError,
)
from fieldloop.integrity import PublicKey, SigningKey
from fieldloop.manifest import Variant
from fieldloop_cloud.release import flash as flash_module
from fieldloop_cloud.release.flash import flash
from fieldloop_cloud.release.home import BrokerSettings, FleetSettings, Home
from fieldloop_cloud.release.provision import provision, provisioned
from fieldloop_cloud.release.releases import open_bundle
from fieldloop_device.config import load_config


@pytest.fixture
def home(tmp_path):
    return Home(tmp_path / "fleet").create()


@pytest.fixture
def root(home, tmp_path):
    return provision(home, "pi-1", "x86", tmp_path / "root").root


def _snapshot(path):
    return {
        str(item.relative_to(path)): item.read_bytes() for item in path.rglob("*") if item.is_file()
    }


def test_an_identity_is_what_the_device_reads(home, tmp_path):
    identity = provision(
        home, "pi-1", "pi4", tmp_path / "root", telemetry={"window_s": 0.5}, samples=True
    )
    root = DeviceRoot(identity.root)
    config = load_config(root)
    assert (config.device.id, config.device.device_class) == ("pi-1", "pi4")
    assert (config.broker.port, config.broker.tls) == (8883, True)
    assert (config.telemetry.window_s, config.privacy.samples) == (0.5, True)
    trusted = PublicKey.all_from_pem(root.trusted.read_bytes())
    assert [key.key_id for key in trusted] == [identity.trusted_key_id]
    certificate = x509.load_pem_x509_certificate(root.cert_file.read_bytes())
    assert certificate.subject.rfc4514_string() == "CN=pi-1"
    certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(root.ca_file.read_bytes()))
    assert stat.S_IMODE(root.key_file.stat().st_mode) == 0o600


def test_the_home_lists_its_devices_but_keeps_no_private_key_of_theirs(home, tmp_path):
    provision(home, "pi-2", "pi4", tmp_path / "root")
    provision(home, "pi-1", "x86")
    assert provisioned(home) == {"pi-1": "x86", "pi-2": "pi4"}
    assert [path.name for path in home.device("pi-2").iterdir()] == ["device.toml"]
    assert DeviceRoot(home.device("pi-1")).key_file.exists()


def test_without_tls_there_is_no_certificate(home, tmp_path):
    home.create(FleetSettings(broker=BrokerSettings(tls=False, port=1883)))
    root = DeviceRoot(provision(home, "pi-1", "x86", tmp_path / "root").root)
    assert not root.tls.exists()
    assert tomllib.loads(root.config.read_text())["broker"]["tls"] is False


def test_provisioning_again_keeps_the_key_and_what_the_device_has_gathered(home, root):
    (root / "outbox.sqlite").write_bytes(b"telemetry")
    before = _snapshot(root)
    provision(home, "pi-1", "x86", root)
    assert _snapshot(root) == before


@pytest.mark.parametrize("device", ["", "Pi", "a/b", "+", "../x", "a" * 65])
def test_an_id_that_could_speak_for_others_is_refused(home, tmp_path, device):
    with pytest.raises(ConfigError):
        provision(home, device, "x86", tmp_path / "root")
    assert not (tmp_path / "root").exists()


def test_a_root_does_not_change_its_owner(home, root):
    before = _snapshot(root)
    with pytest.raises(ConfigError, match="belongs to device pi-1"):
        provision(home, "pi-2", "x86", root)
    assert _snapshot(root) == before


def test_the_first_flash_fills_slot_a_and_the_next_one_the_other(home, root):
    first, second = publish(home, release=1), publish(home, release=2)
    done = flash(first, root)
    assert (done.slot, done.release, read_active(root)) == ("a", 1, "a")
    assert DeviceRoot(root).slot("a").read_bytes() == first.read_bytes()
    assert flash(second, root).slot == "b"
    assert read_active(root) == "b"
    assert DeviceRoot(root).slot("a").read_bytes() == first.read_bytes()


def _flip(data, at):
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


BAD = {
    "truncated": (lambda data: data[:-1], BundleError),
    "empty": (lambda _: b"", BundleError),
    "changed model": (lambda data: _flip(data, len(data) - 10), BundleError),
    "changed manifest": (lambda data: _flip(data, 60), TrustError),
    "signed by another": (lambda _: bundle_bytes(SigningKey.generate()), TrustError),
}


@pytest.mark.parametrize("case", BAD)
def test_what_the_device_would_refuse_is_refused_and_leaves_no_trace(home, root, tmp_path, case):
    change, error = BAD[case]
    bad = tmp_path / "bad.flb"
    bad.write_bytes(change(publish(home).read_bytes()))
    before = _snapshot(root)
    with pytest.raises(error):
        flash(bad, root)
    assert _snapshot(root) == before


def test_another_device_class_a_newer_runtime_and_an_older_release_are_refused(home, tmp_path):
    root = provision(home, "pi-3", "pi3", tmp_path / "pi3").root
    with pytest.raises(CompatibilityError, match="this device is a pi3"):
        flash(publish(home, device_classes=("pi4", "x86")), root)
    newer = Variant(precision="float32", min_runtime="2.16.0", op_versions={"ADD": 9})
    with pytest.raises(CompatibilityError, match=r"2\.16\.0"):
        flash(publish(home, device_classes=("pi3",), variants=[newer]), root)
    flash(publish(home, device_classes=("pi3",), release=5), root)
    with pytest.raises(TrustError, match="older than release 5"):
        flash(publish(home, device_classes=("pi3",), release=4), root)
    assert read_active(root) == "a"


def test_a_root_in_use_or_without_identity_is_refused(home, root, tmp_path):
    bundle = publish(home)
    with locked(root), pytest.raises(EnvironmentFaultError, match="another process"):
        flash(bundle, root)
    with pytest.raises(ConfigError, match="cannot be read"):
        flash(bundle, tmp_path / "none")
    DeviceRoot(root).trusted.unlink()
    with pytest.raises(ConfigError, match="no trusted key"):
        flash(bundle, root)


def test_a_missing_bundle_and_an_ssh_address_say_what_to_do(root, tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        flash(tmp_path / "none.flb", root)
    with pytest.raises(UnsupportedError, match="ssh") as caught:
        flash(tmp_path / "none.flb", "ssh://pi@pi-1")
    assert "rsync" in caught.value.advice


def test_a_full_disk_is_noticed_before_anything_is_written(home, root, monkeypatch):
    usage = SimpleNamespace(free=0)
    monkeypatch.setattr(flash_module.shutil, "disk_usage", lambda _: usage)
    before = _snapshot(root)
    with pytest.raises(EnvironmentFaultError, match="0 are free"):
        flash(publish(home), root)
    assert _snapshot(root) == before


def test_a_flash_that_is_cut_off_leaves_the_old_bundle_active(home, root, monkeypatch):
    flash(publish(home, release=1), root)
    before = _snapshot(root)
    bundle = publish(home, release=2)

    def cut(_: int) -> None:
        raise OSError(5, os.strerror(5))

    monkeypatch.setattr(os, "fsync", cut)
    with pytest.raises(EnvironmentFaultError):
        flash(bundle, root)
    assert read_active(root) == "a"
    assert _snapshot(root) == before


def test_only_this_homes_bundles_open_on_the_workstation(home, tmp_path):
    assert open_bundle(publish(home), home).manifest.name == "pump"
    foreign = tmp_path / "foreign.flb"
    foreign.write_bytes(bundle_bytes(SigningKey.generate()))
    with pytest.raises(TrustError):
        open_bundle(foreign, home)


def test_a_challenger_is_verified_and_leaves_the_active_one(home, root):
    first, second = publish(home, release=1), publish(home, release=2)
    flash(first, root)
    done = flash(second, root, shadow=True)
    assert (done.slot, done.release, read_active(root)) == (None, 2, "a")
    assert DeviceRoot(root).shadow.read_bytes() == second.read_bytes()
    second.write_bytes(second.read_bytes()[:-50])
    with pytest.raises(BundleError):
        flash(second, root, shadow=True)
