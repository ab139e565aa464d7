"""The site's own certificate authority: who may speak to the broker.

One CA signs the broker's certificate, the ingest's and one for each device; the common name is
the identity that the broker sees. Keys are EC P-256 and readable by their owner only. Everything
here may be repeated: what exists and is still good is kept.

    home/ca/ca.pem, ca.key
"""

import datetime as dt
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fieldloop.errors import ConfigError
from fieldloop.mqtt import TlsSettings
from fieldloop.topics import checked_device_id
from fieldloop_cloud.files import write_file

CA_YEARS = 20
CERTIFICATE_YEARS = 10
"""A device in the field outlives most renewals; revoke by removing its role at the broker."""

RENEW_BEFORE = dt.timedelta(days=30)
"""A certificate with less left than this is issued anew."""

_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
# Valid from then on: a device without a battery-backed clock wakes in 1970 and must still connect.

SERVICE_PREFIX = "svc."
"""Common names of our own services start so; the dot keeps devices from ever having one."""

INGEST_IDENTITY = SERVICE_PREFIX + "ingest"
"""Who reads all telemetry and acknowledges it."""


@dataclass(frozen=True, slots=True)
class CertificateFiles:
    """A certificate with its key and the authority that signed it, PEM."""

    ca: Path
    certificate: Path
    key: Path

    def tls(self) -> TlsSettings:
        """Return what a client connection needs."""
        return TlsSettings(ca_file=self.ca, cert_file=self.certificate, key_file=self.key)


class CertificateAuthority:
    """The CA in a directory; made when it is first needed.

    Args:
        directory: Holds `ca.pem` and `ca.key`.

    Raises:
        ConfigError: One of the two files is missing or damaged; a new CA would lock out every
            device, so none is made.
        EnvironmentFaultError: The directory cannot be written.
    """

    def __init__(self, directory: Path) -> None:
        self.certificate_file = directory / "ca.pem"
        self._key_file = directory / "ca.key"
        exist = (self.certificate_file.exists(), self._key_file.exists())
        if not any(exist):
            self._create()
        elif not all(exist):
            missing = self._key_file if exist[0] else self.certificate_file
            raise ConfigError(
                "half of the certificate authority is missing",
                where=str(missing),
                advice="Restore it from a backup: a new one would lock out all devices.",
            )
        self._key = _load_key(self._key_file)
        self._certificate = _load_certificate(self.certificate_file)
        if self._certificate.public_key() != self._key.public_key():
            raise ConfigError(
                "the certificate authority's key belongs to another certificate",
                where=str(self._key_file),
                advice="Restore both files from the same backup.",
            )

    def issue_server(self, directory: Path, names: Sequence[str]) -> CertificateFiles:
        """Return the broker's certificate, `server.pem` and `server.key`, for these host names.

        It is issued anew when a name is added that the present one lacks.

        Args:
            directory: Where the files go.
            names: Host names and IP addresses under which devices reach the broker.

        Raises:
            ConfigError: No name, or one that cannot stand in a certificate.
            EnvironmentFaultError: The directory cannot be written.
        """
        if not names:
            raise ConfigError(
                "a server certificate needs a name", advice="Give the broker's host name."
            )
        wanted = tuple(dict.fromkeys(names))
        san = x509.SubjectAlternativeName([_general_name(name) for name in wanted])
        return self._issue(directory, "server", "fieldloop broker", san=san)

    def issue_device(self, directory: Path, device: str) -> CertificateFiles:
        """Return a device's certificate, `device.pem` and `device.key`.

        Raises:
            ConfigError: The id is not one.
            EnvironmentFaultError: The directory cannot be written.
        """
        return self._issue(directory, "device", checked_device_id(device))

    def issue_service(self, directory: Path, identity: str) -> CertificateFiles:
        """Return the certificate of one of our own services, for example `INGEST_IDENTITY`.

        Raises:
            ConfigError: The identity does not start with `SERVICE_PREFIX`.
            EnvironmentFaultError: The directory cannot be written.
        """
        if not identity.startswith(SERVICE_PREFIX):
            raise ConfigError(
                f"'{identity}' is not a service", advice=f"Let it start with '{SERVICE_PREFIX}'."
            )
        return self._issue(directory, identity.removeprefix(SERVICE_PREFIX), identity)

    def _create(self) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "fieldloop site CA")])
        certificate = (
            _builder(name, name, key.public_key(), CA_YEARS)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(ca=True), critical=True)
            .add_extension(
                x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False
            )
            .sign(key, hashes.SHA256())
        )
        _write_pair(self.certificate_file, certificate, self._key_file, key)

    def _issue(
        self,
        directory: Path,
        stem: str,
        identity: str,
        *,
        san: x509.SubjectAlternativeName | None = None,
    ) -> CertificateFiles:
        files = CertificateFiles(
            self.certificate_file, directory / f"{stem}.pem", directory / f"{stem}.key"
        )
        if self._is_good(files, identity, san):
            return files
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, identity)])
        purpose = (
            ExtendedKeyUsageOID.CLIENT_AUTH if san is None else ExtendedKeyUsageOID.SERVER_AUTH
        )
        builder = (
            _builder(name, self._certificate.subject, key.public_key(), CERTIFICATE_YEARS)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(ca=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
            .add_extension(
                x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False
            )
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()),
                critical=False,
            )
        )
        if san is not None:
            builder = builder.add_extension(san, critical=False)
        certificate = builder.sign(self._key, hashes.SHA256())
        _write_pair(files.certificate, certificate, files.key, key)
        return files

    def _is_good(
        self, files: CertificateFiles, identity: str, san: x509.SubjectAlternativeName | None
    ) -> bool:
        """Say whether the files exist, belong together and to us, and will last."""
        try:
            certificate = _load_certificate(files.certificate)
            key = _load_key(files.key)
            certificate.verify_directly_issued_by(self._certificate)
        except Exception:  # noqa: BLE001 - whatever is wrong with them, they are replaced
            return False
        names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        left = certificate.not_valid_after_utc - dt.datetime.now(dt.UTC)
        return (
            [name.value for name in names] == [identity]
            and certificate.public_key() == key.public_key()
            and left > RENEW_BEFORE
            and (san is None or set(san) <= _names_of(certificate))
        )


def _names_of(certificate: x509.Certificate) -> set[x509.GeneralName]:
    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return set()
    return set(extension.value)


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        pass
    try:
        return x509.DNSName(name)
    except ValueError as error:
        raise ConfigError(
            f"'{name}' cannot stand in a certificate", advice="Use an ASCII host name."
        ) from error


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, years: int
) -> x509.CertificateBuilder:
    now = dt.datetime.now(dt.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(_EPOCH)
        .not_valid_after(now + dt.timedelta(days=365 * years))
    )


def _usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=ca,
        crl_sign=ca,
        encipher_only=False,
        decipher_only=False,
    )


def _load_certificate(path: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ConfigError(
            "a certificate cannot be read", where=str(path), advice="Restore it from a backup."
        ) from error


def _load_key(path: Path) -> ec.EllipticCurvePrivateKey:
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(
            "a private key cannot be read", where=str(path), advice="Restore it from a backup."
        ) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ConfigError(
            "a private key is of another kind than EC", where=str(path), advice="Restore it."
        )
    return key


def _write_pair(
    certificate_file: Path,
    certificate: x509.Certificate,
    key_file: Path,
    key: ec.EllipticCurvePrivateKey,
) -> None:
    """Write the key first: a certificate without its key would look finished."""
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    write_file(key_file, private, mode=0o600)
    write_file(certificate_file, certificate.public_bytes(serialization.Encoding.PEM))
