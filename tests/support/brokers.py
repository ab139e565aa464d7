"""Real brokers for tests, and a network that hides which one it is."""

import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from tests.support.parts import IN_CI, missing
from tests.support.waiting import wait_until

from fieldloop.mqtt import MqttSettings, MqttTransport, Transport, Will
from fieldloop.testing.transport import InMemoryBroker, InMemoryTransport
from fieldloop_cloud.fleet.broker import Broker, EmbeddedBroker, MosquittoBroker
from fieldloop_cloud.release.certificates import (
    INGEST_IDENTITY,
    CertificateAuthority,
    CertificateFiles,
)

DEVICES = ("pump-1", "pump-2")

NO_MOSQUITTO = "mosquitto (with its dynamic-security plugin) is not installed"

needs_mosquitto = pytest.mark.skipif(
    not (MosquittoBroker.is_available() or IN_CI), reason=NO_MOSQUITTO
)


@dataclass
class Site:
    """A certificate authority with a broker's, two devices' and the ingest's certificate."""

    directory: Path
    authority: CertificateAuthority = field(init=False)
    server: CertificateFiles = field(init=False)
    clients: dict[str, CertificateFiles] = field(init=False)

    def __post_init__(self) -> None:
        self.authority = CertificateAuthority(self.directory / "ca")
        self.server = self.authority.issue_server(self.directory, ["127.0.0.1", "localhost"])
        self.clients = {
            name: self.authority.issue_device(self.directory / name, name) for name in DEVICES
        }
        self.clients[INGEST_IDENTITY] = self.authority.issue_service(
            self.directory, INGEST_IDENTITY
        )


@dataclass
class Network:
    """A broker and its clients; which kind is the parameter of the battery.

    `is_durable`: it keeps unacknowledged messages over a reconnect, and sessions and retained
    messages over a restart. amqtt does neither; there the outbox makes up for it.
    """

    is_durable: bool
    open: Callable[..., Transport]
    drop: Callable[[Transport], None]
    stop: Callable[[], None]
    start: Callable[[], None]
    errors: list[Exception]


def client(
    broker: Broker,
    client_id: str,
    *,
    site: Site | None = None,
    will: Will | None = None,
    errors: list[Exception] | None = None,
    **options: object,
) -> MqttTransport:
    """Return a client of a real broker with short delays, not connected yet."""
    settings = MqttSettings(
        host="127.0.0.1",
        port=broker.port,
        client_id=client_id,
        tls=site.clients[client_id].tls() if site else None,
        will=will,
        **{"backoff_base_s": 0.05, "backoff_cap_s": 0.3, **options},  # type: ignore[arg-type]
    )
    return MqttTransport(settings, on_error=None if errors is None else errors.append)


def cut(transport: Transport) -> None:
    """Break a real connection without a goodbye."""
    assert isinstance(transport, MqttTransport)
    before = transport._connection_count
    connection = transport._link._client.socket()
    assert isinstance(connection, socket.socket)
    # Not the TLS layer's own shutdown: it would say goodbye, and race with the client's thread.
    socket.socket.shutdown(connection, socket.SHUT_RDWR)
    wait_until(
        lambda: transport.is_connected and transport._connection_count > before,
        what="the reconnect",
    )


def real_network(broker: Broker, site: Site | None, opened: list[Transport]) -> Network:
    """Return a network over a running broker."""
    errors: list[Exception] = []

    def open_one(client_id: str, will: Will | None = None) -> Transport:
        transport = client(broker, client_id, site=site, will=will, errors=errors)
        opened.append(transport)
        return transport

    return Network(
        is_durable=broker.kind == "mosquitto",
        open=open_one,
        drop=cut,
        stop=broker.stop,
        start=broker.start,
        errors=errors,
    )


def memory_network(opened: list[Transport]) -> Network:
    """Return a network in memory."""
    broker = InMemoryBroker()
    errors: list[Exception] = []

    def open_one(client_id: str, will: Will | None = None) -> Transport:
        transport = InMemoryTransport(broker, client_id, will=will, on_error=errors.append)
        opened.append(transport)
        return transport

    def drop(transport: Transport) -> None:
        assert isinstance(transport, InMemoryTransport)
        broker.drop(transport.client_id)

    return Network(
        is_durable=True,
        open=open_one,
        drop=drop,
        stop=broker.stop,
        start=broker.start,
        errors=errors,
    )


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """Certificates, made once."""
    return Site(tmp_path_factory.mktemp("site"))


@pytest.fixture
def mosquitto(tmp_path: Path) -> Iterator[Broker]:
    """A plain mosquitto on a free port; skips where it is not installed."""
    if not MosquittoBroker.is_available():
        missing(NO_MOSQUITTO)
    with MosquittoBroker(tmp_path / "mosquitto") as broker:
        yield broker


@pytest.fixture
def mosquitto_tls(tmp_path: Path, site: Site) -> Iterator[Broker]:
    """A mosquitto with TLS and a role for each device of the site."""
    if not MosquittoBroker.is_available():
        missing(NO_MOSQUITTO)
    with MosquittoBroker(tmp_path / "mosquitto", tls=site.server, devices=DEVICES) as broker:
        yield broker


@pytest.fixture
def embedded(tmp_path: Path) -> Iterator[Broker]:
    """The embedded broker without TLS."""
    with EmbeddedBroker(tmp_path / "amqtt") as broker:
        yield broker


DURABLE = ("memory", "mosquitto", "mosquitto-tls")
"""These keep what was not acknowledged; amqtt forgets it, and outboxes make up for that."""


@pytest.fixture(params=[*DURABLE, "amqtt", "amqtt-tls"])
def network(request: pytest.FixtureRequest, tmp_path: Path, site: Site) -> Iterator[Network]:
    """Every kind of broker in turn."""
    kind = str(request.param)
    opened: list[Transport] = []
    if kind == "memory":
        yield memory_network(opened)
    elif kind.startswith("mosquitto") and not MosquittoBroker.is_available():
        missing(NO_MOSQUITTO)
    else:
        broker_kind = MosquittoBroker if kind.startswith("mosquitto") else EmbeddedBroker
        tls = kind.endswith("-tls")
        broker = broker_kind(tmp_path / "broker", tls=site.server if tls else None, devices=DEVICES)
        with broker:
            yield real_network(broker, site if tls else None, opened)
            for transport in opened:
                transport.close()
    for transport in opened:
        transport.close()
