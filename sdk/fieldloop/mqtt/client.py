"""The transport over a real broker: stays connected, and hands messages to their handlers.

It owns the reconnect loop, because a fleet that comes back after a power cut must not come back in
step: every wait is drawn from the whole interval ("full jitter", M. Brooker, Exponential Backoff
And Jitter, 2015).
"""

import contextlib
import logging
import random
import threading
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Final, Self

from paho.mqtt.client import MQTTMessage

from fieldloop.errors import ConfigError, NotConnectedError, RefusedError, TransportError
from fieldloop.mqtt.link import Dialect, Link, SilenceError, UnknownDialectError
from fieldloop.mqtt.settings import MqttSettings
from fieldloop.transport import ErrorHandler, Handler, Message, matches

logger = logging.getLogger(__name__)

CONNECT_TIMEOUT_S: Final = 15.0
"""How long `connect` waits when it is not told: enough for a silent broker and the fallback."""

CLOSE_TIMEOUT_S: Final = 2.0
"""How long `close` waits for the broker's acknowledgements."""

_DROPS_BEFORE_FALLBACK: Final = 2
"""How often a broker may hang up on MQTT 5 before 3.1.1 is tried: once may be a restart."""

_MAX_DOUBLINGS: Final = 30


class MqttTransport:
    """A connection to a real broker; see `Transport`.

    Handlers run on the connection's own thread, one at a time, so they must not wait. Threads may
    share a transport.

    Args:
        settings: Where and how.
        on_error: Told of handlers that raised, refused subscriptions and refused messages.

    Raises:
        ConfigError: The TLS files cannot be used.
    """

    def __init__(self, settings: MqttSettings, *, on_error: ErrorHandler | None = None) -> None:
        self._settings = settings
        self._on_error = on_error
        self._tls = settings.tls.context() if settings.tls is not None else None
        self._handlers: dict[str, tuple[Handler, ...]] = {}
        self._listeners: list[Callable[[bool], None]] = []
        self._thread: threading.Thread | None = None
        self._closing = threading.Event()
        # Guards the rest. Never held while the link is called: paho calls back with its own locks
        # held, and the callbacks want this one.
        self._changed = threading.Condition()
        self._connected = False
        self._ready = False  # connected, and the broker has answered the subscriptions
        self._in_flight = 0
        self._send_window = settings.send_window
        self._connection_count = 0
        self._failure: TransportError | None = None
        self._is_proven = False  # this dialect has worked
        self._drop_count = 0
        self._link = Link(settings, self._tls, "5", self)

    @property
    def is_connected(self) -> bool:
        """Whether the broker can be reached at this moment."""
        return self._connected

    @property
    def dialect(self) -> Dialect:
        """The version of MQTT that is spoken."""
        return self._link.dialect

    def connect(self, *, timeout_s: float | None = None) -> None:
        """Start, and wait until connected and all subscriptions stand; see `Transport.connect`.

        Raises:
            RefusedError: The broker said no: credentials, certificate or authorisation.
            NotConnectedError: No connection in time; trying goes on until `close`.
        """
        if self._thread is None:
            self._closing.clear()
            self._failure = None
            name = f"mqtt-{self._settings.client_id}"
            self._thread = threading.Thread(target=self._run, name=name, daemon=True)
            self._thread.start()
        wait_s = CONNECT_TIMEOUT_S if timeout_s is None else timeout_s
        if wait_s == 0:
            return
        with self._changed:
            self._changed.wait_for(
                lambda: self._ready or isinstance(self._failure, RefusedError), wait_s
            )
            ready, failure = self._ready, self._failure
        if ready:
            return
        if isinstance(failure, RefusedError):
            self.close()
            raise failure
        raise failure or NotConnectedError(
            f"no answer from the broker within {wait_s:g} s",
            where=self._settings.address,
            advice="Check the address and that the broker runs.",
        )

    def subscribe(self, topic_filter: str, handler: Handler) -> None:
        """Hear what matches, now and after every reconnect; see `Transport.subscribe`."""
        with self._changed:
            handlers = (*self._handlers.get(topic_filter, ()), handler)
            self._handlers = {**self._handlers, topic_filter: handlers}
            connected = self._connected
        if connected:
            self._link.subscribe([topic_filter])

    def publish(
        self,
        topic: str,
        payload: bytes,
        *,
        qos: int = 1,
        retain: bool = False,
        expiry_s: int | None = None,
    ) -> None:
        """Hand a message to the connection; see `Transport.publish`.

        With `send_window` messages unacknowledged it waits for the broker, up to `keepalive_s`;
        in a handler it cannot wait and raises at once.

        Raises:
            NotConnectedError: Not connected, or the broker does not keep up; try again later.
            ConfigError: A topic or qos that cannot be.
        """
        if qos not in {0, 1} or not topic:
            raise ConfigError(
                f"this cannot be published: qos {qos} on '{topic}'",
                advice="Use qos 0 or 1 and a topic.",
            )
        self._reserve(qos)
        taken = False
        try:
            taken = self._link.publish(topic, payload, qos=qos, retain=retain, expiry_s=expiry_s)
        finally:
            if not taken:
                self._release(qos)
        if not taken:
            raise self._not_connected()

    def on_connection(self, callback: Callable[[bool], None]) -> None:
        """Call back with True after each connection and False after each loss."""
        self._listeners.append(callback)

    def close(self) -> None:
        """Say goodbye (the Will is not published) and stop; may be called again.

        What was published and not yet acknowledged is waited for, up to `CLOSE_TIMEOUT_S`.
        """
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            with self._changed:
                self._changed.wait_for(
                    lambda: not self._connected or not self._in_flight, CLOSE_TIMEOUT_S
                )
        self._closing.set()
        self._link.hang_up()
        if thread is not None and thread is not threading.current_thread():
            thread.join()
            self._thread = None
            self._link.release()

    def __enter__(self) -> Self:
        """Connect.

        Raises:
            RefusedError: The broker said no.
            NotConnectedError: No connection in time; nothing goes on in the background.
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

    # The send window

    def _reserve(self, places: int) -> None:
        """Take a place in the send window, waiting for one if there is none."""
        with self._changed:
            if places and threading.current_thread() is not self._thread:
                self._changed.wait_for(
                    lambda: not self._connected or self._in_flight < self._send_window,
                    self._settings.keepalive_s,
                )
            if not self._connected or (places and self._in_flight >= self._send_window):
                raise self._not_connected()
            self._in_flight += places

    def _release(self, places: int) -> None:
        with self._changed:
            self._in_flight -= places
            self._changed.notify_all()

    def _not_connected(self) -> NotConnectedError:
        what = "the broker does not keep up" if self._connected else "not connected to the broker"
        return NotConnectedError(
            what, where=self._settings.address, advice="Keep the message and try again later."
        )

    # The connection's thread

    def _run(self) -> None:
        """Connect, stay connected, and come back, until closed."""
        failure_count = 0
        while not self._closing.is_set():
            failure: TransportError | None = None
            try:
                self._link.serve(self._closing)
            except TransportError as error:
                failure = error
                logger.info("%s", failure)
            failure_count = 0 if failure is None else failure_count + 1
            with self._changed:
                self._failure = failure
                self._changed.notify_all()
            self._choose_dialect(failure)
            self._closing.wait(self._delay_s(failure, failure_count))

    def _delay_s(self, failure: TransportError | None, failure_count: int) -> float:
        cap_s = self._settings.backoff_cap_s
        if isinstance(failure, RefusedError):
            limit_s = cap_s  # only a person can change that
        else:
            doublings = min(failure_count, _MAX_DOUBLINGS)
            limit_s = min(cap_s, self._settings.backoff_base_s * 2.0**doublings)
        return random.uniform(0.0, limit_s)  # noqa: S311 - jitter, no secret

    def _choose_dialect(self, failure: TransportError | None) -> None:
        """Try the other version of MQTT if the broker may not know this one."""
        if isinstance(failure, SilenceError):
            self._drop_count += 1
        unknown = isinstance(failure, UnknownDialectError)
        if self._is_proven or not (unknown or self._drop_count >= _DROPS_BEFORE_FALLBACK):
            return
        self._drop_count = 0
        old = self._link
        other: Dialect = "3.1.1" if old.dialect == "5" else "5"
        self._link = Link(self._settings, self._tls, other, self)
        self._release(old.drop_in_flight())

    # What the link tells (`link.LinkEvents`), on the connection's thread

    def accepted(self, receive_maximum: int | None) -> Sequence[str]:
        """Note a connection."""
        window = self._settings.send_window
        with self._changed:
            self._is_proven, self._drop_count = True, 0
            self._connection_count += 1
            self._send_window = window if receive_maximum is None else min(window, receive_maximum)
            filters = tuple(self._handlers)
            self._connected, self._ready = True, not filters
            self._changed.notify_all()
        logger.info("connected to %s (MQTT %s)", self._settings.address, self.dialect)
        self._tell(connected=True)
        return filters

    def subscribed(self) -> None:
        """Note that subscriptions stand."""
        with self._changed:
            self._ready = self._connected
            self._changed.notify_all()

    def confirmed(self) -> None:
        """Note that a message has left."""
        self._release(1)

    def ended(self) -> None:
        """Note the end of a connection."""
        with self._changed:
            was_connected, self._connected, self._ready = self._connected, False, False
            self._changed.notify_all()
        if was_connected:
            logger.info("connection to %s ended", self._settings.address)
            self._tell(connected=False)

    def refused(self, error: RefusedError) -> None:
        """Report what the broker refused."""
        self._report(error)

    def received(self, message: MQTTMessage) -> None:
        """Hand a message to its handlers."""
        connection, link = self._connection_count, self._link

        def acknowledge() -> None:
            # The number belongs to this connection; on the next it may mean another message.
            if message.qos and self._connected and self._connection_count == connection:
                link.acknowledge(message)

        try:
            ours = Message(
                message.topic,
                bytes(message.payload),
                retained=bool(message.retain),
                acknowledge=acknowledge,
            )
            handlers = [
                handler
                for topic_filter, group in self._handlers.items()
                if matches(topic_filter, message.topic)
                for handler in group
            ]
            for handler in handlers:
                handler(ours)
        except Exception as error:  # a topic that is no UTF-8, or whatever a handler raises
            logger.exception("a handler failed; its message is acknowledged and dropped")
            acknowledge()
            self._report(error)
            return
        if not handlers:
            logger.warning("nobody hears %s; the message is dropped", ours.topic)
            ours.ack()

    def _tell(self, *, connected: bool) -> None:
        for listener in self._listeners:
            try:
                listener(connected)
            except Exception as error:
                logger.exception("a connection listener failed")
                self._report(error)

    def _report(self, error: Exception) -> None:
        if self._on_error is None:
            logger.error("%s", error)
            return
        with contextlib.suppress(Exception):
            self._on_error(error)
