"""Who is trusted, and for what: every trust rule stands here, and only here.

This module touches neither disk nor network. A `TrustPolicy` is asked with a manifest's bytes and
its signatures and applies, in this order:

1. At least one signature is by a trusted key, and no signature that claims a trusted key is wrong.
2. Only then is the manifest parsed.
3. The release counter is not below the floor.
4. The device's class is among those the bundle is for.
5. The device's runtime has every op version of at least one variant.

Signatures are Ed25519 (RFC 8032) over a domain tag and the manifest's bytes, so that a signature
made for something else can never pass as one for a bundle.
"""

import base64
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import msgspec
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)

from fieldloop.errors import CompatibilityError, DataError, TrustError
from fieldloop.manifest import Manifest, Variant, parse_manifest

SIGNATURE_DOMAIN = b"fieldloop-bundle-v1\0"
"""Comes before the manifest in the signed message."""

_KEY_ID_DIGITS = 16
_KEY_BYTES = 32
_SPKI_PREFIX = bytes.fromhex("302a300506032b6570032100")
"""What comes before the key in the SubjectPublicKeyInfo of every Ed25519 key."""
_PEM_BLOCK = re.compile(
    rb"-----BEGIN PUBLIC KEY-----([A-Za-z0-9+/=\s]{1,4096})-----END PUBLIC KEY-----"
)
_VERSION = re.compile(r"\d{1,6}(\.\d{1,6}){0,3}")


