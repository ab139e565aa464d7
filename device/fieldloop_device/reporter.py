"""Sends what the outbox holds, in order, until the cloud has acknowledged it.

At most `window` messages are on their way. A message that is not acknowledged in time goes out
again, with growing patience; a new connection starts over at the oldest. Sending twice is
harmless: the store knows (device, boot, seq).
"""

import logging
import threading
from collections.abc import Callable

import msgspec

from fieldloop import topics, wire
from fieldloop.clock import ClockSource
from fieldloop.errors import DataError, FieldloopError, NotConnectedError
from fieldloop.state import DesiredState, Presence, ReportedState
from fieldloop.telemetry import Ack
from fieldloop.transport import Message, Transport, Will
from fieldloop.wire import MessageT
from fieldloop_device.outbox import Outbox
from fieldloop_device.stored_messages import Row

logger = logging.getLogger(__name__)

IN_FLIGHT_LIMIT = 64
ACK_TIMEOUT_MS = 10_000
ACK_TIMEOUT_CAP_MS = 300_000


def death(device: str, boot: int) -> Will:
    """Return what the broker says when this boot's connection breaks."""
    return Will(
        topics.up(device, "status"), wire.encode(Presence(boot=boot, online=False)), retain=True
    )


class Reporter:
    """One device's voice; `pump` is called again and again by the agent's own thread.

    Args:
        device: The device's id.
        boot: This start of the agent.
        outbox: What is to be sent.
        transport: The connection.
        clock: Stamps the moment of sending.
        on_desired: Told of desired states.
        wake: Called when there is something to do for `pump`.

    Attributes:
        sent_count: Messages sent since the start, each time they were.
        unreadable_count: Messages from home that could not be read.
    """

    def __init__(
        self,
        device: str,
        boot: int,
        *,
        outbox: Outbox,
        transport: Transport,
        clock: ClockSource,
        on_desired: Callable[[DesiredState], None],
        wake: Callable[[], None] = lambda: None,
    ) -> None:
        self._device = device
        self._boot = boot
        self._outbox = outbox
        self._transport = transport
        self._clock = clock
        self._on_desired = on_desired
        self._wake = wake
        self._lock = threading.Lock()
        self._greet = False
        self._restart = False
        self._report: ReportedState | None = None
        self._report_is_new = False
        self._in_flight: dict[tuple[int, int], int] = {}
        self._cursor = (0, 0)
        self._patience_ms = ACK_TIMEOUT_MS
        self.sent_count = 0
        self.unreadable_count = 0
        transport.on_connection(self._note_connection)
        transport.subscribe(topics.down(device, "ack"), self._hear_ack)
        transport.subscribe(topics.down(device, "des"), self._hear_desired)

    @property
    def is_connected(self) -> bool:
        """Whether the broker can be reached at this moment."""
        return self._transport.is_connected

    @property
    def in_flight_count(self) -> int:
        """Messages sent and not acknowledged."""
        return len(self._in_flight)

    def report(self, state: ReportedState) -> None:
        """Set the reported state; it is published, retained, now and at every connection."""
        with self._lock:
            self._report = state
            self._report_is_new = True
        self._wake()

    def pump(self) -> int:
        """Send what may be sent now; returns how many messages that were."""
        if not self._transport.is_connected:
            return 0
        try:
            self._say_state()
            self._check_patience()
            return self._send_pending()
        except NotConnectedError:
            return 0
        except FieldloopError as error:
            logger.warning("a message was not sent: %s", error)
            return 0

    def say_goodbye(self) -> None:
        """Publish the death of this boot, because a clean goodbye publishes no Will."""
        farewell = death(self._device, self._boot)
        try:
            self._transport.publish(farewell.topic, farewell.payload, retain=True)
        except FieldloopError as error:
            logger.info("no goodbye: %s", error)

    # What is heard, on the transport's thread

    def _note_connection(self, connected: bool) -> None:  # noqa: FBT001 - the transport's callback
        with self._lock:
            self._greet = connected
            self._restart = connected
        self._wake()

    def _hear_ack(self, message: Message) -> None:
        ack = self._read(Ack, message)
        if ack is None:
            return
        self._outbox.acknowledge(ack)
        with self._lock:
            for number in [
                (boot, seq)
                for boot, seq in self._in_flight
                if boot == ack.boot and any(first <= seq <= last for first, last in ack.ranges)
            ]:
                del self._in_flight[number]
            self._patience_ms = ACK_TIMEOUT_MS
        self._wake()

    def _hear_desired(self, message: Message) -> None:
        desired = self._read(DesiredState, message) if message.payload else None
        if desired is not None:
            self._on_desired(desired)
        self._wake()

    def _read(self, kind: type[MessageT], message: Message) -> MessageT | None:
        """Read a message from home, whose delivery ends here; None, and counted, if it is none."""
        message.ack()
        try:
            return wire.decode(kind, message.payload)
        except DataError as error:
            self.unreadable_count += 1
            logger.warning("%s: %s", message.topic, error)
            return None

    # What is said

    def _say_state(self) -> None:
        with self._lock:
            greet, self._greet = self._greet, False
            report = self._report if greet or self._report_is_new else None
            self._report_is_new = False
        try:
            if greet:
                self._transport.publish(
                    topics.up(self._device, "status"),
                    wire.encode(Presence(boot=self._boot, online=True)),
                    retain=True,
                )
            if report is not None:
                self._transport.publish(
                    topics.up(self._device, "rep"), wire.encode(report), retain=True
                )
        except NotConnectedError:
            with self._lock:
                self._greet = self._greet or greet
                self._report_is_new = self._report_is_new or report is not None
            raise

    def _check_patience(self) -> None:
        now = self._clock.read().mono_ms
        with self._lock:
            late = self._in_flight and now - min(self._in_flight.values()) > self._patience_ms
            if late:
                self._patience_ms = min(self._patience_ms * 2, ACK_TIMEOUT_CAP_MS)
            if late or self._restart:
                self._restart = False
                self._in_flight.clear()
                self._cursor = (0, 0)

    def _send_pending(self) -> int:
        with self._lock:
            room = IN_FLIGHT_LIMIT - len(self._in_flight)
            cursor = self._cursor
        if room <= 0:
            return 0
        rows = self._outbox.pending(after=cursor, limit=room)
        if not rows or not self._outbox.mark_sent(rows[-1].number):
            return 0
        for row in rows:
            self._send(row)
        return len(rows)

    def _send(self, row: Row) -> None:
        now = self._clock.read()
        try:
            message = msgspec.structs.replace(row.message(), sent=now)
        except DataError as error:
            # Rotten inside a sound database: the cloud's dead letters shall see it and count it.
            logger.warning("message %s cannot be read: %s", row.number, error)
            payload = row.payload
        else:
            payload = wire.encode(message)
        with self._lock:
            # Before the publication: its acknowledgement may come back before `publish` does.
            self._in_flight[row.number] = now.mono_ms
        try:
            self._transport.publish(topics.up(self._device, row.stream), payload)
        except FieldloopError:
            with self._lock:
                self._in_flight.pop(row.number, None)
            raise
        with self._lock:
            self._cursor = max(self._cursor, row.number)
        self.sent_count += 1
