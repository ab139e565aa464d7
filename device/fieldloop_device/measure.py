"""Measures every variant of a bundle on this very device.

Each variant runs in a child process, so that its memory and its cold start are its own and a
crash is a result. Latencies are taken twice: at full speed, as benchmarks do, and with idle gaps,
as devices live; the second is what counts, because caches and CPU clocks cool down in between.

Run as `python -m fieldloop_device.measure REQUEST` (JSON) by `measure`; prints the result.
"""

import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path

import msgspec
import numpy as np

from fieldloop.bundle import unpack
from fieldloop.errors import ConfigError, FieldloopError, ModelRuntimeError
from fieldloop.integrity import PublicKey, TrustPolicy
from fieldloop.manifest import Precision
from fieldloop.measured import Latency, Measured, VariantMeasurement
from fieldloop.native import core_count
from fieldloop_device.resources import is_throttled_now, rss_bytes, temperature_c, throttle_count
from fieldloop_device.runtime import Runtime, read_bundle
from fieldloop_device.selftest import golden_rows

FULL_SPEED_RUNS = 500
DUTY_CYCLE_RUNS = 50
_CHILD_TIMEOUT_S = 600
_MAX_STDERR = 400


class _Request(msgspec.Struct, frozen=True, kw_only=True):
    bundle: str
    keys: tuple[bytes, ...]
    precision: Precision
    num_threads: int
    delegate: str
    backend: str | None
    started_ns: int
    workstation_p90_ms: float | None
    arena_bytes: int | None
    interval_ms: float
    run_count: int


class _Failure(msgspec.Struct, frozen=True, kw_only=True, tag="failure"):
    reason: str


class _Result(msgspec.Struct, frozen=True, kw_only=True, tag="result"):
    backend: str
    measurement: VariantMeasurement


def measure(
    bundle: Path,
    *,
    trust: TrustPolicy,
    backend: str | None = None,
    thread_counts: Sequence[int] = (1,),
    delegates: Sequence[str] = ("xnnpack",),
    interval_ms: float = 100.0,
    run_count: int = FULL_SPEED_RUNS,
    progress: Callable[[str], None] = lambda _: None,
) -> Measured:
    """Measure all variants of a bundle.

    Args:
        bundle: The file.
        trust: Whose signature counts.
        backend: Which runtime; None for the preferred one.
        thread_counts: Numbers of threads to try; more than there are cores are left out.
        delegates: What does the work, each in turn: `xnnpack`, `none`, or the path of an external
            delegate's shared library.
        interval_ms: Gap between two predictions of the duty cycle.
        run_count: Predictions at full speed.
        progress: Told what is measured next.

    Raises:
        BundleError: The bundle is not sound or not trusted.
        ConfigError: More threads than there are cores, and nothing else.
        ModelRuntimeError: No variant runs here.
    """
    content = unpack(read_bundle(bundle), trust=trust, where=str(bundle))
    results: list[_Result] = []
    failures: dict[str, str] = {}
    cores = core_count()
    if not any(1 <= count <= cores for count in thread_counts):
        raise ConfigError(
            f"none of the thread counts {', '.join(map(str, thread_counts))} can run here",
            where=f"{cores} cores",
            advice=f"Give counts from 1 to {cores}.",
        )
    possible = sorted({count for count in thread_counts if 1 <= count <= cores})
    for variant, num_threads, delegate in product(content.manifest.variants, possible, delegates):
        progress(f"{variant.precision}, {num_threads} threads, delegate {delegate}")
        request = _Request(
            bundle=str(bundle),
            keys=tuple(key.raw for key in trust.keys),
            precision=variant.precision,
            num_threads=num_threads,
            delegate=delegate,
            backend=backend,
            started_ns=time.monotonic_ns(),
            workstation_p90_ms=variant.latency_p90_ms,
            arena_bytes=variant.arena_bytes,
            interval_ms=interval_ms,
            run_count=run_count,
        )
        result = _in_child(request)
        if isinstance(result, _Failure):
            failures[variant.precision] = result.reason
        else:
            results.append(result)
    if not results:
        raise ModelRuntimeError(
            "no variant runs here: " + "; ".join(failures.values()),
            where=str(bundle),
            advice="Run fieldloop-device doctor.",
        )
    return Measured(
        sha256=content.sha256,
        device_class=trust.device_class or content.manifest.device_classes[0],
        backend=results[0].backend,
        machine=f"{platform.machine()} x {os.cpu_count()}",
        temperature_c=temperature_c(),
        variants=tuple(result.measurement for result in results),
        failures=failures,
    )


