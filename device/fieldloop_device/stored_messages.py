"""Numbered messages as the outbox stores and hands them out."""

import dataclasses

from fieldloop import wire
from fieldloop.errors import DataError
from fieldloop.telemetry import Event, FieldSample, Stream, TelemetryWindow

NumberedMessage = TelemetryWindow | Event | FieldSample

KINDS: dict[Stream, type[NumberedMessage]] = {
    "tel": TelemetryWindow,
    "evt": Event,
    "smp": FieldSample,
}


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """A stored message."""

    boot: int
    seq: int
    stream: Stream
    payload: bytes

    @property
    def number(self) -> tuple[int, int]:
        """Boot and sequence number: the message's place in the device's history."""
        return self.boot, self.seq

    def message(self) -> NumberedMessage:
        """Return the message."""
        return wire.decode(KINDS[self.stream], self.payload)


def stream_of(message: NumberedMessage) -> Stream:
    """Return the stream in which a message goes.

    Raises:
        DataError: It is none of the numbered kinds.
    """
    for stream, kind in KINDS.items():
        if isinstance(message, kind):
            return stream
    raise DataError(
        f"a {type(message).__name__} is not a numbered message",
        advice="Send a window, an event or a sample.",
    )
