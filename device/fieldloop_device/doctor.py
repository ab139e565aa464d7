"""Looks at a device before it goes into the field and says what is wrong, and what to do."""

import os
import shutil
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from msgspec.structs import asdict

from fieldloop.backends import available_backends, choose_backend
from fieldloop.clock import SystemClock
from fieldloop.device_root import DeviceRoot, locked, read_active
from fieldloop.errors import ConfigError, EnvironmentFaultError, FieldloopError, NotConnectedError
from fieldloop.mqtt import MqttTransport
from fieldloop_device.config import DeviceConfig, load_config
from fieldloop_device.connection import mqtt_settings
from fieldloop_device.outbox_database import read_totals
from fieldloop_device.runtime import Runtime, active_bundle
from fieldloop_device.selftest import replay
from fieldloop_device.status import read_status

_MIN_FREE_BYTES = 64 * 1024 * 1024
_CONNECT_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        check: What.
        is_fine: Whether it is in order.
        detail: What was found.
        remedy: What to do; empty if it is fine.
    """

    check: str
    is_fine: bool
    detail: str
    remedy: str = ""


def examine(root: Path | None) -> tuple[Finding, ...]:
    """Look at the machine and, if a root is given, at the device."""
    findings = [*_backends(), _guarded("clock", _clock)]
    if root is None:
        return tuple(findings)
    device = DeviceRoot(root)
    try:
        config = load_config(device)
    except FieldloopError as error:
        return (*findings, _problem("settings", error))
    return (
        *findings,
        Finding("settings", is_fine=True, detail=f"device {config.device.id}"),
        _guarded("disk", lambda: _disk(device)),
        _guarded("keys", lambda: _keys(device, config)),
        _guarded("bundle", lambda: _bundle(device, config)),
        _guarded("outbox", lambda: _outbox(device)),
        _guarded("broker", lambda: _broker(device, config)),
    )


def _guarded(check: str, look: Callable[[], str]) -> Finding:
    try:
        return Finding(check, is_fine=True, detail=look())
    except FieldloopError as error:
        return _problem(check, error)


def _problem(check: str, error: FieldloopError) -> Finding:
    where = f" ({error.where})" if error.where else ""
    return Finding(check, is_fine=False, detail=error.what + where, remedy=error.advice)


def _backends() -> list[Finding]:
    """One usable backend is enough; an installed one that cannot work is worth a word."""
    findings = [
        Finding(
            f"backend {backend.name}",
            is_fine=backend.usable,
            detail=backend.version if backend.usable else backend.reason,
            remedy=backend.remedy,
        )
        for backend in available_backends()
        if backend.version
    ]
    chosen = _guarded("runtime", lambda: f"{choose_backend().name} is used")
    return [*findings, chosen]


def _clock() -> str:
    if not SystemClock().read().synchronized:
        raise EnvironmentFaultError(
            "the clock is not synchronised",
            advice="Start an NTP client; until then the cloud places events by the order of "
            "arrival and the monotonic clock.",
        )
    return "synchronised"


def _disk(root: DeviceRoot) -> str:
    free = shutil.disk_usage(root.path).free
    if free < _MIN_FREE_BYTES:
        raise EnvironmentFaultError(
            f"only {free // 2**20} MiB are free", where=str(root.path), advice="Free disk space."
        )
    probe = root.path / ".doctor.tmp"
    try:
        probe.write_bytes(b"probe")
        probe.unlink()
    except OSError as error:
        raise EnvironmentFaultError(
            f"the root cannot be written: {error.strerror}",
            where=str(root.path),
            advice="Check permissions and whether it is mounted read-only.",
        ) from error
    return f"{free // 2**20} MiB free, writable"


def _keys(root: DeviceRoot, config: DeviceConfig) -> str:
    if config.broker is None or not config.broker.tls:
        return "no TLS"
    mode = root.key_file.stat().st_mode if root.key_file.exists() else None
    if mode is None or not os.access(root.key_file, os.R_OK):
        raise ConfigError(
            "the device's private key is missing or unreadable",
            where=str(root.key_file),
            advice="Provision the device again.",
        )
    if mode & 0o077:
        raise ConfigError(
            "others may read the device's private key",
            where=str(root.key_file),
            advice="Run: chmod 600 on it.",
        )
    return "private"


def _bundle(root: DeviceRoot, config: DeviceConfig) -> str:
    # In a process of its own: a model that crashes its runtime is what a doctor is called for.
    options = asdict(config.runtime) | {"isolation": "process"}
    with Runtime.open(active_bundle(root), device_root=root.path, **options) as runtime:
        replay(runtime)
        return (
            f"slot {read_active(root.path)}: {runtime.content.manifest.name} release "
            f"{runtime.release}, {runtime.precision}, {runtime.sha256[:16]}; gives its golden "
            "answers"
        )


def _outbox(root: DeviceRoot) -> str:
    if not root.outbox.exists():
        return "empty"
    try:
        count, size_bytes = read_totals(root.outbox)
    except sqlite3.Error as error:
        raise EnvironmentFaultError(
            f"the outbox cannot be read: {error}",
            where=str(root.outbox),
            advice="It is put aside and begun anew when the agent starts.",
        ) from error
    return f"{count} messages, {size_bytes} bytes"


def _broker(root: DeviceRoot, config: DeviceConfig) -> str:
    """Connect as the device does, or ask the running agent, whose connection it would cut."""
    if config.broker is None:
        return "none configured"
    settings = mqtt_settings(root, config, will=None)
    try:
        with locked(root.path):
            transport = MqttTransport(settings)
            try:
                transport.connect(timeout_s=_CONNECT_TIMEOUT_S)
            finally:
                transport.close()
    except EnvironmentFaultError:
        return _broker_of_agent(root, settings.address)
    return f"{settings.address} accepts this device" + ("" if settings.tls else ", without TLS")


def _broker_of_agent(root: DeviceRoot, address: str) -> str:
    if not read_status(root).is_connected:
        raise NotConnectedError(
            "the running agent is not connected",
            where=address,
            advice="Run fieldloop-device -v run to see why; the device works without it.",
        )
    return f"the running agent is connected to {address}"
