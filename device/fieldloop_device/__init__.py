"""fieldloop on the device: run a signed bundle, tell the truth about the field, update safely.

`Runtime` opens a bundle and predicts; `Agent` adds telemetry, an outbox and updates.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fieldloop_device.agent import Agent
    from fieldloop_device.runtime import Runtime

__version__ = "0.1.0"
__all__ = ["Agent", "Runtime", "__version__"]

_HOMES = {"Agent": "fieldloop_device.agent", "Runtime": "fieldloop_device.runtime"}


def __getattr__(name: str) -> Any:
    """Import on first use: whoever only wants `Runtime` does not pay for MQTT."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib  # noqa: PLC0415 - the whole point is to be late

    return getattr(importlib.import_module(_HOMES[name]), name)
