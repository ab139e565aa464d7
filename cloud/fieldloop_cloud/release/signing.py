"""The fleet's release key: made on first use, kept private, never overwritten.

Who has this key decides what every device runs. It lies in `keys/release.pem`, readable by its
owner only; devices get the public part at provisioning. Losing it means provisioning every device
again, so nothing here ever writes over an existing key.
"""

import contextlib
import os
import secrets
import stat
from pathlib import Path

from fieldloop.errors import ConfigError, EnvironmentFaultError, FieldloopError
from fieldloop.integrity import PublicKey, SigningKey
from fieldloop_cloud.files import fsync_directory, write_file
from fieldloop_cloud.release.home import Home

_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def signing_key(home: Home) -> SigningKey:
    """Return the home's release key, making it on first use.

    Raises:
        ConfigError: The key file can be read by others, holds no key, or is lost.
        EnvironmentFaultError: The key cannot be read or written.
    """
    with home.locked():
        if not home.signing_key_file.exists():
            _refuse_second(home)
            _create(home)
        key = _load(home.signing_key_file)
        _export(key.public, home.public_key_file)
    return key


def public_key(home: Home) -> PublicKey:
    """Return the public part that devices trust (makes the key on first use)."""
    return signing_key(home).public


def _refuse_second(home: Home) -> None:
    """Refuse to replace a lost key in silence: no device would take what the new one signs."""
    if home.public_key_file.exists() or any(home.releases.glob("*.flb")):
        raise ConfigError(
            "the release key is lost; the devices of this home trust no other",
            where=str(home.signing_key_file),
            advice="Restore it from a backup, or begin a new home and provision every device anew.",
        )


def _create(home: Home) -> None:
    """Write a fresh key under a name of its own and link it: never half a key, never over one."""
    temporary = home.keys / f".release.{secrets.token_hex(8)}"
    try:
        home.keys.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(SigningKey.generate().to_pem())
            file.flush()
            os.fsync(file.fileno())
        # link() fails where a key exists already; rename() would replace it.
        with contextlib.suppress(FileExistsError):
            os.link(temporary, home.signing_key_file)
        fsync_directory(home.keys)
    except OSError as error:
        raise EnvironmentFaultError(
            f"the signing key cannot be written: {error.strerror}",
            where=str(home.keys),
            advice="Free disk space or choose a home that you may write.",
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def _load(path: Path) -> SigningKey:
    try:
        mode = path.stat().st_mode
        pem = path.read_bytes()
    except OSError as error:
        raise EnvironmentFaultError(
            f"the signing key cannot be read: {error.strerror}",
            where=str(path),
            advice="Give the key back to its owner, mode 0600.",
        ) from error
    if mode & _OTHERS:
        raise ConfigError(
            "the private signing key can be read by other users",
            where=str(path),
            advice=f"Run `chmod 600 {path}`; if others may have copied it, provision anew with a "
            "new key.",
        )
    try:
        return SigningKey.from_pem(pem)
    except FieldloopError as error:
        raise ConfigError(
            f"the release key cannot be used: {error.what}",
            where=str(path),
            advice="Restore it from a backup.",
        ) from error


def _export(key: PublicKey, path: Path) -> None:
    pem = key.to_pem()
    if not path.is_file() or path.read_bytes() != pem:
        write_file(path, pem)