class KeySignature(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One signature over a manifest.

    Attributes:
        key_id: Whose; see `PublicKey.key_id`.
        signature: 64 bytes.
    """

    key_id: str
    signature: bytes


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A key that signatures are checked with.

    Attributes:
        raw: The 32 bytes of an Ed25519 public key.
    """

    raw: bytes

    @property
    def key_id(self) -> str:
        """Short name: the first 16 hex digits of the SHA-256 of the raw key."""
        return hashlib.sha256(self.raw).hexdigest()[:_KEY_ID_DIGITS]

    @classmethod
    def from_pem(cls, pem: bytes) -> Self:
        """Read one key (SubjectPublicKeyInfo, RFC 8410).

        Raises:
            DataError: It is not the PEM of exactly one Ed25519 public key.
        """
        keys = cls.all_from_pem(pem)
        if len(keys) != 1:
            raise DataError(
                f"{len(keys)} public keys came where one is needed", advice="Give one PEM block."
            )
        return keys[0]

    @classmethod
    def all_from_pem(cls, pem: bytes) -> tuple[Self, ...]:
        """Read a file of one or more keys.

        Raises:
            DataError: It holds no key, or one that is not Ed25519.
        """
        keys = []
        for block in _PEM_BLOCK.findall(pem):
            try:
                content = base64.b64decode(b"".join(block.split()), validate=True)
            except ValueError as error:
                raise DataError(
                    "a public key cannot be read", advice="Copy the file again."
                ) from error
            # Compared, not parsed: an Ed25519 key has one encoding (RFC 8410), and the parser for
            # all the others costs a device more than the whole check of a bundle.
            raw = content[len(_SPKI_PREFIX) :]
            if content[: len(_SPKI_PREFIX)] != _SPKI_PREFIX or len(raw) != _KEY_BYTES:
                raise DataError(
                    "a public key is not an Ed25519 key",
                    advice="Use the key that signs the releases.",
                )
            keys.append(cls(raw))
        if not keys:
            raise DataError(
                "there is no public key in PEM form",
                advice="Give a file with a block 'BEGIN PUBLIC KEY'.",
            )
        return tuple(keys)

    def to_pem(self) -> bytes:
        """Write the key as SubjectPublicKeyInfo in PEM."""
        content = base64.b64encode(_SPKI_PREFIX + self.raw)
        return b"-----BEGIN PUBLIC KEY-----\n" + content + b"\n-----END PUBLIC KEY-----\n"

    def verify(self, message: bytes, signature: bytes) -> None:
        """Check a signature over a message.

        Raises:
            TrustError: The signature is not this key's.
        """
        try:
            Ed25519PublicKey.from_public_bytes(self.raw).verify(signature, message)
        except (InvalidSignature, ValueError) as error:
            raise TrustError(
                "a signature does not fit its content",
                where=f"key {self.key_id}",
                advice="Fetch the file again; if that does not help, do not trust its source.",
            ) from error


class SigningKey:
    """A private key; it never shows itself in a repr or a message.

    Example:
        >>> key = SigningKey.generate()
        >>> key.public.verify(b"message", key.sign(b"message"))
    """

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key

    @classmethod
    def generate(cls) -> Self:
        """Make a new key from the system's randomness."""
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def from_bytes(cls, raw: bytes) -> Self:
        """Make the key of a 32-byte seed.

        Raises:
            DataError: The seed has another length.
        """
        try:
            return cls(Ed25519PrivateKey.from_private_bytes(raw))
        except ValueError as error:
            raise DataError(
                "a signing key's seed has 32 bytes", advice="Generate a new key."
            ) from error

    @classmethod
    def from_pem(cls, pem: bytes) -> Self:
        """Read a private key (PKCS8, not encrypted).

        Raises:
            DataError: It is not the PEM of an Ed25519 private key.
        """
        from cryptography.hazmat.primitives import serialization  # noqa: PLC0415 - see `to_pem`

        try:
            key = serialization.load_pem_private_key(pem, password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise DataError(
                "the private key cannot be read", advice="Give the release key in PKCS8 PEM."
            ) from error
        if not isinstance(key, Ed25519PrivateKey):
            raise DataError("the private key is not an Ed25519 key", advice="Give the release key.")
        return cls(key)

    def to_pem(self) -> bytes:
        """Write the key as PKCS8 in PEM; whoever can read it can sign releases."""
        from cryptography.hazmat.primitives import serialization  # noqa: PLC0415 - devices only verify, and it is large

        return self._key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )

    @property
    def public(self) -> PublicKey:
        """The key that devices get."""
        return PublicKey(self._key.public_key().public_bytes_raw())

    def sign(self, message: bytes) -> bytes:
        """Return the 64-byte signature over a message."""
        return self._key.sign(message)

    def sign_manifest(self, manifest: bytes) -> KeySignature:
        """Sign a bundle's manifest."""
        return KeySignature(
            key_id=self.public.key_id, signature=self.sign(SIGNATURE_DOMAIN + manifest)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustPolicy:
    """What one device (or workstation) accepts.

    Attributes:
        keys: Trusted keys; a bundle needs the signature of one of them.
        release_floor: Lowest release counter that is accepted; 0 accepts all.
        device_class: This device's class; None does not check (a workstation that only looks).
        runtime_version: The TFLite version that this device's runtime equals, for example
            `2.14.0`; None for a runtime that has every op version (LiteRT), or no check.
    """

    keys: tuple[PublicKey, ...]
    release_floor: int = 0
    device_class: str | None = None
    runtime_version: str | None = None

    def check(self, manifest_bytes: bytes, signatures: Sequence[KeySignature]) -> Manifest:
        """Return the manifest if all rules allow it; see the module's description.

        Raises:
            TrustError: Not signed by a trusted key, a wrong signature, or a downgrade.
            BundleError: Signed, but malformed.
            CompatibilityError: For another device class, a newer runtime or a newer format.
        """
        self._check_signatures(manifest_bytes, signatures)
        manifest = parse_manifest(manifest_bytes)
        if manifest.release < self.release_floor:
            raise TrustError(
                f"release {manifest.release} is older than release {self.release_floor}, "
                "the lowest that is accepted",
                where=manifest.name,
                advice="Build the bundle again: its release counter then grows.",
            )
        if self.device_class is not None and self.device_class not in manifest.device_classes:
            raise CompatibilityError(
                f"the bundle is for {', '.join(manifest.device_classes)}, "
                f"this device is a {self.device_class}",
                where=manifest.name,
                advice=f"Build a bundle for {self.device_class}.",
            )
        if not self.runnable(manifest):
            needs = ", ".join(f"{item.precision} {item.min_runtime}" for item in manifest.variants)
            raise CompatibilityError(
                f"no variant runs on TFLite {self.runtime_version}; needed are: {needs}",
                where=manifest.name,
                advice="Update the runtime, or compile for this device's runtime.",
            )
        return manifest

    def runnable(self, manifest: Manifest) -> tuple[Variant, ...]:
        """Return the variants whose ops this device's runtime has, the preferred one first."""
        if self.runtime_version is None:
            return manifest.variants
        present = _version(self.runtime_version)
        return tuple(item for item in manifest.variants if _version(item.min_runtime) <= present)

    def _check_signatures(self, message: bytes, signatures: Sequence[KeySignature]) -> None:
        keys = {key.key_id: key for key in self.keys}
        trusted = [signature for signature in signatures if signature.key_id in keys]
        if not trusted:
            signers = ", ".join(signature.key_id[:_KEY_ID_DIGITS] for signature in signatures[:4])
            raise TrustError(
                f"the bundle is not signed by a trusted key (signed by: {signers or 'nobody'})",
                advice=f"Trusted here: {', '.join(keys) or 'no key at all'}. "
                "Provision the device with the key that signs the releases.",
            )
        for signature in trusted:
            keys[signature.key_id].verify(SIGNATURE_DOMAIN + message, signature.signature)


def _version(text: str) -> tuple[int, ...]:
    """Return a version as numbers; what follows the numbers (`rc1`) is left out."""
    match = _VERSION.match(text)
    numbers = [int(part) for part in match[0].split(".")] if match else []
    return tuple([*numbers, 0, 0, 0, 0][:4])