def _in_child(request: _Request) -> _Result | _Failure:
    command = [sys.executable, "-m", "fieldloop_device.measure"]
    command.append(msgspec.json.encode(request).decode())
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_CHILD_TIMEOUT_S,
            check=False,
        )
        return msgspec.json.decode(done.stdout, type=_Result | _Failure)
    except subprocess.TimeoutExpired:
        return _Failure(reason=f"it did not end within {_CHILD_TIMEOUT_S} s")
    except msgspec.DecodeError:
        tail = " ".join(done.stderr.decode(errors="replace").split())[-_MAX_STDERR:]
        return _Failure(reason=f"it ended with code {done.returncode}: {tail}")


def _measure_here(request: _Request) -> _Result:
    trust = TrustPolicy(keys=tuple(PublicKey(key) for key in request.keys))
    data = read_bundle(Path(request.bundle))
    before, throttled = rss_bytes() or 0, throttle_count()
    start = time.perf_counter()
    with Runtime.open(
        data,
        trust=trust,
        backend=request.backend,
        num_threads=request.num_threads,
        precision=request.precision,
        xnnpack=request.delegate == "xnnpack",
        delegate="" if request.delegate in ("xnnpack", "none") else request.delegate,
    ) as runtime:
        open_ms = (time.perf_counter() - start) * 1000
        rows = golden_rows(runtime)
        first_ms = _time_ms(runtime, rows, 1)[0]
        cold_start_ms = (time.monotonic_ns() - request.started_ns) * 1e-6
        full_speed = _latency(_time_ms(runtime, rows, request.run_count))
        duty = _time_ms(runtime, rows, DUTY_CYCLE_RUNS, gap_s=request.interval_ms / 1000)
        return _Result(
            backend=runtime.backend,
            measurement=VariantMeasurement(
                precision=request.precision,
                num_threads=request.num_threads,
                delegate=request.delegate,
                cold_start_ms=cold_start_ms,
                open_ms=open_ms,
                first_ms=first_ms,
                full_speed=full_speed,
                duty_cycle=_latency(duty),
                interval_ms=request.interval_ms,
                rss_bytes=max((rss_bytes() or 0) - before, 0),
                peak_rss_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
                arena_bytes=request.arena_bytes,
                temperature_c=temperature_c(),
                throttle_count=max(throttle_count() - throttled, 0) + is_throttled_now(),
                workstation_p90_ms=request.workstation_p90_ms,
            ),
        )


def _time_ms(
    runtime: Runtime, rows: Sequence[Sequence[np.ndarray]], count: int, *, gap_s: float = 0.0
) -> list[float]:
    times = []
    for run in range(count):
        if gap_s:
            time.sleep(gap_s)
        tensors = rows[run % len(rows)]
        start = time.perf_counter_ns()
        runtime.run(tensors)
        times.append((time.perf_counter_ns() - start) * 1e-6)
    return times


def _latency(times_ms: list[float]) -> Latency:
    p50, p90, p99 = np.percentile(times_ms, [50, 90, 99]).tolist()
    return Latency(p50_ms=p50, p90_ms=p90, p99_ms=p99, run_count=len(times_ms))


def main(arguments: list[str]) -> int:
    """Be the child: measure one variant, print the result."""
    request = msgspec.json.decode(arguments[0].encode(), type=_Request)
    outcome: _Result | _Failure
    try:
        outcome = _measure_here(request)
    except FieldloopError as error:
        outcome = _Failure(reason=str(error))
    sys.stdout.write(msgspec.json.encode(outcome).decode())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
