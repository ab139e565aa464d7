"""What the store takes in and gives back, and when it happened."""

from dataclasses import dataclass
from typing import Literal

from fieldloop.signature import Category
from fieldloop.telemetry import Clock, Event, FieldSample, Stream, TelemetryWindow

Numbered = TelemetryWindow | Event | FieldSample
"""The messages that carry (boot, seq)."""

Outcome = Literal["stored", "duplicate", "conflict"]
"""`conflict`: the number was used before for something else; the message is a dead letter."""

MAX_SKEW_MS = 5 * 60 * 1000
"""A wall clock that is further off than this is not believed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Incoming:
    """One numbered message on its way into the store.

    Attributes:
        device: Who sent it, by the topic.
        stream: Which stream.
        message: What it says.
        payload: The bytes as they came; they are kept, with fields that we do not know.
        received_ms: Our clock when it came, milliseconds since 1970 UTC.
    """

    device: str
    stream: Stream
    message: Numbered
    payload: bytes
    received_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredEvent:
    """An event with its device and the time it happened."""

    device: str
    at_ms: int
    event: Event


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredSample:
    """A field sample with its device, its time and, once somebody gave one, its label."""

    device: str
    at_ms: int
    sample: FieldSample
    label: Category | None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """A message that could not be stored where it belongs.

    Attributes:
        topic: Where it was published.
        device: Who sent it; empty if the topic does not say.
        payload: Its first `store.DEAD_LETTER_BYTES` bytes.
        size_bytes: Its whole size.
        reason: What is wrong with it.
        received_ms: When it came.
    """

    topic: str
    device: str
    payload: bytes
    size_bytes: int
    reason: str
    received_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceCounts:
    """How many messages of one device came to what.

    Attributes:
        windows: Telemetry windows stored.
        events: Events stored.
        samples: Field samples stored.
        duplicates: Messages that came again and were not counted again.
        dead_letters: Messages that could not be read.
        missing: Numbers below the highest of their boot that have not come (yet).
    """

    device: str
    windows: int = 0
    events: int = 0
    samples: int = 0
    duplicates: int = 0
    dead_letters: int = 0
    missing: int = 0

    @property
    def stored(self) -> int:
        """All numbered messages stored."""
        return self.windows + self.events + self.samples


def event_clock(message: Numbered) -> Clock:
    """Return the device's clocks at the moment a message is about: a window's is its end."""
    return message.end if isinstance(message, TelemetryWindow) else message.at


def event_time_ms(event: Clock, sent: Clock | None, received_ms: int) -> int:
    """Place an event on our own clock.

    A device whose wall clock agrees with ours at the moment of sending (to `MAX_SKEW_MS`) is
    believed. Otherwise the event lies as long before the arrival as it lay before the sending on
    the device's monotonic clock. If the machine was restarted in between, that clock cannot tell,
    and the difference of its wall clocks is taken if it makes sense.

    Args:
        event: The device's clocks at the event.
        sent: Its clocks at the sending; None if it did not say.
        received_ms: Our clock at the arrival.

    Example:
        A device that believes it is 1970 sends three seconds after the event:

        >>> event, sent = Clock(mono_ms=1000, wall_ms=500), Clock(mono_ms=4000, wall_ms=3500)
        >>> event_time_ms(event, sent, 1_800_000_000_000)
        1799999997000
    """
    if sent is None:
        age_ms = received_ms - event.wall_ms
        believable = event.synchronized and age_ms >= -MAX_SKEW_MS
        return event.wall_ms if believable else received_ms
    if abs(received_ms - sent.wall_ms) <= MAX_SKEW_MS:
        return min(event.wall_ms, received_ms + MAX_SKEW_MS)
    age_ms = sent.mono_ms - event.mono_ms
    if age_ms < 0:
        age_ms = max(0, sent.wall_ms - event.wall_ms)
    return max(0, received_ms - age_ms)
