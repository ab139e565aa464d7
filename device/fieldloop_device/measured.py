"""Which variant is fastest here, from what `fieldloop-device measure` wrote into the root."""

from pathlib import Path

import msgspec

from fieldloop.measured import Measured
from fieldloop_device.config import RuntimeSection


def delegate_name(runtime: RuntimeSection) -> str:
    """Return how measurements name what does a model's work under these settings."""
    return runtime.delegate or ("xnnpack" if runtime.xnnpack else "none")


def read_latencies(path: Path, sha256: str, runtime: RuntimeSection) -> dict[str, float]:
    """Return a bundle's duty-cycle medians by precision, as these settings run it.

    Empty if it was not measured with these settings.
    """
    try:
        document = msgspec.json.decode(path.read_bytes(), type=Measured)
    except (OSError, msgspec.DecodeError):
        return {}
    if document.sha256 != sha256:
        return {}
    wanted = (runtime.num_threads, delegate_name(runtime))
    return {
        item.precision: item.duty_cycle.p50_ms
        for item in document.variants
        if (item.num_threads, item.delegate) == wanted
    }
