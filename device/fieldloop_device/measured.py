"""What was measured on this device: the document that `fieldloop-device measure` writes.

A device class that was measured needs no estimates: the runtime picks the variant that is fastest
here, and the workstation can take the file as the truth about the class.
"""

from pathlib import Path

import msgspec

from fieldloop.manifest import Precision


class Latency(msgspec.Struct, frozen=True, kw_only=True):
    """Quantiles of one prediction's latency, raw row to answer.

    Attributes:
        p50_ms: Median.
        p90_ms: Nine in ten are faster.
        p99_ms: Ninety-nine in a hundred are faster.
        run_count: How many were measured.
    """

    p50_ms: float
    p90_ms: float
    p99_ms: float
    run_count: int


class VariantMeasurement(msgspec.Struct, frozen=True, kw_only=True):
    """One variant with one number of threads, in a process of its own.

    Attributes:
        precision: The variant.
        num_threads: Threads of the interpreter.
        open_ms: From the bundle's bytes to a warm model.
        first_ms: The first prediction.
        full_speed: One prediction right after the other.
        duty_cycle: With idle gaps, as in the field: caches and clocks have cooled down.
        interval_ms: The gap between two predictions of the duty cycle.
        rss_bytes: Memory that the model added to the process.
    """

    precision: Precision
    num_threads: int
    open_ms: float
    first_ms: float
    full_speed: Latency
    duty_cycle: Latency
    interval_ms: float
    rss_bytes: int


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """A whole measurement.

    Attributes:
        version: Of this schema.
        sha256: The bundle that was measured.
        backend: Runtime and version.
        machine: Architecture and number of cores, for example `aarch64 x 4`.
        temperature_c: Hottest sensor after the measurement; None where the system shows none.
        variants: What was measured.
        failures: Variants that do not run here, and why.
    """

    version: int = 1
    sha256: str
    backend: str = ""
    machine: str = ""
    temperature_c: float | None = None
    variants: tuple[VariantMeasurement, ...] = ()
    failures: dict[str, str] = {}


def read_latencies(path: Path, sha256: str) -> dict[str, float]:
    """Return a bundle's fastest duty-cycle medians by precision; empty if it was not measured."""
    try:
        document = msgspec.json.decode(path.read_bytes(), type=Measured)
    except (OSError, msgspec.DecodeError):
        return {}
    if document.sha256 != sha256:
        return {}
    latencies: dict[str, float] = {}
    for item in document.variants:
        best = latencies.get(item.precision, float("inf"))
        latencies[item.precision] = min(best, item.duty_cycle.p50_ms)
    return latencies
