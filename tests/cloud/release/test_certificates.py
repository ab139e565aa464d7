"""The site's certificate authority."""

import socket
import ssl
import stat
import threading
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fieldloop.errors import ConfigError, EnvironmentFaultError
from fieldloop_cloud.release.certificates import (
    INGEST_IDENTITY,
    CertificateAuthority,
    CertificateFiles,
)


@pytest.fixture
def authority(tmp_path: Path) -> CertificateAuthority:
    return CertificateAuthority(tmp_path / "ca")


def _load(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_device_certificate_names_the_device_and_comes_from_the_site(
    authority: CertificateAuthority, tmp_path: Path
):
    files = authority.issue_device(tmp_path / "tls", "pump-1")
    certificate = _load(files.certificate)
    certificate.verify_directly_issued_by(_load(files.ca))
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    assert [name.value for name in names] == ["pump-1"]
    assert files.certificate.name == "device.pem"
    assert files.key.name == "device.key"
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


def test_keys_are_p256_and_readable_by_their_owner_only(
    authority: CertificateAuthority, tmp_path: Path
):
    files = authority.issue_device(tmp_path / "tls", "pump-1")
    for key in (files.key, tmp_path / "ca" / "ca.key"):
        assert _mode(key) == 0o600
    public = _load(files.certificate).public_key()
    assert isinstance(public, ec.EllipticCurvePublicKey)
    assert public.curve.name == "secp256r1"


@pytest.mark.parametrize("device", ["", "Pump", "a/b", "+", "#", "a.b", "x" * 65, "pumpe-ü"])
def test_an_id_that_could_speak_for_others_gets_no_certificate(
    authority: CertificateAuthority, tmp_path: Path, device: str
):
    with pytest.raises(ConfigError, match="device id"):
        authority.issue_device(tmp_path / "tls", device)
    assert not (tmp_path / "tls").exists()


def test_no_device_can_have_a_services_name(authority: CertificateAuthority, tmp_path: Path):
    with pytest.raises(ConfigError):
        authority.issue_device(tmp_path, INGEST_IDENTITY)
    with pytest.raises(ConfigError):
        authority.issue_service(tmp_path, "pump-1")


def test_everything_may_be_repeated_and_changes_nothing(tmp_path: Path):
    def issue() -> list[bytes]:
        authority = CertificateAuthority(tmp_path / "ca")
        issued = [
            authority.issue_device(tmp_path, "pump-1"),
            authority.issue_server(tmp_path, ["localhost", "127.0.0.1"]),
            authority.issue_service(tmp_path, INGEST_IDENTITY),
        ]
        paths = [path for files in issued for path in (files.ca, files.certificate, files.key)]
        return [path.read_bytes() for path in paths]

    assert issue() == issue()


def test_another_device_in_the_same_place_gets_its_own_certificate(
    authority: CertificateAuthority, tmp_path: Path
):
    before = authority.issue_device(tmp_path, "pump-1").certificate.read_bytes()
    after = authority.issue_device(tmp_path, "pump-2").certificate.read_bytes()
    assert before != after


def test_a_key_that_does_not_belong_is_replaced(authority: CertificateAuthority, tmp_path: Path):
    files = authority.issue_device(tmp_path / "one", "pump-1")
    other = authority.issue_device(tmp_path / "two", "pump-1")
    files.key.write_bytes(other.key.read_bytes())
    before = files.certificate.read_bytes()
    authority.issue_device(tmp_path / "one", "pump-1")
    assert files.certificate.read_bytes() != before


def test_a_new_host_name_gets_a_new_server_certificate(
    authority: CertificateAuthority, tmp_path: Path
):
    first = authority.issue_server(tmp_path, ["localhost"]).certificate.read_bytes()
    files = authority.issue_server(tmp_path, ["localhost", "10.0.0.5", "broker.example"])
    second = files.certificate.read_bytes()
    assert first != second
    extensions = _load(files.certificate).extensions
    san = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert san.get_values_for_type(x509.DNSName) == ["localhost", "broker.example"]
    assert [str(ip) for ip in san.get_values_for_type(x509.IPAddress)] == ["10.0.0.5"]
    authority.issue_server(tmp_path, ["localhost"])
    assert files.certificate.read_bytes() == second, "fewer names need no new certificate"


@pytest.mark.parametrize("names", [[], ["brök.example"]])
def test_a_server_needs_a_name_that_can_stand_in_a_certificate(
    authority: CertificateAuthority, tmp_path: Path, names: list[str]
):
    with pytest.raises(ConfigError):
        authority.issue_server(tmp_path / "tls", names)


def test_half_an_authority_is_never_replaced(tmp_path: Path):
    CertificateAuthority(tmp_path)
    certificate = (tmp_path / "ca.pem").read_bytes()
    (tmp_path / "ca.key").unlink()
    with pytest.raises(ConfigError, match="missing") as caught:
        CertificateAuthority(tmp_path)
    assert "backup" in caught.value.advice
    assert (tmp_path / "ca.pem").read_bytes() == certificate


def test_a_damaged_or_swapped_authority_is_told(tmp_path: Path):
    CertificateAuthority(tmp_path / "one")
    CertificateAuthority(tmp_path / "two")
    (tmp_path / "one" / "ca.key").write_bytes((tmp_path / "two" / "ca.key").read_bytes())
    with pytest.raises(ConfigError, match="another certificate"):
        CertificateAuthority(tmp_path / "one")
    (tmp_path / "two" / "ca.pem").write_bytes(b"nothing")
    with pytest.raises(ConfigError, match="cannot be read"):
        CertificateAuthority(tmp_path / "two")


def test_a_place_that_cannot_be_written_is_told(authority: CertificateAuthority, tmp_path: Path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(EnvironmentFaultError):
        authority.issue_device(tmp_path / "file" / "tls", "pump-1")


def test_a_device_whose_clock_is_in_1970_accepts_the_certificates(
    authority: CertificateAuthority, tmp_path: Path
):
    files = authority.issue_server(tmp_path, ["localhost"])
    assert _load(files.certificate).not_valid_before_utc.year == 1970
    assert _load(files.ca).not_valid_before_utc.year == 1970


def test_both_sides_complete_a_handshake(authority: CertificateAuthority, tmp_path: Path):
    server = authority.issue_server(tmp_path, ["localhost"])
    device = authority.issue_device(tmp_path, "pump-1")
    assert _handshake(server, device) == "pump-1"


def test_a_device_cannot_pose_as_the_broker(authority: CertificateAuthority, tmp_path: Path):
    device = authority.issue_device(tmp_path / "one", "localhost")
    other = authority.issue_device(tmp_path / "two", "pump-2")
    with pytest.raises(ssl.SSLError):
        _handshake(device, other)


def _handshake(server: CertificateFiles, device: CertificateFiles) -> str:
    """Return the name that the server sees."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(server.certificate, server.key)
    context.load_verify_locations(server.ca)
    context.verify_mode = ssl.CERT_REQUIRED
    left, right = socket.socketpair()
    seen: list[str] = []

    def answer() -> None:
        try:
            with context.wrap_socket(left, server_side=True) as connection:
                certificate = connection.getpeercert()
                assert certificate is not None
                subject = {k: v for rdn in certificate["subject"] for k, v in rdn}
                seen.append(subject["commonName"])
        except (OSError, ssl.SSLError):
            left.close()

    thread = threading.Thread(target=answer)
    thread.start()
    try:
        with device.tls().context().wrap_socket(right, server_hostname="localhost") as connection:
            connection.recv(1)
    finally:
        right.close()
        thread.join()
    return seen[0]
