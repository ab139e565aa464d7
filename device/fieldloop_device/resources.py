"""What the agent's process takes, and how warm the machine is; read once a window.

A read of /proc or /sys costs some 20 µs, so none is made for a single prediction. What a system
does not show is left out, never guessed.
"""

import os
import time
from pathlib import Path

from fieldloop.telemetry import Resources

_MEMORY = Path("/proc/self/statm")
_THERMAL = Path("/sys/class/thermal")
_PROCESSORS = Path("/sys/devices/system/cpu")
_RASPBERRY = Path("/sys/devices/platform/soc/soc:firmware/get_throttled")
_THROTTLED_NOW = 0b1111
"""Under-voltage, capped frequency, throttled, soft temperature limit: the bits of this moment."""


class ResourceMeter:
    """Tells what was spent since the last reading.

    Example:
        >>> meter = ResourceMeter()
        >>> reading = meter.read()
        >>> reading is None or reading.rss_kib > 0
        True
    """

    def __init__(self) -> None:
        self._cpu_s = time.process_time()
        self._throttle_count = throttle_count()

    def read(self) -> Resources | None:
        """Return what was spent since the last call; None where the system shows no memory."""
        memory = rss_bytes()
        if memory is None:
            return None
        cpu_s, throttled = time.process_time(), throttle_count()
        spent_ms = round((cpu_s - self._cpu_s) * 1000)
        grown = max(throttled - self._throttle_count, 0)
        self._cpu_s, self._throttle_count = cpu_s, throttled
        return Resources(
            rss_kib=memory // 1024,
            cpu_ms=spent_ms,
            temperature_c=temperature_c(),
            throttle_count=grown + is_throttled_now(),
        )


def rss_bytes(status: Path = _MEMORY) -> int | None:
    """Return the resident memory of this process; None where the system does not show it."""
    try:
        return int(status.read_text("ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return None


def temperature_c(zones: Path = _THERMAL) -> float | None:
    """Return the hottest sensor's temperature; None where the system shows none."""
    readings = [value for path in zones.glob("thermal_zone*/temp") if (value := _number(path))]
    return max(readings) / 1000 if readings else None


def throttle_count(processors: Path = _PROCESSORS) -> int:
    """Return how often the processors were slowed down since the start; 0 where not shown."""
    paths = processors.glob("cpu[0-9]*/thermal_throttle/core_throttle_count")
    return sum(_number(path) or 0 for path in paths)


def is_throttled_now(firmware: Path = _RASPBERRY) -> bool:
    """Tell whether a Raspberry Pi's firmware slows the processor down right now."""
    return bool((_number(firmware, base=16) or 0) & _THROTTLED_NOW)


def _number(path: Path, *, base: int = 10) -> int | None:
    try:
        return int(path.read_text("ascii").strip(), base)
    except (OSError, ValueError):
        return None
