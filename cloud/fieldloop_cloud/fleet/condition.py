"""How the machines in the field are: sensors that stand still, heat, memory; from the last window.

A sensor that broke often keeps its last value, which lies well inside the trained range: neither a
range check nor, at first, a drift test sees it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fieldloop.profile import ReferenceProfile
from fieldloop.telemetry import TelemetryWindow

STUCK_SHARE = 0.5
"""A quantity is stuck when more than this share of a window's readings did not move."""
HOT_C = 80.0
"""Here the processors of common boards begin to slow down."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """What a device's last window tells about the device itself.

    Attributes:
        stuck: Quantities that stand still.
        temperature_c: Hottest sensor; None where the device shows none.
        throttle_count: How often it was slowed down in this window.
        cpu_share: Processor time of the agent, as a share of one core.
        rss_bytes: Memory of the agent; None if it was not told.
    """

    stuck: tuple[str, ...] = ()
    temperature_c: float | None = None
    throttle_count: int = 0
    cpu_share: float | None = None
    rss_bytes: int | None = None

    @property
    def warnings(self) -> tuple[str, ...]:
        """What somebody should look at."""
        found = [f"{name} is stuck" for name in self.stuck]
        if self.temperature_c is not None and self.temperature_c >= HOT_C:
            found.append(f"{self.temperature_c:.0f} °C")
        if self.throttle_count:
            found.append("throttled")
        return tuple(found)


def condition(window: TelemetryWindow, profile: ReferenceProfile | None) -> Condition:
    """Read one window.

    Args:
        window: A device's last one.
        profile: Of the model that it counts for, for the names; None numbers the quantities.

    Example:
        >>> from fieldloop.telemetry import Clock
        >>> now = Clock(mono_ms=0, wall_ms=0)
        >>> window = TelemetryWindow(boot=1, seq=1, model="m", start=now, end=now,
        ...                          prediction_count=60, stuck_counts=(0, 60))
        >>> condition(window, None).warnings
        ('quantity 1 is stuck',)
    """
    spent, resources = window.end.mono_ms - window.start.mono_ms, window.resources
    return Condition(
        stuck=tuple(_stuck(window, profile)),
        temperature_c=resources.temperature_c if resources else None,
        throttle_count=resources.throttle_count if resources else 0,
        cpu_share=resources.cpu_ms / spent if resources and spent > 0 else None,
        rss_bytes=resources.rss_kib * 1024 if resources else None,
    )


def _stuck(window: TelemetryWindow, profile: ReferenceProfile | None) -> Sequence[str]:
    names = [item.name for item in profile.quantities] if profile else []
    if len(names) != len(window.stuck_counts):
        names = [f"quantity {place}" for place in range(len(window.stuck_counts))]
    limit = STUCK_SHARE * window.prediction_count
    return [name for name, count in zip(names, window.stuck_counts, strict=True) if count > limit]


def conditions(
    windows: Mapping[str, TelemetryWindow], profiles: Mapping[str, ReferenceProfile]
) -> dict[str, Condition]:
    """Read each device's last window; `profiles` by the hash with which windows name a model."""
    return {
        device: condition(window, profiles.get(window.model)) for device, window in windows.items()
    }
