"""What was measured on a device: the document that `fieldloop-device measure` writes.

A device class that was measured needs no estimates: the runtime picks the variant that is fastest
there, and the workstation takes the file as the truth about the class (`--device FILE.json`).
"""

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
        delegate: `xnnpack`, `none`, or the path of an external delegate.
        cold_start_ms: From the start of the process to the first answer, imports included.
        open_ms: From the bundle's bytes to a warm model.
        first_ms: The first prediction.
        full_speed: One prediction right after the other.
        duty_cycle: With idle gaps, as in the field: caches and clocks have cooled down.
        interval_ms: The gap between two predictions of the duty cycle.
        rss_bytes: Memory that the model added to the process.
        peak_rss_bytes: Most memory that the whole process had.
        arena_bytes: The part of it for what is computed for one row, as it was planned when the
            model was compiled; no runtime tells it.
        temperature_c: Hottest sensor after it; None where the system shows none.
        throttle_count: How often a processor was slowed down meanwhile: such figures are too high.
        workstation_p90_ms: Of the same variant where it was trained, from the bundle.
    """

    precision: Precision
    num_threads: int
    delegate: str = "xnnpack"
    cold_start_ms: float = 0.0
    open_ms: float
    first_ms: float
    full_speed: Latency
    duty_cycle: Latency
    interval_ms: float
    rss_bytes: int
    peak_rss_bytes: int = 0
    arena_bytes: int | None = None
    temperature_c: float | None = None
    throttle_count: int = 0
    workstation_p90_ms: float | None = None


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """A whole measurement.

    Attributes:
        version: Of this schema.
        sha256: The bundle that was measured.
        device_class: The target that the machine stands for.
        backend: Runtime and version.
        machine: Architecture and number of cores, for example `aarch64 x 4`.
        temperature_c: Hottest sensor after the measurement; None where the system shows none.
        variants: What was measured.
        failures: Variants that do not run here, and why.
    """

    version: int = 1
    sha256: str
    device_class: str = ""
    backend: str = ""
    machine: str = ""
    temperature_c: float | None = None
    variants: tuple[VariantMeasurement, ...] = ()
    failures: dict[str, str] = {}
