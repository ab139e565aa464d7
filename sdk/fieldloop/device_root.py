"""A device's root directory: its paths, its lock and the pointer to the active slot.

Flashing on the workstation and the agent on the device use this one module, so they agree on
where things lie and on what a half-finished write means.

Layout::

    root/device.toml        identity and settings
    root/trusted.pem        public keys whose releases this device runs
    root/tls/               ca.pem, device.pem, device.key
    root/slots/{a,b}.flb    two bundles: the one that runs and the one before or after it
    root/slots/shadow.flb   the challenger that runs beside it, unheard
    root/active.{0,1}       the pointer to the active slot, twice
    root/state.sqlite       boot counter, release floor, update job, denied hashes
    root/state.copy         the same, for the day when the database is lost
    root/outbox.sqlite      messages that the cloud has not acknowledged yet
    root/status.json        what `fieldloop-device status` shows

The pointer needs no atomic rename, so it works on FAT: each copy carries a sequence number and a
CRC, the older copy is written first, and the sound copy with the highest number counts.
"""

import contextlib
import fcntl
import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

from fieldloop.errors import ConfigError, DataError, EnvironmentFaultError

Slot = Literal["a", "b"]
"""One of the two places for a bundle."""


@dataclass(frozen=True, slots=True)
class DeviceRoot:
    """The paths of one device's root.

    Example:
        >>> DeviceRoot(Path("/var/lib/fieldloop")).slot("a").name
        'a.flb'
    """

    path: Path

    @property
    def config(self) -> Path:
        """Identity and settings."""
        return self.path / "device.toml"

    @property
    def trusted(self) -> Path:
        """Public keys, PEM, one after the other."""
        return self.path / "trusted.pem"

    @property
    def tls(self) -> Path:
        """Directory of `ca.pem`, `device.pem` and `device.key`."""
        return self.path / "tls"

    @property
    def ca_file(self) -> Path:
        """Certificate of the broker's authority."""
        return self.tls / "ca.pem"

    @property
    def cert_file(self) -> Path:
        """The device's certificate."""
        return self.tls / "device.pem"

    @property
    def key_file(self) -> Path:
        """The device's private key; readable by its owner only."""
        return self.tls / "device.key"

    @property
    def slots(self) -> Path:
        """Directory of the two bundles and of a download in progress."""
        return self.path / "slots"

    @property
    def shadow(self) -> Path:
        """The challenger in the running model's shadow."""
        return self.slots / "shadow.flb"

    @property
    def state(self) -> Path:
        """Database of the update state."""
        return self.path / "state.sqlite"

    @property
    def state_copy(self) -> Path:
        """Copy of the update state beside the database."""
        return self.path / "state.copy"

    @property
    def outbox(self) -> Path:
        """Database of unacknowledged messages."""
        return self.path / "outbox.sqlite"

    @property
    def status(self) -> Path:
        """What the agent said last about itself."""
        return self.path / "status.json"

    @property
    def measured(self) -> Path:
        """Latencies of the running bundle's variants as measured on this device."""
        return self.path / "measured.json"

    def slot(self, slot: Slot) -> Path:
        """Return the path of a slot's bundle."""
        return self.slots / f"{slot}.flb"


class _Pointer(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    sequence: int
    slot: Slot


def other_slot(slot: Slot) -> Slot:
    """Return the slot that is not this one.

    Example:
        >>> other_slot("a")
        'b'
    """
    return "b" if slot == "a" else "a"


def read_active(root: Path) -> Slot | None:
    """Return the active slot, or None if the device was never flashed (or both copies are lost)."""
    pointers = [pointer for pointer in map(_read_pointer, _pointer_paths(root)) if pointer]
    return max(pointers, key=lambda pointer: pointer.sequence).slot if pointers else None


def write_active(root: Path, slot: Slot) -> None:
    """Make a slot the active one, durably.

    A power cut leaves the pointer as it was or as it shall be. The older copy is overwritten
    first, so at every moment one sound copy exists.

    Raises:
        EnvironmentFaultError: The root cannot be written to.
    """
    paths = _pointer_paths(root)
    known = [(_read_pointer(path), path) for path in paths]
    known.sort(key=lambda item: item[0].sequence if item[0] else -1)
    newest = known[-1][0]
    sequence = newest.sequence + 1 if newest else 1
    body = seal(msgspec.json.encode(_Pointer(sequence=sequence, slot=slot)))
    with _faults_named(root):
        for _, path in known:
            _write_in_place(path, body)
        sync_directory(root)


def _pointer_paths(root: Path) -> tuple[Path, Path]:
    return root / "active.0", root / "active.1"


def _read_pointer(path: Path) -> _Pointer | None:
    try:
        return msgspec.json.decode(unseal(path.read_bytes()), type=_Pointer)
    except (OSError, DataError, msgspec.DecodeError):
        return None


def seal(body: bytes) -> bytes:
    """Put a CRC-32 in front of a small document, so that a torn write is noticed."""
    return f"{zlib.crc32(body):08x}\n".encode() + body


def unseal(data: bytes) -> bytes:
    """Undo `seal`.

    Raises:
        DataError: The CRC does not fit: torn, rotten or never finished.

    Example:
        >>> unseal(seal(b"fine"))
        b'fine'
    """
    head, _, body = data.partition(b"\n")
    if head != f"{zlib.crc32(body):08x}".encode():
        raise DataError(
            "a stored document fails its checksum", advice="Use its copy; this one is torn."
        )
    return body


def write_atomic(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Write a whole file so that a power cut leaves the old content or the new.

    Raises:
        EnvironmentFaultError: The directory cannot be written to or is full; nothing is left.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    with _faults_named(path):
        try:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Make creations and renames in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_in_place(path: Path, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


@contextlib.contextmanager
def locked(root: Path) -> Iterator[None]:
    """Hold the root alone: one agent or one flash at a time. The system frees it at a crash.

    Raises:
        EnvironmentFaultError: Another process holds it.
        ConfigError: The root is not a directory.
    """
    if not root.is_dir():
        raise ConfigError(
            "there is no such device root",
            where=str(root),
            advice="Provision it first: fieldloop provision.",
        )
    # The directory itself is locked: it works on a read-only file system and leaves no file.
    descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise EnvironmentFaultError(
                "another process works on this device root",
                where=str(root),
                advice="Stop the running agent first.",
            ) from error
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _faults_named(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise EnvironmentFaultError(
            f"the device root cannot be written: {error.strerror or error}",
            where=str(path),
            advice="Free disk space or check permissions and whether it is mounted read-only.",
        ) from error
