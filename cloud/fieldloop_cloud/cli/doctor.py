"""`fieldloop doctor`: what this machine has, lacks and should change."""

import importlib.metadata
import shutil
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import click
from rich.console import Console

from fieldloop.backends import available_backends
from fieldloop.errors import EnvironmentFaultError, FieldloopError
from fieldloop_cloud.cli.output import emit, home_option, json_option, table
from fieldloop_cloud.fleet.broker import MosquittoBroker
from fieldloop_cloud.release.home import Home
from fieldloop_cloud.release.signing import signing_key

NEEDED = ("fieldloop", "fieldloop-cloud", "numpy", "scikit-learn", "msgspec", "paho-mqtt")
OPTIONAL = {
    "tensorflow": "nets cannot be trained or compiled; install fieldloop-cloud[deep]",
    "fieldloop-device": "the demo cannot start devices; install fieldloop-device",
}
MIN_FREE_BYTES = 1 << 30

Level = Literal["ok", "warning", "error"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        check: What was looked at.
        level: `error` means that something will not work.
        detail: What was found.
        remedy: What to do; empty if nothing.
    """

    check: str
    level: Level
    detail: str
    remedy: str = ""


@click.command("doctor")
@home_option
@json_option
def doctor_command(*, home: Home, as_json: bool) -> None:
    """Check Python, packages, broker, ports, disk and keys."""
    findings = examine(home)

    def text(console: Console) -> None:
        rows = [(item.check, item.level, item.detail, item.remedy) for item in findings]
        console.print(table("doctor", ("check", "", "found", "what to do"), rows))

    emit(findings, as_json=as_json, text=text)
    if any(item.level == "error" for item in findings):
        click.get_current_context().exit(1)


def examine(home: Home) -> list[Finding]:
    """Look at the machine and, if it exists, at the fleet's home."""
    findings = [_python(), *_packages(), *_runtimes(), _broker(), _disk(home)]
    if home.settings_file.exists():
        findings += [
            _guarded("settings", lambda: _described(home)),
            _guarded("signing key", lambda: f"key {signing_key(home).public.key_id}"),
        ]
        findings += _ports(home)
    else:
        findings.append(Finding(check="home", level="ok", detail=f"none at {home.path} yet"))
    return findings


def _described(home: Home) -> str:
    settings = home.settings()
    security = "TLS" if settings.broker.tls else "no TLS"
    return f"broker {settings.broker.host}:{settings.broker.port}, {security}"


def _python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    fine = sys.version_info[:2] >= (3, 11)
    return Finding(
        check="python",
        level="ok" if fine else "error",
        detail=version,
        remedy="" if fine else "Use Python 3.11.",
    )


def _packages() -> list[Finding]:
    findings = []
    for name in (*NEEDED, *OPTIONAL):
        try:
            version = importlib.metadata.version(name)
            findings.append(Finding(check=name, level="ok", detail=version))
        except importlib.metadata.PackageNotFoundError:
            level: Level = "error" if name in NEEDED else "warning"
            remedy = OPTIONAL.get(name, f"pip install {name}")
            findings.append(Finding(check=name, level=level, detail="not installed", remedy=remedy))
    return findings


def _runtimes() -> list[Finding]:
    findings = [
        Finding(
            check=f"runtime {item.name}",
            level="ok" if item.usable else "warning",
            detail=item.version if item.usable else item.reason,
            remedy=item.remedy,
        )
        for item in available_backends()
        if item.version
    ]
    if not any(item.level == "ok" for item in findings):
        remedy = "pip install ai-edge-litert"
        findings.append(
            Finding(check="runtime", level="error", detail="none is usable", remedy=remedy)
        )
    return findings


def _broker() -> Finding:
    if MosquittoBroker.is_available():
        return Finding(check="mosquitto", level="ok", detail="installed with its security plugin")
    return Finding(
        check="mosquitto",
        level="warning",
        detail="not installed; the embedded broker keeps nothing over a restart",
        remedy="Install mosquitto 2 with your package manager.",
    )


def _disk(home: Home) -> Finding:
    place = next(item for item in (home.path, *home.path.resolve().parents) if item.is_dir())
    free = shutil.disk_usage(place).free
    fine = free >= MIN_FREE_BYTES
    return Finding(
        check="disk",
        level="ok" if fine else "warning",
        detail=f"{free // 2**20} MiB free at {place}",
        remedy="" if fine else "Free disk space; telemetry and releases need some.",
    )


def _ports(home: Home) -> list[Finding]:
    try:
        settings = home.settings()
    except FieldloopError:
        return []  # named by the check of the settings
    if settings.broker.external:
        return [
            _guarded("broker", lambda: _reachable(settings.broker.host, settings.broker.port)),
            _port("release port", settings.http.port),
        ]
    return [
        _port("broker port", settings.broker.port),
        _port("release port", settings.http.port),
    ]


def _port(check: str, port: int) -> Finding:
    try:
        with socket.create_server(("127.0.0.1", port)):
            return Finding(check=check, level="ok", detail=f"{port} is free")
    except OSError as error:
        return Finding(
            check=check,
            level="warning",
            detail=f"{port}: {error.strerror}",
            remedy="Fine if `fieldloop serve` runs; else choose another one in fleet.toml.",
        )


def _reachable(host: str, port: int) -> str:
    try:
        socket.create_connection((host, port), timeout=3.0).close()
    except OSError as error:
        raise EnvironmentFaultError(
            f"the broker at {host}:{port} cannot be reached: {error}",
            advice="Check host, port and network.",
        ) from error
    return f"{host}:{port} can be reached"


def _guarded(check: str, look: Callable[[], str]) -> Finding:
    try:
        return Finding(check=check, level="ok", detail=look())
    except FieldloopError as error:
        where = f" ({error.where})" if error.where else ""
        return Finding(check=check, level="error", detail=error.what + where, remedy=error.advice)
