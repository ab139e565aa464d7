"""A device's sending side in miniature: keeps every message until the cloud has acknowledged it."""

import threading
import time

import msgspec

from fieldloop import topics, wire
from fieldloop.errors import NotConnectedError
from fieldloop.telemetry import Ack, Clock, TelemetryWindow
from fieldloop.transport import Message, Transport

RESEND_S = 1.0


class OutboxSender:
    """Numbers windows, sends them, and sends them again until they are acknowledged.

    Args:
        device: Its id.
        transport: Connected by the caller.
    """

    def __init__(self, device: str, transport: Transport) -> None:
        self.device = device
        self.last_seq = 0
        self.prediction_count = 0
        self._transport = transport
        self._pending: dict[int, tuple[TelemetryWindow, float]] = {}
        self._lock = threading.Lock()
        transport.subscribe(topics.down(device, "ack"), self._hear)

    @property
    def pending_count(self) -> int:
        """Messages that are not acknowledged."""
        return len(self._pending)

    def add(self, *, count: int) -> None:
        """Put one more window into the outbox."""
        self.last_seq += 1
        self.prediction_count += count
        clock = _clock()
        window = TelemetryWindow(
            boot=1,
            seq=self.last_seq,
            model="ab" * 8,
            start=clock,
            end=clock,
            prediction_count=count,
        )
        with self._lock:
            self._pending[window.seq] = (window, 0.0)

    def pump(self) -> None:
        """Send what was not sent for `RESEND_S`."""
        now = time.monotonic()
        with self._lock:
            due = [window for window, at in self._pending.values() if now - at >= RESEND_S]
        for window in due:
            stamped = msgspec.structs.replace(window, sent=_clock())
            try:
                self._transport.publish(topics.up(self.device, "tel"), wire.encode(stamped))
            except NotConnectedError:
                return
            with self._lock:
                if window.seq in self._pending:
                    self._pending[window.seq] = (window, now)

    def _hear(self, message: Message) -> None:
        ack = wire.decode(Ack, message.payload)
        with self._lock:
            for first, last in ack.ranges:
                for seq in range(first, last + 1):
                    self._pending.pop(seq, None)
        message.ack()


def _clock() -> Clock:
    return Clock(mono_ms=time.monotonic_ns() // 1_000_000, wall_ms=time.time_ns() // 1_000_000)
