"""The site's own MQTT broker: mosquitto where it is installed, an embedded one otherwise.

With TLS every client shows a certificate of the site's CA, and its common name says what it may
do: a device speaks under its own `up` topics and hears its own `down` topics, our services speak
and hear everything, anybody else nothing. Subscriptions are denied unless a role allows them: with
a plain access list a device could join a shared subscription (`$share`) and take away others'
telemetry unseen.

The broker is a child process. It ends when its parent does, however that ends: a guard waits for
the end of a pipe that only the parent holds open.
"""

import contextlib
import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Final, Self

import msgspec

from fieldloop import topics, wire
from fieldloop.errors import ConfigError, EnvironmentFaultError
from fieldloop.transport import Transport
from fieldloop_cloud.files import write_file
from fieldloop_cloud.release.certificates import (
    INGEST_IDENTITY,
    SERVICE_PREFIX,
    CertificateFiles,
)

START_TIMEOUT_S: Final = 20.0
STOP_TIMEOUT_S: Final = 10.0

MAX_QUEUED_MESSAGES: Final = 100_000
"""For a client that is away. Finite: with 0 (no limit) mosquitto stalls QoS 0 messages."""

MAX_IN_FLIGHT: Final = 500
"""Unacknowledged messages to a client; for MQTT 5 clients their own limit holds."""

AUTOSAVE_S: Final = 60
"""How often sessions and retained messages are saved; at a clean stop they are too."""

_GUARD: Final = """
exec 3<&0
{ trap "" TERM; cat >/dev/null; kill -TERM 0; } <&3 3<&- &
exec "$0" -c "$1" </dev/null 3<&-
"""
# The shell becomes the broker; what stays behind ends it when the pipe on stdin ends. It signals the
# process group, not a number: that may belong to somebody else by then.

_CONTROL_TOPIC: Final = "$CONTROL/dynamic-security/v1"


