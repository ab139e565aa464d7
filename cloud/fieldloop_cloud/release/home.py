"""The home directory: everything a fleet owns on the workstation, in one place.

A home is an ordinary directory; copying it is a backup, and nothing about a fleet lies elsewhere.

```
fleet/
  fleet.toml            broker, release server and alarm settings
  keys/release.pem      private signing key (0600); release.pub.pem is what devices trust
  ca/                   the fleet's certificate authority
  broker/               configuration and certificate of the broker that `serve` starts
  releases/<sha256>.flb published bundles, named by their hash
  devices/<id>/         provisioned identities
  store.sqlite          telemetry, samples, labels, rollouts
  release.counter       the last release number that was given out
```
"""

import contextlib
import fcntl
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from fieldloop.errors import ConfigError
from fieldloop_cloud.files import cannot_write, read_toml, to_toml, write_file

DEFAULT_HOME = Path("fleet")
"""Where commands look for the home without `--home`."""

_HOST = re.compile(r"[A-Za-z0-9_.:%-]{1,253}")


class BrokerSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The MQTT broker, as devices and the workstation reach it.

    Attributes:
        host: Name or address.
        port: TCP port.
        tls: Whether connections use TLS with client certificates.
        external: True when somebody else runs the broker; `serve` then starts none.
    """

    host: str = "127.0.0.1"
    port: int = 8883
    tls: bool = True
    external: bool = False


class HttpSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The release server, as devices reach it.

    Attributes:
        host: Name or address that stands in the URLs given to devices.
        port: TCP port.
    """

    host: str = "127.0.0.1"
    port: int = 8080


class AlarmSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How often drift alarms may be wrong.

    Attributes:
        false_alarms_per_fleet_month: Expected number of false drift verdicts in thirty days.
        period_s: Length of one drift cycle in seconds.
    """

    false_alarms_per_fleet_month: float = 1.0
    period_s: float = 3600.0


class FleetSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What `fleet.toml` holds."""

    broker: BrokerSettings = BrokerSettings()
    http: HttpSettings = HttpSettings()
    alarms: AlarmSettings = AlarmSettings()

    def checked(self) -> "FleetSettings":
        """Return self after checking the ranges.

        Raises:
            ConfigError: A port outside 1 … 65535, an empty host or a rate that is not positive.
        """
        for section, port in (("broker", self.broker.port), ("http", self.http.port)):
            if not 1 <= port <= 65535:  # noqa: PLR2004 - the range of TCP ports
                raise ConfigError(
                    f"{port} is no TCP port",
                    where=f"[{section}] port",
                    advice="Use a number from 1 to 65535.",
                )
        for section, host in (("broker", self.broker.host), ("http", self.http.host)):
            if not _HOST.fullmatch(host):
                raise ConfigError(
                    f"{host!r} is no host" if host.strip() else "the host is empty",
                    where=f"[{section}] host",
                    advice="Give a host name or an address.",
                )
        if not (self.alarms.false_alarms_per_fleet_month > 0 and self.alarms.period_s > 0):
            raise ConfigError(
                "alarm rate and period must be above zero",
                where="[alarms]",
                advice="Set how many false alarms a month the fleet may raise, for example 1.0.",
            )
        return self


@dataclass(frozen=True, slots=True)
class Home:
    """The paths of one fleet home, and the few operations every user of it shares.

    Args:
        path: The directory; need not exist yet (see `create` and `opened`).

    Example:
        >>> Home(Path("fleet")).release_file("ab12").as_posix()
        'fleet/releases/ab12.flb'
    """

    path: Path

    def __post_init__(self) -> None:
        # Callers may hand over a string; the paths below need a Path.
        object.__setattr__(self, "path", Path(self.path))

    @property
    def settings_file(self) -> Path:
        """`fleet.toml`."""
        return self.path / "fleet.toml"

    @property
    def keys(self) -> Path:
        """Directory of signing keys, mode 0700."""
        return self.path / "keys"

    @property
    def signing_key_file(self) -> Path:
        """Private release key, PEM, mode 0600."""
        return self.keys / "release.pem"

    @property
    def public_key_file(self) -> Path:
        """Public release key, PEM: what devices trust."""
        return self.keys / "release.pub.pem"

    @property
    def ca(self) -> Path:
        """Directory of the fleet's certificate authority."""
        return self.path / "ca"

    @property
    def broker(self) -> Path:
        """Directory of the local broker's configuration and certificate."""
        return self.path / "broker"

    @property
    def store_file(self) -> Path:
        """The fleet's SQLite database."""
        return self.path / "store.sqlite"

    @property
    def releases(self) -> Path:
        """Directory of published bundles."""
        return self.path / "releases"

    @property
    def devices(self) -> Path:
        """Directory of provisioned identities, one folder a device."""
        return self.path / "devices"

    @property
    def counter_file(self) -> Path:
        """The last release number given out."""
        return self.path / "release.counter"

    def device(self, device_id: str) -> Path:
        """Return the folder of one device's identity."""
        return self.devices / device_id

    def release_file(self, sha256: str) -> Path:
        """Return where the bundle with this hash is published."""
        return self.releases / f"{sha256}.flb"

    def release_url(self, sha256: str) -> str:
        """Return the URL under which devices fetch the bundle with this hash."""
        http = self.settings().http
        return f"http://{http.host}:{http.port}/releases/{sha256}.flb"

    def create(self, settings: FleetSettings | None = None) -> "Home":
        """Make the directories and `fleet.toml` where they are missing; return self.

        An existing `fleet.toml` is kept unless `settings` are given.

        Raises:
            ConfigError: The path is a file, or the settings are out of range.
            EnvironmentFaultError: The directories cannot be written.
        """
        if self.path.exists() and not self.path.is_dir():
            raise ConfigError(
                "the home is a file, not a directory",
                where=str(self.path),
                advice="Name another directory with --home.",
            )
        try:
            for folder in (self.path, self.releases, self.devices):
                folder.mkdir(parents=True, exist_ok=True)
            for folder in (self.keys, self.ca, self.broker):
                folder.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise cannot_write(self.path, error) from error
        if settings is not None or not self.settings_file.exists():
            chosen = (settings or FleetSettings()).checked()
            write_file(self.settings_file, to_toml(msgspec.to_builtins(chosen)).encode())
        return self

    def opened(self) -> "Home":
        """Return self after checking that the home exists.

        Raises:
            ConfigError: There is no home here.
        """
        if not self.settings_file.is_file():
            raise ConfigError(
                "there is no fleet home here",
                where=str(self.path),
                advice="Name one with --home, or make one with `fieldloop provision`.",
            )
        return self

    def settings(self) -> FleetSettings:
        """Read `fleet.toml`; without the file the defaults hold.

        Raises:
            ConfigError: The file is no TOML, has unknown names, wrong types or wrong ranges.
        """
        if not self.settings_file.exists():
            return FleetSettings()
        return read_toml(self.settings_file, FleetSettings).checked()

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the home's lock, so that two commands do not give out one thing twice."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.path / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise cannot_write(self.path, error) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)
