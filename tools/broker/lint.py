"""Check a mosquitto.conf for what is known to lose messages or to let devices spy on each other.

    python tools/broker/lint.py /etc/mosquitto/mosquitto.conf

For brokers that fieldloop does not configure itself. Prints one line for each finding; exit code 0
without findings, 1 with, 2 if the file cannot be read. `include_dir` is followed.
"""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

Settings = Mapping[str, list[str]]
"""All values of each option, in order."""

MIN_QUEUED_MESSAGES: Final = 10_000
MIN_IN_FLIGHT: Final = 100


def read_settings(path: Path) -> dict[str, list[str]]:
    """Read a configuration; comments are dropped, `include_dir` is read in its place."""
    settings: dict[str, list[str]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        name, _, value = line.strip().partition(" ")
        if not name or name.startswith("#"):
            continue
        if name == "include_dir":
            for file in sorted(Path(value.strip()).glob("*.conf")):
                for option, values in read_settings(file).items():
                    settings.setdefault(option, []).extend(values)
        settings.setdefault(name, []).append(value.strip())
    return settings


def _last(settings: Settings, name: str, default: str) -> str:
    return settings.get(name, [default])[-1]


def _number(settings: Settings, name: str, default: int) -> int:
    value = _last(settings, name, str(default))
    return int(value) if value.lstrip("-").isdigit() else default


def _has_dynamic_security(settings: Settings) -> bool:
    plugins = settings.get("plugin", []) + settings.get("auth_plugin", [])
    return any("dynamic_security" in plugin for plugin in plugins)


CHECKS: Final[Mapping[str, Callable[[Settings], bool]]] = {
    "max_queued_messages 0 stalls QoS 0 messages; use a large number, for example 100000": (
        lambda settings: _number(settings, "max_queued_messages", 1000) == 0
    ),
    f"max_queued_messages below {MIN_QUEUED_MESSAGES} drops telemetry while the ingest is away, "
    "and devices have to send it again": (
        lambda settings: 0 < _number(settings, "max_queued_messages", 1000) < MIN_QUEUED_MESSAGES
    ),
    f"max_inflight_messages below {MIN_IN_FLIGHT} stalls clients that speak MQTT 3.1.1": (
        lambda settings: 0 < _number(settings, "max_inflight_messages", 20) < MIN_IN_FLIGHT
    ),
    "persistence is off: sessions and desired states are lost at a restart": (
        lambda settings: _last(settings, "persistence", "false") != "true"
    ),
    "allow_anonymous true lets anybody in": (
        lambda settings: _last(settings, "allow_anonymous", "false") == "true"
    ),
    "without TLS (cafile, certfile, keyfile) everybody on the way can read and write": (
        lambda settings: not {"cafile", "certfile", "keyfile"} <= settings.keys()
    ),
    "require_certificate is not true: devices are known by their certificates": (
        lambda settings: _last(settings, "require_certificate", "false") != "true"
    ),
    "use_identity_as_username is not true: roles go by the certificate's common name": (
        lambda settings: _last(settings, "use_identity_as_username", "false") != "true"
    ),
    "use_username_as_clientid is not true: a device can take over another's session": (
        lambda settings: _last(settings, "use_username_as_clientid", "false") != "true"
    ),
    "acl_file does not guard subscriptions: a device can join $share/x/fl/v1/+/up/# and take "
    "others' telemetry away unseen; use the dynamic-security plugin": (
        lambda settings: "acl_file" in settings and not _has_dynamic_security(settings)
    ),
    "no dynamic-security plugin: nothing keeps devices to their own topics": (
        lambda settings: "acl_file" not in settings and not _has_dynamic_security(settings)
    ),
}
"""What a finding says, and whether it is one."""


def findings(settings: Settings) -> list[str]:
    """Return what is wrong with a configuration."""
    return [text for text, is_wrong in CHECKS.items() if is_wrong(settings)]


def main(arguments: list[str]) -> int:
    """Check the files named; return the exit code."""
    if not arguments:
        print(__doc__)
        return 2
    found = False
    for name in arguments:
        try:
            settings = read_settings(Path(name))
        except (OSError, UnicodeDecodeError) as error:
            print(f"{name}: cannot be read: {error}", file=sys.stderr)
            return 2
        for finding in findings(settings):
            found = True
            print(f"{name}: {finding}")
    return int(found)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
