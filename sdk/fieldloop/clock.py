"""The device's clocks.

Both clocks are read together, because a wall clock may be wrong and a monotonic one knows no
date. Code that needs the time takes a `ClockSource`, so tests give it `testing.FakeClock`.
"""

import ctypes
import functools
import os
import time
from typing import Protocol

from fieldloop.telemetry import Clock

_TIME_ERROR = 5
"""`adjtimex` returns this state while nothing keeps the clock in step."""

_TIMEX_SIZE_BYTES = 1024
"""More than any architecture's `struct timex`; zeroed, so `modes` is 0 and nothing is set."""


class ClockSource(Protocol):
    """Something that tells the time."""

    def read(self) -> Clock:
        """Read both clocks at one moment."""


class SystemClock:
    """The machine's own clocks.

    The monotonic clock goes on while the machine sleeps (CLOCK_BOOTTIME), where the system has
    one.
    """

    def __init__(self) -> None:
        self._monotonic = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)

    def read(self) -> Clock:
        """Read both clocks and ask the kernel whether the wall clock is synchronised."""
        return Clock(
            mono_ms=time.clock_gettime_ns(self._monotonic) // 1_000_000,
            wall_ms=time.time_ns() // 1_000_000,
            synchronized=_is_synchronized(),
        )


@functools.cache
def _adjtimex() -> "ctypes._NamedFuncPointer | None":
    """Return the C library's adjtimex(2), or None where there is none."""
    if os.name != "posix":
        return None
    return getattr(ctypes.CDLL(None), "adjtimex", None)


def _is_synchronized() -> bool:
    call = _adjtimex()
    if call is None:
        return False
    state = call(ctypes.create_string_buffer(_TIMEX_SIZE_BYTES))
    return 0 <= int(state) < _TIME_ERROR
