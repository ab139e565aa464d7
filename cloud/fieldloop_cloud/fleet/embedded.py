"""The embedded broker's process: amqtt with fieldloop's rules. Run by `broker.EmbeddedBroker`.

    python -m fieldloop_cloud.fleet.embedded '{"host": …, "port": …, …}'

It ends at the end of its standard input or at SIGTERM. For trying out and for machines without
mosquitto: it speaks MQTT 3.1.1 and forgets sessions and retained messages when it ends.
"""

import asyncio
import json
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amqtt.broker import Broker
from amqtt.contexts import Action
from amqtt.errors import AMQTTError
from amqtt.plugins.base import BaseAuthPlugin, BaseTopicPlugin

from fieldloop.topics import PREFIX
from fieldloop.transport import matches
from fieldloop_cloud.release.certificates import SERVICE_PREFIX

_MAX_HEADER_BYTES = 5
_MQTT_5 = b"\x00\x04MQTT\x05"
_UNACCEPTABLE_VERSION = b"\x20\x02\x00\x01"  # CONNACK with code 1 (MQTT 3.1.1, table 3.1)


def allowed(identity: str, action: str, topic: str) -> bool:
    """Say whether an identity may publish, subscribe to or receive a topic or filter.

    Example:
        >>> allowed("pump-1", "publish", "fl/v1/pump-1/up/tel")
        True
        >>> allowed("pump-1", "subscribe", "fl/v1/+/up/#")
        False
    """
    if identity.startswith(SERVICE_PREFIX):
        return topic.startswith(f"{PREFIX}/")
    direction = "up" if action == "publish" else "down"
    return matches(f"{PREFIX}/{identity}/{direction}/+", topic) and "#" not in topic


class CertificateAuth(BaseAuthPlugin):  # type: ignore[misc] # amqtt's plugins are untyped
    """Lets in whom a certificate names: our services and the devices of the file."""

    @dataclass
    class Config:
        """The plugin's settings."""

        devices_file: str = ""

    async def authenticate(self, *, session: Any) -> bool:
        """Say whether a client may connect."""
        name = session.username or ""
        if name.startswith(SERVICE_PREFIX):
            return True
        return name in _devices(self.config.devices_file)


class Roles(BaseTopicPlugin):  # type: ignore[misc] # amqtt's plugins are untyped
    """Keeps every client to its own topics; see `allowed`."""

    async def topic_filtering(
        self, *, session: Any = None, topic: str | None = None, action: Action | None = None
    ) -> bool:
        """Say whether an action is allowed."""
        if session is None or topic is None or action is None:
            return False
        return allowed(session.username or "", action.value, topic)


class _Replay:
    """A reader that first gives back what was read ahead."""

    def __init__(self, ahead: bytes, reader: Any) -> None:
        self._ahead = ahead
        self._reader = reader

    async def read(self, n: int = -1) -> bytes:
        """Read as amqtt's reader does."""
        if not self._ahead:
            return bytes(await self._reader.read(n))
        taken, self._ahead = self._ahead[:n], self._ahead[n:]
        missing = n - len(taken)
        return taken + (bytes(await self._reader.read(missing)) if missing else b"")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reader, name)


class VersionBroker(Broker):  # type: ignore[misc] # amqtt is untyped for us
    """Refuses MQTT 5 in so many words, so that clients fall back to 3.1.1 at once.

    amqtt itself takes the properties of an MQTT 5 CONNECT for a client id and waits for ever.
    """

    async def _initialize_client_session(self, reader: Any, writer: Any, *peer: Any) -> Any:
        try:
            ahead = bytes(await reader.read(2))  # packet type, first byte of the length
            while ahead[-1] & 0x80 and len(ahead) < _MAX_HEADER_BYTES:
                ahead += bytes(await reader.read(1))
            begin = bytes(await reader.read(len(_MQTT_5)))
        except (EOFError, ConnectionError) as error:
            raise AMQTTError("hung up before CONNECT") from error
        if begin == _MQTT_5:
            writer.write(_UNACCEPTABLE_VERSION)
            await writer.drain()
            await writer.close()
            raise AMQTTError("MQTT 5 is not spoken here")
        ahead += begin
        return await super()._initialize_client_session(_Replay(ahead, reader), writer, *peer)


class CertificateBroker(VersionBroker):
    """Takes the identity from the certificate of this very connection.

    amqtt gives a client that comes back its old session, with the old connection's certificate;
    asked later than here, anybody could take over any session.
    """

    async def _initialize_client_session(self, reader: Any, writer: Any, *peer: Any) -> Any:
        handler, session = await super()._initialize_client_session(reader, writer, *peer)
        connection = writer.get_ssl_info()
        certificate = (connection.getpeercert() if connection else None) or {}
        subject = {name: value for rdn in certificate.get("subject", ()) for name, value in rdn}
        identity = subject.get("commonName", "")
        if identity != session.client_id:
            await writer.close()
            raise AMQTTError("the client id is not the certificate's common name")
        session.username, session.ssl_object = identity, connection
        return handler, session


def _devices(file: str) -> list[str]:
    """Read who may connect, afresh each time: devices are added while the broker runs."""
    return [str(name) for name in json.loads(Path(file).read_bytes())]


def _configuration(settings: dict[str, Any]) -> dict[str, Any]:
    here = "fieldloop_cloud.fleet.embedded"
    listener: dict[str, Any] = {"type": "tcp", "bind": f"{settings['host']}:{settings['port']}"}
    if "ca_file" not in settings:
        plugins: dict[str, Any] = {
            "amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}
        }
    else:
        listener |= {
            "ssl": True,
            "cafile": settings["ca_file"],
            "certfile": settings["certificate_file"],
            "keyfile": settings["key_file"],
        }
        plugins = {
            f"{here}.CertificateAuth": {"devices_file": settings["devices_file"]},
            f"{here}.Roles": {},
        }
    return {"listeners": {"default": listener}, "plugins": plugins}


async def _serve(settings: dict[str, Any]) -> None:
    kind = CertificateBroker if "ca_file" in settings else VersionBroker
    broker = kind(_configuration(settings))
    await broker.start()
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, ended.set)
    loop.add_reader(sys.stdin.fileno(), ended.set)
    await ended.wait()
    await broker.shutdown()


def main() -> None:
    """Serve until told to end."""
    asyncio.run(_serve(json.loads(sys.argv[1])))


if __name__ == "__main__":
    main()
