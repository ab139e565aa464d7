"""The embedded broker's process: amqtt with fieldloop's rules. Run by `broker.EmbeddedBroker`.

    python -m fieldloop_cloud.fleet.embedded '{"host": …, "port": …, …}'

It ends at the end of its standard input or at SIGTERM. For trying out and for machines without
mosquitto: it speaks MQTT 3.1.1 and forgets sessions and retained messages when it ends.
"""

import asyncio
import contextlib
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
_NOT_AUTHORIZED = b"\x20\x02\x00\x05"
_CLIENT_ID_AT = 10  # after protocol name, level, flags and keep-alive
_MAX_CONNECT_BYTES = 65_536


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


class StrictBroker(Broker):  # type: ignore[misc] # amqtt is untyped for us
    """Looks at a CONNECT before amqtt does, and sends away what amqtt would take wrongly.

    MQTT 5: amqtt takes its properties for a client id and waits for ever; refused in so many
    words, clients fall back to 3.1.1 at once. And a client id that is not the certificate's common
    name: amqtt gives whoever names an id that id's session, and asks for permission later.
    """

    def __init__(self, configuration: dict[str, Any], *, certificates: bool) -> None:
        super().__init__(configuration)
        self._certificates = certificates

    async def _initialize_client_session(self, reader: Any, writer: Any, *peer: Any) -> Any:
        try:
            packet = await _read_packet(reader)
        except (EOFError, ConnectionError) as error:
            raise AMQTTError("hung up before CONNECT") from error
        body = packet[1]
        if body.startswith(_MQTT_5):
            await _refuse(writer, _UNACCEPTABLE_VERSION, "MQTT 5 is not spoken here")
        connection = writer.get_ssl_info()
        identity = _common_name(connection)
        if self._certificates and identity != _client_id(body):
            await _refuse(writer, _NOT_AUTHORIZED, "the client id is not the certificate's name")
        replay = _Replay(b"".join(packet), reader)
        handler, session = await super()._initialize_client_session(replay, writer, *peer)
        session.username, session.ssl_object = identity, connection
        return handler, session


async def _read_packet(reader: Any) -> tuple[bytes, bytes]:
    """Read one packet: header and body.

    Raises:
        EOFError: The client hung up.
        AMQTTError: The packet is larger than a CONNECT of ours ever is.
    """
    header = bytes(await reader.read(2))  # type and first byte of the length
    while header[-1] & 0x80 and len(header) < _MAX_HEADER_BYTES:
        header += bytes(await reader.read(1))
    size = sum((byte & 0x7F) << (7 * place) for place, byte in enumerate(header[1:]))
    if size > _MAX_CONNECT_BYTES:
        raise AMQTTError("the first packet is too large")
    return header, bytes(await reader.read(size)) if size else b""


async def _refuse(writer: Any, answer: bytes, reason: str) -> None:
    """Answer and hang up.

    Raises:
        AMQTTError: Always; amqtt then forgets the connection.
    """
    with contextlib.suppress(ConnectionError):
        writer.write(answer)
        await writer.drain()
        await writer.close()
    raise AMQTTError(reason)


def _client_id(body: bytes) -> str:
    """Return the client id of a CONNECT of MQTT 3.1.1 (section 3.1.3.1)."""
    size = int.from_bytes(body[_CLIENT_ID_AT : _CLIENT_ID_AT + 2])
    return body[_CLIENT_ID_AT + 2 : _CLIENT_ID_AT + 2 + size].decode(errors="replace")


def _common_name(connection: Any) -> str:
    certificate = (connection.getpeercert() if connection else None) or {}
    subject = {name: value for names in certificate.get("subject", ()) for name, value in names}
    return str(subject.get("commonName", ""))


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
    broker = StrictBroker(_configuration(settings), certificates="ca_file" in settings)
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
