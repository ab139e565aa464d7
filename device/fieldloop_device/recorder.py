"""Turns what was counted into messages: windows with their samples, and events at once."""

import logging
import threading

from fieldloop.clock import ClockSource
from fieldloop.telemetry import Clock, Event
from fieldloop_device.monitor import MODEL_ID_DIGITS
from fieldloop_device.outbox import Outbox
from fieldloop_device.serving import Serving
from fieldloop_device.stored_messages import NumberedMessage

logger = logging.getLogger(__name__)

_MAX_DETAIL = 500
_EXPIRY_MS = 3_600_000


class Recorder:
    """Fills the outbox; one thread calls `record`, any thread may `announce`.

    Args:
        serving: Where windows and samples come from.
        outbox: Where they go.
        clock: Says when a window is due.
        window_ms: Length of a window.

    Attributes:
        window_count: Windows cut since the start.
    """

    def __init__(
        self, serving: Serving, outbox: Outbox, clock: ClockSource, *, window_ms: int
    ) -> None:
        self._serving = serving
        self._outbox = outbox
        self._clock = clock
        self._window_ms = window_ms
        self._next_cut_ms = clock.read().mono_ms + window_ms
        self._lock = threading.Lock()
        self._events: list[Event] = []
        self._next_expiry_ms = 0
        self._known_drops = 0
        self._known_quarantines = 0
        self.window_count = 0

    def announce(self, kind: str, detail: str, *, sha256: str) -> None:
        """Keep an event for the next `record`.

        Args:
            kind: One of `telemetry.EVENT_KINDS`.
            detail: A sentence for people.
            sha256: The running bundle.
        """
        logger.info("%s: %s", kind, detail)
        event = Event(
            boot=0,
            seq=0,
            at=self._clock.read(),
            model=sha256[:MODEL_ID_DIGITS],
            kind=kind,
            detail=detail[:_MAX_DETAIL],
        )
        with self._lock:
            self._events.append(event)

    def record(self, *, cut: bool = False) -> tuple[int, bool]:
        """Store events, and windows with their samples when they are due or asked for.

        Returns:
            How many messages were stored, and whether a window was ended.
        """
        now = self._clock.read()
        is_due = cut or now.mono_ms >= self._next_cut_ms
        messages: list[NumberedMessage] = []
        if is_due:
            self._next_cut_ms = now.mono_ms + self._window_ms
            self._expire(now)
            self._notice_losses()
            windows = self._serving.cut()
            self.window_count += len(windows)
            messages += windows
            messages += self._serving.take_samples()
        with self._lock:
            messages += self._events
            self._events = []
        return self._outbox.append(messages, now=now), is_due

    def _expire(self, now: Clock) -> None:
        """Look for what is too old; seldom, because that reads the whole outbox."""
        if now.mono_ms >= self._next_expiry_ms:
            self._next_expiry_ms = now.mono_ms + _EXPIRY_MS
            self._outbox.expire(now)

    def _notice_losses(self) -> None:
        """Announce what the outbox had to give up since the last window."""
        outbox = self._outbox
        if outbox.quarantined_count > self._known_quarantines:
            self._known_quarantines = outbox.quarantined_count
            detail = "a corrupt outbox was put aside, a new one begun"
            self.announce("outbox-quarantined", detail, sha256="")
        if outbox.dropped_count > self._known_drops:
            lost_count = outbox.dropped_count - self._known_drops
            self._known_drops = outbox.dropped_count
            detail = f"{lost_count} messages were dropped: too many or too old"
            self.announce("messages-dropped", detail, sha256="")
