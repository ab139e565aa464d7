"""Give a device its identity: who it is, whom it trusts, how it reaches the broker.

What is written is a device root as `fieldloop.device_root` lays it out, ready to be copied to the
device. The private key lies only there; the home keeps the device's name and class, which is the
list of the fleet's devices.
"""

import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fieldloop.device_root import DeviceRoot
from fieldloop.errors import ConfigError
from fieldloop.topics import checked_device_id
from fieldloop_cloud.files import to_toml, write_file
from fieldloop_cloud.release.certificates import CertificateAuthority
from fieldloop_cloud.release.home import Home
from fieldloop_cloud.release.signing import public_key
from fieldloop_cloud.release.targets import load_target


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """A provisioned device.

    Attributes:
        device_id: Its name.
        device_class: The target it is.
        root: The device root that was written.
        trusted_key_id: Key whose releases it runs.
    """

    device_id: str
    device_class: str
    root: Path
    trusted_key_id: str


def provision(
    home: Home | Path | str,
    device_id: str,
    device_class: str | Path,
    root: Path | str | None = None,
    *,
    telemetry: Mapping[str, float] | None = None,
    samples: bool | None = None,
) -> Identity:
    """Write a device's identity; doing it again renews it and keeps models and telemetry.

    Args:
        home: The fleet's home; made if missing.
        device_id: `[a-z0-9-]{1,64}`; its name in topics and in its certificate.
        device_class: A target's name or the path of its TOML file.
        root: Device root to write; by default `devices/<id>` in the home.
        telemetry: Settings of `[telemetry]` in `device.toml`, for example `window_s`.
        samples: Whether raw inputs may be sent home for labelling; None leaves it to the device's
            default (yes for numbers, no for images).

    Raises:
        ConfigError: The id, the class or a setting is wrong, or the root is another device's.
        EnvironmentFaultError: A directory cannot be written.
    """
    home = home if isinstance(home, Home) else Home(Path(home))
    check_request(device_id, device_class, telemetry)
    target = load_target(device_class)
    device_root = DeviceRoot(Path(root) if root is not None else home.device(device_id))
    _check_vacant(device_root, device_id)
    key = public_key(home.create())
    broker = home.settings().broker
    if broker.tls:
        authority = CertificateAuthority(home.ca)
        authority.issue_device(device_root.tls, device_id)
        write_file(device_root.ca_file, authority.certificate_file.read_bytes())
    write_file(device_root.trusted, key.to_pem())
    settings: dict[str, dict[str, Any]] = {
        "device": {"id": device_id, "class": target.name},
        "broker": {"host": broker.host, "port": broker.port, "tls": broker.tls},
        "telemetry": dict(telemetry or {}),
        "privacy": {} if samples is None else {"samples": samples},
    }
    document = to_toml(settings).encode()
    if device_root.path.resolve() != home.device(device_id).resolve():
        write_file(home.device(device_id) / "device.toml", document)
    # Last: a root with device.toml is complete.
    write_file(device_root.config, document)
    return Identity(
        device_id=device_id,
        device_class=target.name,
        root=device_root.path,
        trusted_key_id=key.key_id,
    )


def check_request(
    device_id: str, device_class: str | Path, telemetry: Mapping[str, Any] | None = None
) -> None:
    """Check a device's id, class and settings before anything is written.

    Raises:
        ConfigError: One of them is wrong.
    """
    checked_device_id(device_id)
    load_target(device_class)
    window_s = (telemetry or {}).get("window_s", 1.0)
    if not 0 < window_s < math.inf:
        raise ConfigError(
            f"a telemetry window of {window_s} s cannot be kept",
            where="[telemetry] window_s",
            advice="Give seconds above 0.",
        )


def provisioned(home: Home) -> dict[str, str]:
    """Return the class of every provisioned device by its id, sorted.

    Raises:
        ConfigError: A device's record in the home is damaged.
    """
    found: dict[str, str] = {}
    for path in sorted(home.devices.glob("*/device.toml")):
        device_id, device_class = read_identity(path)
        found[device_id] = device_class
    return found


def read_identity(path: Path) -> tuple[str, str]:
    """Read id and class from a `device.toml`.

    Raises:
        ConfigError: It is missing, no TOML or names no device.
    """
    try:
        section = tomllib.loads(path.read_text(encoding="utf-8"))["device"]
        return checked_device_id(section["id"]), str(section["class"])
    except OSError as error:
        raise ConfigError(
            f"the device's settings cannot be read: {error.strerror}",
            where=str(path),
            advice="Make a device root with `fieldloop provision`.",
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise ConfigError(
            "the device's settings name no device id and class",
            where=str(path),
            advice="Provision the device again.",
        ) from error


def _check_vacant(root: DeviceRoot, device_id: str) -> None:
    if root.path.exists() and not root.path.is_dir():
        raise ConfigError(
            "the device root is a file, not a directory",
            where=str(root.path),
            advice="Name another directory.",
        )
    if not root.config.exists():
        return
    present, _ = read_identity(root.config)
    if present != device_id:
        raise ConfigError(
            f"this root belongs to device {present}",
            where=str(root.path),
            advice=f"Choose another directory for {device_id}: an outbox and an identity must not "
            "change owners.",
        )