class Broker(ABC):
    """A local broker; start it, or use it as a context manager.

    Args:
        directory: For its configuration, its log and what it keeps over a restart.
        host: The address it listens on.
        port: The port; 0 takes a free one, which stays the same over restarts.
        tls: The server's certificate; None is a plain broker that lets everybody do everything,
            for trying out on one machine.
        devices: Ids that may connect.

    Raises:
        ConfigError: A plain broker on an address that other machines can reach.
    """

    kind: ClassVar[str]
    """Which broker it is: `mosquitto` or `amqtt`."""

    def __init__(
        self,
        directory: Path,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        tls: CertificateFiles | None = None,
        devices: Iterable[str] = (),
    ) -> None:
        if tls is None and host not in {"127.0.0.1", "::1", "localhost"}:
            raise ConfigError(
                "a broker without TLS would be open to the whole network",
                where=host,
                advice="Use TLS, or listen on 127.0.0.1.",
            )
        self.directory = directory
        self.host = host
        self.port = port or _free_port(host)
        self.tls = tls
        self.devices = {topics.checked_device_id(device) for device in devices}
        self._process: subprocess.Popen[bytes] | None = None
        self._wanted = False

    @property
    def address(self) -> str:
        """For messages to people."""
        return f"{self.host}:{self.port}"

    @property
    def log_file(self) -> Path:
        """What the broker has to say."""
        return self.directory / f"{self.kind}.log"

    @property
    def is_running(self) -> bool:
        """Whether its process lives."""
        return self._process is not None and self._process.poll() is None

    @property
    def has_died(self) -> bool:
        """Whether it was started, not stopped, and is gone."""
        return self._wanted and not self.is_running

    def start(self) -> None:
        """Start it and wait until it takes connections.

        Raises:
            EnvironmentFaultError: The port is taken, or the broker does not start.
        """
        if self.is_running:
            return
        self.kill()  # what may be left of one that died
        _check_port(self.host, self.port)
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        with self.log_file.open("ab") as log:
            self._process = subprocess.Popen(
                self._command(),
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                # Ctrl-C is for us: we flush first and end the broker last.
                start_new_session=True,
            )
        try:
            self._wait_until_ready()
        except BaseException:
            self.kill()
            raise
        self._wanted = True

    def stop(self) -> None:
        """End it cleanly; sessions and retained messages are kept if its kind can."""
        process, self._wanted = self._process, False
        if process is None:
            return
        if process.poll() is not None:
            self.kill()  # it died by itself; its guard is still there
            return
        assert process.stdin is not None
        with contextlib.suppress(OSError):
            process.stdin.close()
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.kill()
        self._process = None

    def kill(self) -> None:
        """End it as a power cut does."""
        process, self._process, self._wanted = self._process, None, False
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if process.stdin is not None:
            with contextlib.suppress(OSError):
                process.stdin.close()

    def admit(self, device: str, operator: Transport) -> None:
        """Let one more device in while the broker runs.

        Args:
            device: Its id.
            operator: A connection of ours that may administer the broker.
        """
        self.devices.add(topics.checked_device_id(device))
        self._admit_now(device, operator)

    @abstractmethod
    def _command(self) -> list[str]:
        """Write the configuration and return what to run: it ends at the end of its stdin."""

    @abstractmethod
    def _admit_now(self, device: str, operator: Transport) -> None:
        """Tell the running broker of a device."""

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline and self.is_running:
            with contextlib.suppress(OSError):
                socket.create_connection((self.host, self.port), timeout=1.0).close()
                return
            time.sleep(0.02)
        lines = self.log_file.read_text(errors="replace").strip().splitlines()
        raise EnvironmentFaultError(
            f"the broker does not start: {lines[-1] if lines else 'it says nothing'}",
            where=str(self.log_file),
            advice="See its log.",
        )

    def __enter__(self) -> Self:
        """Start."""
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop."""
        self.stop()


class MosquittoBroker(Broker):
    """Eclipse Mosquitto 2 with its dynamic-security plugin; see `Broker`."""

    kind = "mosquitto"

    @classmethod
    def is_available(cls) -> bool:
        """Whether the program and the plugin that guards it are installed."""
        return _mosquitto() is not None and _security_plugin() is not None

    def _command(self) -> list[str]:
        program, plugin = _mosquitto(), _security_plugin()
        if program is None or plugin is None:
            raise EnvironmentFaultError(
                "mosquitto or its dynamic-security plugin is not installed",
                advice="Install mosquitto 2 with your package manager, or use the embedded broker.",
            )
        configuration = self.directory / "mosquitto.conf"
        # Made from scratch at each start: the provisioned devices are the truth, this is a copy.
        roles = self.directory / "dynamic-security.json"
        if self.tls is not None:
            document = json.dumps(_security(self.devices), indent=1)
            write_file(roles, document.encode(), mode=0o600)
        write_file(configuration, self._configuration(plugin, roles).encode(), mode=0o600)
        return ["sh", "-c", _GUARD, program, str(configuration)]

    def _configuration(self, plugin: Path, roles: Path) -> str:
        lines = [
            "per_listener_settings false",
            f"allow_anonymous {'false' if self.tls else 'true'}",
            "persistence true",
            f"persistence_location {self.directory.resolve()}/",
            f"autosave_interval {AUTOSAVE_S}",
            f"max_queued_messages {MAX_QUEUED_MESSAGES}",
            f"max_inflight_messages {MAX_IN_FLIGHT}",
            f"message_size_limit {wire.MAX_PAYLOAD_BYTES}",
            # Started as root it would become another user, who cannot read our files.
            f"user {pwd.getpwuid(os.geteuid()).pw_name}",
            "log_dest stderr",
            "log_type error",
            "log_type warning",
            "connection_messages false",
        ]
        if self.tls is not None:
            lines += [f"plugin {plugin}", f"plugin_opt_config_file {roles.resolve()}"]
        lines.append(f"listener {self.port} {self.host}")
        if self.tls is not None:
            lines += [
                f"cafile {self.tls.ca.resolve()}",
                f"certfile {self.tls.certificate.resolve()}",
                f"keyfile {self.tls.key.resolve()}",
                "tls_version tlsv1.2",
                "require_certificate true",
                "use_identity_as_username true",
                # Or a device could take over another's session.
                "use_username_as_clientid true",
            ]
        return "\n".join(lines) + "\n"

    def _admit_now(self, device: str, operator: Transport) -> None:
        if self.tls is None:
            return
        role, client = _device_role(device), _client(device, device)
        commands = [{"command": "createRole", **role}, {"command": "createClient", **client}]
        operator.publish(_CONTROL_TOPIC, json.dumps({"commands": commands}).encode())


class EmbeddedBroker(Broker):
    """amqtt, in Python: speaks MQTT 3.1.1 and keeps nothing over a restart; see `Broker`."""

    kind = "amqtt"

    def _command(self) -> list[str]:
        admitted = self.directory / "devices.json"
        self._write_devices()
        settings = {"host": self.host, "port": self.port, "devices_file": str(admitted)}
        if self.tls is not None:
            settings |= {
                "ca_file": str(self.tls.ca),
                "certificate_file": str(self.tls.certificate),
                "key_file": str(self.tls.key),
            }
        return [sys.executable, "-m", "fieldloop_cloud.fleet.embedded", json.dumps(settings)]

    def _write_devices(self) -> None:
        write_file(self.directory / "devices.json", msgspec.json.encode(sorted(self.devices)))

    def _admit_now(self, device: str, operator: Transport) -> None:
        del device, operator
        self._write_devices()


def local_broker(
    directory: Path,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    tls: CertificateFiles | None = None,
    devices: Iterable[str] = (),
) -> Broker:
    """Return mosquitto if it is installed, else the embedded broker; not started yet.

    Raises:
        ConfigError: See `Broker`.
    """
    kind = MosquittoBroker if MosquittoBroker.is_available() else EmbeddedBroker
    return kind(directory, host=host, port=port, tls=tls, devices=devices)


def _mosquitto() -> str | None:
    return shutil.which("mosquitto", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")


def _security_plugin() -> Path | None:
    places = ("/usr/lib", "/usr/lib64", "/usr/local/lib", "/opt/homebrew/lib")
    for place in places:
        for pattern in ("mosquitto_dynamic_security.so", "*/mosquitto_dynamic_security.so"):
            found = next(Path(place).glob(pattern), None)
            if found is not None:
                return found
    return None


def _acl(kind: str, topic: str) -> dict[str, object]:
    return {"acltype": kind, "topic": topic, "priority": 0, "allow": True}


def _device_role(device: str) -> dict[str, object]:
    own = f"{topics.PREFIX}/{device}"
    return {
        "rolename": device,
        "acls": [
            _acl("publishClientSend", f"{own}/up/+"),
            _acl("publishClientReceive", f"{own}/down/+"),
            _acl("subscribePattern", f"{own}/down/+"),
        ],
    }


def _client(name: str, role: str) -> dict[str, object]:
    return {"username": name, "roles": [{"rolename": role}]}


def _security(devices: Iterable[str]) -> Mapping[str, Any]:
    """Return the plugin's document: what is not allowed is denied."""
    devices = sorted(devices)
    service_topics = (f"{topics.PREFIX}/#", "$CONTROL/dynamic-security/#")
    kinds = ("publishClientSend", "publishClientReceive", "subscribePattern")
    service = {
        "rolename": SERVICE_PREFIX,
        "acls": [_acl(kind, topic) for topic in service_topics for kind in kinds],
    }
    return {
        "defaultACLAccess": {
            "publishClientSend": False,
            "publishClientReceive": False,
            "subscribe": False,
            "unsubscribe": True,
        },
        "clients": [
            _client(INGEST_IDENTITY, SERVICE_PREFIX),
            *(_client(device, device) for device in devices),
        ],
        "roles": [service, *(_device_role(device) for device in devices)],
        "groups": [],
    }


def _check_port(host: str, port: int) -> None:
    try:
        with socket.create_server((host, port)):
            pass
    except OSError as error:
        raise EnvironmentFaultError(
            f"the broker cannot listen: {error.strerror}",
            where=f"{host}:{port}",
            advice="End what holds the port, or choose another port.",
        ) from error


def _free_port(host: str) -> int:
    with socket.create_server((host, 0)) as listener:
        return int(listener.getsockname()[1])
