"""A clock that moves only when told."""

from fieldloop.telemetry import Clock


class FakeClock:
    """A `clock.ClockSource` for tests.

    Attributes:
        mono_ms: The monotonic clock; moves by `advance` only.
        wall_ms: The wall clock; moves by `advance`, may also be set, back too.
        synchronized: What the system says about the wall clock.

    Example:
        >>> clock = FakeClock()
        >>> before = clock.read()
        >>> clock.advance(250)
        >>> clock.read().mono_ms - before.mono_ms
        250
    """

    def __init__(
        self,
        *,
        mono_ms: int = 1_000,
        wall_ms: int = 1_700_000_000_000,
        synchronized: bool = True,
    ) -> None:
        self.mono_ms = mono_ms
        self.wall_ms = wall_ms
        self.synchronized = synchronized

    def read(self) -> Clock:
        """Read both clocks."""
        return Clock(mono_ms=self.mono_ms, wall_ms=self.wall_ms, synchronized=self.synchronized)

    def advance(self, duration_ms: int) -> None:
        """Let time pass on both clocks.

        Raises:
            ValueError: The duration is negative: a monotonic clock never goes back.
        """
        if duration_ms < 0:
            raise ValueError("a monotonic clock never goes back; set wall_ms instead")
        self.mono_ms += duration_ms
        self.wall_ms += duration_ms
