"""MQTT in memory: a broker and its clients for tests, without threads or sockets.

It keeps what fieldloop relies on: retained messages, QoS 1 with redelivery after a reconnect,
sessions by client id, Wills, wildcards, a broker that stops, refuses or loses a connection.
Handlers run on the thread that publishes, after the broker has released its lock and before
`publish` returns; a handler that publishes in turn is served after it has returned.
"""

import itertools
import logging
import threading
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Self

from fieldloop.errors import ConfigError, NotConnectedError, RefusedError, TransportError
from fieldloop.transport import ErrorHandler, Handler, Message, Will, matches

logger = logging.getLogger(__name__)


class _Session:
    """What the broker remembers about one client id."""

    def __init__(self) -> None:
        self.filters: set[str] = set()
        self.unacknowledged: dict[int, tuple[str, bytes, bool]] = {}
        self.client: InMemoryTransport | None = None


class InMemoryBroker:
    """A broker for `InMemoryTransport`.

    Attributes:
        refused_ids: Client ids that are refused as a real broker refuses bad credentials.
    """

    def __init__(self) -> None:
        self.refused_ids: set[str] = set()
        self._lock = threading.RLock()
        self._running = True
        self._sessions: dict[str, _Session] = {}
        self._retained: dict[str, bytes] = {}
        self._numbers = itertools.count(1)
        self._work: deque[Callable[[], None]] = deque()
        self._worker: int | None = None

    @property
    def is_running(self) -> bool:
        """Whether clients can connect."""
        return self._running

    def stop(self) -> None:
        """Go down: connections break without Wills; sessions and retained messages are kept."""
        with self._lock:
            self._running = False
            for session in self._sessions.values():
                self._cut(session)
        self._serve()

    def start(self) -> None:
        """Come back; clients that were connected reconnect."""
        with self._lock:
            self._running = True
            for session in self._sessions.values():
                if session.client is not None and not session.client.is_connected:
                    self._attach(session, session.client)
        self._serve()

    def drop(self, client_id: str, *, reconnect: bool = True) -> None:
        """Break one connection as a cut cable does: its Will is published.

        Args:
            client_id: Whose.
            reconnect: Whether the client finds its way back at once.
        """
        with self._lock:
            session = self._sessions[client_id]
            client = session.client
            if client is None or not client.is_connected:
                return
            self._cut(session)
            if client.will is not None:
                self._accept(client.will.topic, client.will.payload, 1, retain=client.will.retain)
            if reconnect:
                self._attach(session, client)
        self._serve()

    def retained(self, topic: str) -> bytes | None:
        """Return what is kept for a topic."""
        return self._retained.get(topic)

    # For the transport

    def attach(self, client: "InMemoryTransport") -> None:
        """Let a client in.

        Raises:
            NotConnectedError: The broker is stopped.
            RefusedError: Its id is among `refused_ids`.
        """
        with self._lock:
            session = self._sessions.setdefault(client.client_id, _Session())
            if client.clean_start:
                session.unacknowledged.clear()
                session.filters.clear()
            if client.client_id in self.refused_ids:
                raise RefusedError(
                    "the broker refused the connection: not authorized",
                    where="in memory",
                    advice="Take the id out of refused_ids.",
                )
            if session.client not in {None, client}:
                self._cut(session)
            session.client = client
            if not self._running:
                raise NotConnectedError(
                    "the broker is stopped", where="in memory", advice="Start it."
                )
            if not client.is_connected:
                self._attach(session, client)
        self._serve()

    def detach(self, client: "InMemoryTransport") -> None:
        """Let a client go that said goodbye."""
        with self._lock:
            session = self._sessions.get(client.client_id)
            if session is not None and session.client is client:
                self._cut(session)
                session.client = None
        self._serve()

    def listen(self, client: "InMemoryTransport", topic_filter: str) -> None:
        """Add a subscription and send what is retained under it."""
        with self._lock:
            session = self._sessions[client.client_id]
            session.filters.add(topic_filter)
            self._send_retained(session, topic_filter)
        self._serve()

    def accept(self, topic: str, payload: bytes, qos: int, *, retain: bool) -> None:
        """Take a message from a client."""
        with self._lock:
            self._accept(topic, payload, qos, retain=retain)
        self._serve()

    def forget(self, client_id: str, number: int) -> None:
        """Take an acknowledgement."""
        with self._lock:
            self._sessions[client_id].unacknowledged.pop(number, None)

    # With the lock held

    def _attach(self, session: _Session, client: "InMemoryTransport") -> None:
        session.filters |= set(client.filters)
        client.restore_connection()
        self._work.append(client.tell)
        for number, (topic, payload, retained) in list(session.unacknowledged.items()):
            self._send(session, number, topic, payload, retained=retained)
        for topic_filter in client.filters:
            self._send_retained(session, topic_filter)

    def _cut(self, session: _Session) -> None:
        client = session.client
        if client is not None and client.is_connected:
            client.break_connection()
            self._work.append(client.tell)

    def _accept(self, topic: str, payload: bytes, qos: int, *, retain: bool) -> None:
        if retain and payload:
            self._retained[topic] = payload
        elif retain:
            self._retained.pop(topic, None)
        for session in self._sessions.values():
            if any(matches(topic_filter, topic) for topic_filter in session.filters):
                self._enqueue(session, topic, payload, qos, retained=False)

    def _send_retained(self, session: _Session, topic_filter: str) -> None:
        for topic, payload in list(self._retained.items()):
            if matches(topic_filter, topic):
                self._enqueue(session, topic, payload, 1, retained=True)

    def _enqueue(
        self, session: _Session, topic: str, payload: bytes, qos: int, *, retained: bool
    ) -> None:
        number = next(self._numbers)
        if qos:
            session.unacknowledged[number] = (topic, payload, retained)
        self._send(session, number, topic, payload, retained=retained)

    def _send(
        self, session: _Session, number: int, topic: str, payload: bytes, *, retained: bool
    ) -> None:
        client = session.client
        if client is not None and self._running:
            generation = client.generation
            self._work.append(
                lambda: client.receive(topic, payload, number, generation, retained=retained)
            )

    def _serve(self) -> None:
        """Run what is due, outside the lock; one thread at a time, never nested."""
        while True:
            with self._lock:
                if self._worker is not None or not self._work:
                    return
                self._worker = threading.get_ident()
                work = self._work.popleft()
            try:
                work()
            finally:
                with self._lock:
                    self._worker = None


