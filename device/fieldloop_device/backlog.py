"""Messages that wait in memory while the disk refuses them."""

from collections.abc import Sequence

from fieldloop.telemetry import Event, FieldSample, TelemetryWindow
from fieldloop_device.windows import can_merge, merge

BACKLOG_LIMIT = 64
"""Most messages that wait in memory."""


class Backlog:
    """A bounded list: windows are merged before anything is dropped, drops are counted.

    Attributes:
        dropped_count: Messages that were dropped since the start.
    """

    def __init__(self) -> None:
        self._messages: list[TelemetryWindow | Event | FieldSample] = []
        self.dropped_count = 0

    @property
    def messages(self) -> tuple[TelemetryWindow | Event | FieldSample, ...]:
        """What waits, the oldest first."""
        return tuple(self._messages)

    def add(self, messages: Sequence[TelemetryWindow | Event | FieldSample]) -> None:
        """Add messages."""
        self._messages.extend(messages)

    def keep_to_limit(self) -> None:
        """Merge windows, then drop samples, events, windows, until the limit is kept."""
        while len(self._messages) > BACKLOG_LIMIT:
            if not self._merge_oldest():
                self._drop_oldest()

    def clear(self) -> None:
        """Forget what was stored."""
        self._messages.clear()

    def _merge_oldest(self) -> bool:
        earlier = None
        for index, message in enumerate(self._messages):
            if not isinstance(message, TelemetryWindow):
                continue
            if earlier is not None:
                before = self._messages[earlier]
                assert isinstance(before, TelemetryWindow)
                if can_merge(before, message):
                    self._messages[index] = merge(before, message)
                    del self._messages[earlier]
                    return True
            earlier = index
        return False

    def _drop_oldest(self) -> None:
        for kind in (FieldSample, Event, TelemetryWindow):
            for index, message in enumerate(self._messages):
                if isinstance(message, kind):
                    del self._messages[index]
                    self.dropped_count += 1
                    return
