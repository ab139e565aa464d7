"""Eclipse Mosquitto 2 as the site's broker: its configuration and who may do what.

The dynamic-security plugin denies what no role allows, subscriptions too, and each device has a
role of its own. Nobody has a password: the certificate's common name is the identity.
"""

import json
import os
import pwd
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Final

from fieldloop import topics, wire
from fieldloop.errors import EnvironmentFaultError
from fieldloop.transport import Transport
from fieldloop_cloud.files import write_file
from fieldloop_cloud.fleet.broker_process import Broker
from fieldloop_cloud.release.certificates import INGEST_IDENTITY, SERVICE_PREFIX

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
# The shell becomes the broker; what stays behind ends it when the pipe on stdin ends. It signals
# the process group, not a number: that may belong to somebody else by then.

_CONTROL_TOPIC: Final = "$CONTROL/dynamic-security/v1"


class MosquittoBroker(Broker):
    """Eclipse Mosquitto 2 with its dynamic-security plugin; see `Broker`."""

    kind: ClassVar[str] = "mosquitto"

    @classmethod
    def is_available(cls) -> bool:
        """Whether the program and the plugin that guards it are installed."""
        return _program() is not None and _security_plugin() is not None

    def _command(self) -> list[str]:
        program, plugin = _program(), _security_plugin()
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


def _program() -> str | None:
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
