"""What runs at home: broker, ingest and release files, as one.

`Server` runs them in this process's threads (the broker as a child), `serve` in the foreground
until SIGTERM or Ctrl-C. Everything it needs to know is in the fleet home, and other commands speak
to it through the home only: a device that is provisioned while it runs is let in, a desired state
that is put into the store is published, a rollout that was started is carried on.
"""

import contextlib
import logging
import queue
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType, TracebackType
from typing import Final, Self

from fieldloop import topics, wire
from fieldloop.errors import FieldloopError, NotConnectedError
from fieldloop.mqtt import MqttSettings, MqttTransport
from fieldloop_cloud.fleet.broker import Broker, local_broker
from fieldloop_cloud.fleet.http import HttpServer, release_app
from fieldloop_cloud.fleet.ingest import Ingest
from fieldloop_cloud.fleet.rollout import Rollout
from fieldloop_cloud.fleet.store import Store
from fieldloop_cloud.release.certificates import (
    INGEST_IDENTITY,
    CertificateAuthority,
    CertificateFiles,
)
from fieldloop_cloud.release.home import Home

logger = logging.getLogger(__name__)

POLL_S: Final = 0.5
"""How often the home is looked at for new devices, desired states and rollouts."""

RESTART_S: Final = 5.0
"""A broker that died is started again, at most so often."""

SESSION_EXPIRY_S: Final = 7 * 86_400
"""How long a broker keeps telemetry while this server is down."""

_LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})


class Server:
    """Broker, ingest and release files over a fleet home; a context manager.

    Args:
        home: The fleet home; its `fleet.toml` says hosts, ports and whether there is TLS.

    Attributes:
        store: The home's store.
        rollout: Moved on as devices report; what it wishes is published from the store.
        broker: The local broker; None if the settings name an external one.
        transport: Our connection to the broker.
        ingest: What reads the telemetry.
        http: What serves the releases.
    """

    def __init__(self, home: Home) -> None:
        self.home = home
        settings = home.settings()
        self._settings = settings
        self.store = Store(home.store_file)
        self.rollout = Rollout(self.store)
        identity: CertificateFiles | None = None
        certificate: CertificateFiles | None = None
        if settings.broker.tls:
            authority = CertificateAuthority(home.ca)
            identity = authority.issue_service(home.broker, INGEST_IDENTITY)
            certificate = authority.issue_server(home.broker, _names(settings.broker.host))
        self.broker: Broker | None = None
        if not settings.broker.external:
            self.broker = local_broker(
                home.broker,
                host=_listen_on(settings.broker.host),
                port=settings.broker.port,
                tls=certificate,
                devices=self._provisioned(),
            )
        self.transport = MqttTransport(
            MqttSettings(
                host="localhost" if self.broker else settings.broker.host,
                port=settings.broker.port,
                client_id=INGEST_IDENTITY,
                tls=identity.tls() if identity else None,
                session_expiry_s=SESSION_EXPIRY_S,
                backoff_cap_s=5.0,  # one client, not a fleet
            )
        )
        self.transport.on_connection(self._note_connection)
        self.ingest = Ingest(self.store, self.transport)
        self.http = HttpServer(
            release_app(home.releases, self.health),
            host=_listen_on(settings.http.host),
            port=settings.http.port,
        )
        # Without a publisher: what it puts into the store is published below.
        self._rollout = Rollout(self.store)
        self._published: dict[str, int] = {}
        self._stopping = threading.Event()
        self._caretaker: threading.Thread | None = None

    def start(self) -> None:
        """Start everything.

        Raises:
            EnvironmentFaultError: A port is taken, or a part does not start.
            RefusedError: An external broker does not let us in.
            NotConnectedError: An external broker cannot be reached.
        """
        try:
            self.http.start()
            if self.broker is not None:
                self.broker.start()
            self.ingest.start()
            self.transport.connect()
        except BaseException:
            self.stop()
            raise
        self._caretaker = threading.Thread(target=self._take_care, name="caretaker", daemon=True)
        self._caretaker.start()

    def stop(self) -> None:
        """Store what has come, say goodbye and end; may be called again."""
        self._stopping.set()
        if self._caretaker is not None:
            self._caretaker.join()
        self.http.stop()
        # The ingest first: its last acknowledgements need the connection.
        self.ingest.stop()
        self.transport.close()
        if self.broker is not None:
            self.broker.stop()
        self.store.close()

    def health(self) -> dict[str, object]:
        """Return how everything is doing, for `/healthz` and for people."""
        status = self.ingest.status
        return {
            "ok": self.transport.is_connected and status.error is None,
            "broker": self.broker.kind if self.broker else "external",
            "connected": self.transport.is_connected,
            "received": status.received,
            "committed": status.committed,
            "error": str(status.error) if status.error else None,
        }

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

    # The caretaker

    def _take_care(self) -> None:
        """Keep the broker alive and carry over what other commands put into the home."""
        restarted = 0.0
        while not self._stopping.wait(POLL_S):
            try:
                broker = self.broker
                if broker is not None and broker.has_died:
                    if time.monotonic() - restarted < RESTART_S:
                        continue
                    restarted = time.monotonic()
                    logger.error("the broker has died; starting it again")
                    broker.start()
                self._admit_devices()
                self.rollout.step()
                self._publish_desired()
            except NotConnectedError:
                pass  # the next round tries again
            except FieldloopError:
                logger.exception("a round of the caretaker failed")

    def _admit_devices(self) -> None:
        if self.broker is None or not self.transport.is_connected:
            return
        for device in self._provisioned() - self.broker.devices:
            self.broker.admit(device, self.transport)
            logger.info("device %s may connect", device)

    def _publish_desired(self) -> None:
        """Publish every desired state that this connection has not published yet."""
        if not self.transport.is_connected:
            return
        for device, state in self.store.desired().items():
            if self._published.get(device) != state.ver:
                self.transport.publish(topics.down(device, "des"), wire.encode(state), retain=True)
                self._published[device] = state.ver

    def _note_connection(self, connected: bool) -> None:  # noqa: FBT001 - the transport's call
        if not connected:
            # The broker may have lost what it retained.
            self._published = {}

    def _provisioned(self) -> set[str]:
        names = (file.parent.name for file in self.home.devices.glob("*/device.toml"))
        return {name for name in names if topics.DEVICE_ID.fullmatch(name)}


def serve(home: Home, *, on_ready: Callable[[Server], None] | None = None) -> None:
    """Run a `Server` until SIGTERM or Ctrl-C; call it from the main thread.

    Args:
        home: The fleet home.
        on_ready: Called once when everything runs.

    Raises:
        EnvironmentFaultError: As `Server.start`.
        RefusedError: As `Server.start`.
        NotConnectedError: As `Server.start`.
    """
    with _until_signal() as ended, Server(home) as server:
        if on_ready is not None:
            on_ready(server)
        ended.get()


@contextlib.contextmanager
def _until_signal() -> Iterator[queue.SimpleQueue[int]]:
    # Not an Event: a signal that comes while its own `wait` holds its lock would wait for ever.
    ended: queue.SimpleQueue[int] = queue.SimpleQueue()

    def end(number: int, _frame: FrameType | None) -> None:
        ended.put(number)

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield ended
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _listen_on(host: str) -> str:
    """Return the address to listen on for devices that reach us as `host`."""
    return "127.0.0.1" if host in _LOOPBACK else "0.0.0.0"  # noqa: S104 - devices are elsewhere


def _names(host: str) -> list[str]:
    """Return the names under which the broker is reached."""
    return list(dict.fromkeys([host, "localhost", "127.0.0.1", socket.gethostname()]))