class InMemoryTransport:
    """A `transport.Transport` over an `InMemoryBroker`.

    Args:
        broker: Whom to speak to.
        client_id: Names the session.
        will: Published by the broker when it drops the connection.
        clean_start: Forget the session when connecting.
        on_error: Told of handlers that raised.
    """

    def __init__(
        self,
        broker: InMemoryBroker,
        client_id: str,
        *,
        will: Will | None = None,
        clean_start: bool = False,
        on_error: ErrorHandler | None = None,
    ) -> None:
        self.client_id = client_id
        self.will = will
        self.clean_start = clean_start
        self.generation = 0
        self._broker = broker
        self._on_error = on_error
        self._handlers: list[tuple[str, Handler]] = []
        self._listeners: list[Callable[[bool], None]] = []
        self._linked = False
        self._told = False

    @property
    def filters(self) -> tuple[str, ...]:
        """What it subscribes to."""
        return tuple(topic_filter for topic_filter, _ in self._handlers)

    @property
    def is_connected(self) -> bool:
        """Whether the broker can be reached at this moment."""
        return self._linked

    def connect(self, *, timeout_s: float | None = None) -> None:
        """Connect; see `Transport.connect`.

        Raises:
            RefusedError: The broker refuses this id.
            NotConnectedError: The broker is stopped; it connects when the broker comes back.
        """
        try:
            self._broker.attach(self)
        except NotConnectedError:
            if timeout_s != 0:
                raise

    def subscribe(self, topic_filter: str, handler: Handler) -> None:
        """Hear what matches, now and after every reconnect."""
        self._handlers.append((topic_filter, handler))
        if self._linked:
            self._broker.listen(self, topic_filter)

    def publish(
        self,
        topic: str,
        payload: bytes,
        *,
        qos: int = 1,
        retain: bool = False,
        expiry_s: int | None = None,
    ) -> None:
        """Publish; `expiry_s` is taken and has no effect, as nothing waits long in memory.

        Raises:
            NotConnectedError: Not connected.
            ConfigError: A topic or qos that cannot be.
        """
        del expiry_s
        if qos not in {0, 1} or not topic or {"+", "#"} & set(topic):
            raise ConfigError(
                "this cannot be published", where=topic, advice="Use qos 0 or 1 and no wildcards."
            )
        if not self._linked:
            raise NotConnectedError(
                "not connected to the broker",
                where="in memory",
                advice="Keep the message and try again later.",
            )
        self._broker.accept(topic, payload, qos, retain=retain)

    def on_connection(self, callback: Callable[[bool], None]) -> None:
        """Call back with True after each connection and False after each loss."""
        self._listeners.append(callback)

    def close(self) -> None:
        """Say goodbye and stop."""
        self._broker.detach(self)

    def __enter__(self) -> Self:
        """Connect.

        Raises:
            TransportError: As `connect`; nothing goes on in the background.
        """
        try:
            self.connect()
        except TransportError:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close."""
        self.close()

    # For the broker

    def break_connection(self) -> None:
        """End this connection: what was received on it can no longer be acknowledged."""
        self._linked = False
        self.generation += 1

    def restore_connection(self) -> None:
        """Begin a new connection."""
        self._linked = True

    def tell(self) -> None:
        """Tell the listeners of a loss or a connection."""
        self._told = not self._told
        for listener in list(self._listeners):
            listener(self._told)

    def receive(
        self, topic: str, payload: bytes, number: int, generation: int, *, retained: bool
    ) -> None:
        """Hand a message to the handlers, unless its connection has ended meanwhile."""
        if generation != self.generation:
            return

        def acknowledge() -> None:
            if generation == self.generation:
                self._broker.forget(self.client_id, number)

        message = Message(topic, payload, retained=retained, acknowledge=acknowledge)
        heard = [
            handler for topic_filter, handler in self._handlers if matches(topic_filter, topic)
        ]
        try:
            for handler in heard:
                handler(message)
        except Exception as error:  # the same promise as over a real broker
            logger.exception("a handler failed; the message is acknowledged and dropped")
            message.ack()
            if self._on_error is not None:
                self._on_error(error)
        if not heard:
            message.ack()
