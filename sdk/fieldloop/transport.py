"""What fieldloop wants from MQTT, without saying who provides it.

A `Transport` publishes, subscribes, reconnects by itself and lets the receiver acknowledge each
message when it is safely stored. `mqtt.MqttTransport` speaks to a real broker,
`testing.InMemoryTransport` to a broker in memory; both pass one battery of tests.

Delivery is at least once: an unacknowledged message comes again after a reconnect, so every
handler must bear a repetition. Nothing is queued behind the caller's back: `publish` while the
connection is down raises, and what must not be lost belongs in an outbox.
"""

import dataclasses
from collections.abc import Callable
from types import TracebackType
from typing import Protocol, Self


class Message:
    """One message as it arrived.

    Attributes:
        topic: Where it was published.
        payload: What it says.
        retained: Whether the broker had kept it (it may be old).
    """

    __slots__ = ("_acknowledge", "payload", "retained", "topic")

    def __init__(
        self,
        topic: str,
        payload: bytes,
        *,
        retained: bool = False,
        acknowledge: Callable[[], None] | None = None,
    ) -> None:
        self.topic = topic
        self.payload = payload
        self.retained = retained
        self._acknowledge = acknowledge

    def ack(self) -> None:
        """Tell the broker not to send it again; safe from any thread, a second call does nothing.

        After a reconnect it does nothing either: the broker sends the message again.
        """
        acknowledge, self._acknowledge = self._acknowledge, None
        if acknowledge is not None:
            acknowledge()

    def __repr__(self) -> str:
        return f"Message({self.topic!r}, {len(self.payload)} bytes, retained={self.retained})"


@dataclasses.dataclass(frozen=True, slots=True)
class Will:
    """What the broker says in our name when the connection breaks without a goodbye."""

    topic: str
    payload: bytes
    retain: bool = True


Handler = Callable[[Message], None]
"""Called for each message, quickly and without waiting; it calls `Message.ack` when it is done."""

ErrorHandler = Callable[[Exception], None]
"""Told of what went wrong where nobody waits for an answer."""


class Transport(Protocol):
    """A connection that comes back by itself."""

    @property
    def is_connected(self) -> bool:
        """Whether the broker can be reached at this moment."""

    def connect(self, *, timeout_s: float | None = None) -> None:
        """Start, and wait until connected and all subscriptions stand.

        Args:
            timeout_s: How long to wait; None is the transport's own limit. With 0 it returns at
                once and the connection is made in the background.

        Raises:
            RefusedError: The broker said no; nothing goes on in the background.
            NotConnectedError: No connection in time; trying goes on until `close`.
        """

    def subscribe(self, topic_filter: str, handler: Handler) -> None:
        """Hear what matches, now and after every reconnect.

        Subscribe before `connect`, or messages that were kept for this client arrive unheard. A
        handler that raises is logged and reported, and its message is acknowledged.
        """

    def publish(
        self,
        topic: str,
        payload: bytes,
        *,
        qos: int = 1,
        retain: bool = False,
        expiry_s: int | None = None,
    ) -> None:
        """Hand a message to the connection; a return does not mean that anybody stored it.

        Args:
            topic: Where to, without wildcards.
            payload: At most what the broker takes.
            qos: 0 (at most once) or 1 (at least once).
            retain: Whether the broker keeps it for later subscribers.
            expiry_s: After so many seconds it is not delivered any more (MQTT 5 only).

        Raises:
            NotConnectedError: Not connected, or the broker does not keep up; try again later.
            ConfigError: A topic or qos that cannot be.
        """

    def on_connection(self, callback: Callable[[bool], None]) -> None:
        """Call back with True after each connection and False after each loss."""

    def close(self) -> None:
        """Say goodbye (the Will is not published) and stop; may be called again.

        What was published before is given a moment to arrive.
        """

    def __enter__(self) -> Self:
        """Connect."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close."""


def matches(topic_filter: str, topic: str) -> bool:
    """Say whether a topic falls under a filter (MQTT 5, section 4.7).

    Example:
        >>> matches("fl/v1/+/up/#", "fl/v1/pump-3/up/tel"), matches("#", "$SYS/uptime")
        (True, False)
    """
    if topic.startswith("$") and topic_filter[:1] in {"+", "#"}:
        return False
    wanted, levels = topic_filter.split("/"), topic.split("/")
    for index, part in enumerate(wanted):
        if part == "#":
            return True
        if index >= len(levels) or part not in {"+", levels[index]}:
            return False
    return len(wanted) == len(levels)
