"""The site's own MQTT broker: mosquitto where it is installed, an embedded one otherwise.

With TLS every client shows a certificate of the site's CA, and its common name says what it may
do: a device speaks under its own `up` topics and hears its own `down` topics, our services speak
and hear everything, anybody else nothing. Subscriptions are denied unless a role allows them: with
a plain access list a device could join a shared subscription (`$share`) and take away others'
telemetry unseen.
"""

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar

import msgspec

from fieldloop.transport import Transport
from fieldloop_cloud.files import write_file
from fieldloop_cloud.fleet.broker_process import Broker
from fieldloop_cloud.fleet.mosquitto import MosquittoBroker
from fieldloop_cloud.release.certificates import CertificateFiles

__all__ = ["Broker", "EmbeddedBroker", "MosquittoBroker", "local_broker"]


class EmbeddedBroker(Broker):
    """amqtt, in Python: speaks MQTT 3.1.1 and keeps nothing over a restart; see `Broker`."""

    kind: ClassVar[str] = "amqtt"

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
