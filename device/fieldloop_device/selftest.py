"""The golden replay: does this bundle give its promised answers on this very device?

A model is code: a corrupt one can crash the interpreter. So the replay runs in a child process
with limits on memory, processor time and files; only a child that comes back with a receipt lets
its bundle go on.

Run as `python -m fieldloop_device.selftest ROOT SLOT`; prints the receipt as JSON.
"""

import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import msgspec
import numpy as np
from numpy.typing import NDArray

from fieldloop.bundle import from_blob
from fieldloop.codec import dequantize
from fieldloop.device_root import DeviceRoot, Slot
from fieldloop.errors import FieldloopError, GateError
from fieldloop.state import SelfTestReceipt
from fieldloop_device.config import DeviceConfig, load_config, read_trust
from fieldloop_device.runtime import Runtime, read_bundle

_LATENCY_RUNS = 50
_POLL_S = 0.1
_MAX_STDERR = 400


class _Failure(msgspec.Struct, frozen=True, kw_only=True):
    what: str
    where: str = ""
    advice: str = ""


def replay(runtime: Runtime) -> SelfTestReceipt:
    """Run the golden inputs and compare.

    Raises:
        GateError: An output deviates by more than the tolerance; integer outputs must be equal.
        ModelRuntimeError: The interpreter failed.
    """
    golden = runtime.golden
    inputs = [from_blob(blob) for blob in golden.inputs]
    expected = [from_blob(blob) for blob in golden.outputs]
    outputs = runtime.run(inputs)
    if len(outputs) != len(expected):
        raise GateError(
            f"the model has {len(outputs)} outputs where {len(expected)} are promised",
            advice="Build the bundle anew from a sound model.",
        )
    deviation = 0.0
    for spec, output, wanted in zip(runtime.signature.outputs, outputs, expected, strict=True):
        real = dequantize(spec, output)
        if real.shape != wanted.shape:
            raise _mismatch(spec.name, f"shape {real.shape} instead of {wanted.shape}")
        exact = not np.issubdtype(wanted.dtype, np.floating)
        worst = _deviation(real.astype(np.float64), wanted.astype(np.float64))
        if worst > (0.0 if exact else golden.tolerance):
            raise _mismatch(spec.name, f"it deviates by {worst:.3g}")
        deviation = max(deviation, worst)
    return SelfTestReceipt(
        sha256=runtime.sha256,
        max_deviation=deviation,
        p95_latency_ms=_p95_latency_ms(runtime),
        golden_count=len(inputs[0]),
    )


def _deviation(real: NDArray[Any], wanted: NDArray[Any]) -> float:
    if real.size == 0:
        return 0.0
    with np.errstate(invalid="ignore"):
        difference = np.abs(real - wanted)
    # The same NaN or infinity on both sides is the same answer; one on one side is not.
    same = (real == wanted) | (np.isnan(real) & np.isnan(wanted))
    return float(np.where(same, 0.0, np.where(np.isfinite(difference), difference, np.inf)).max())


def _mismatch(name: str, what: str) -> GateError:
    return GateError(
        f"the golden replay failed on output '{name}': {what}",
        advice="Compile for this device's runtime, or update the runtime.",
    )


def golden_rows(runtime: Runtime) -> list[list[NDArray[Any]]]:
    """Return the golden inputs row by row, as tensors of a batch of one."""
    inputs = [from_blob(blob) for blob in runtime.golden.inputs]
    return [[tensor[row : row + 1] for tensor in inputs] for row in range(len(inputs[0]))]


def _p95_latency_ms(runtime: Runtime) -> float:
    rows = golden_rows(runtime)
    times = []
    for run in range(_LATENCY_RUNS):
        tensors = rows[run % len(rows)]
        start = time.perf_counter_ns()
        runtime.run(tensors)
        times.append((time.perf_counter_ns() - start) * 1e-6)
    return float(np.percentile(times, 95))


def run_in_child(
    root: DeviceRoot,
    slot: Slot,
    config: DeviceConfig,
    *,
    is_cancelled: Callable[[], bool] = lambda: False,
) -> SelfTestReceipt | None:
    """Replay a slot's golden inputs in a child process with limits.

    Returns:
        The receipt; None if it was cancelled.

    Raises:
        GateError: The answers differ, the model is too slow, or the child crashed, hung or ran
            out of memory.
    """
    done = _run([str(root.path), slot], config.update.self_test_timeout_s, is_cancelled)
    if done is None:
        return None
    if done.returncode != 0:
        raise _child_failure(done)
    receipt = msgspec.json.decode(done.stdout, type=SelfTestReceipt)
    limit = config.update.max_latency_ms
    if limit is not None and receipt.p95_latency_ms > limit:
        raise GateError(
            f"the model takes {receipt.p95_latency_ms:.3g} ms (p95) here, {limit:g} ms are allowed",
            advice="Choose a smaller model or another precision.",
        )
    return receipt


def _run(
    arguments: list[str], timeout_s: float, is_cancelled: Callable[[], bool]
) -> "subprocess.CompletedProcess[bytes] | None":
    command = [sys.executable, "-m", "fieldloop_device.selftest", *arguments]
    deadline = time.monotonic() + timeout_s
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=child_environment(),
    ) as child:
        try:
            while True:
                try:
                    out, err = child.communicate(timeout=_POLL_S)
                except subprocess.TimeoutExpired:
                    pass
                else:
                    return subprocess.CompletedProcess(command, child.returncode, out, err)
                if is_cancelled():
                    return None
                if time.monotonic() > deadline:
                    raise GateError(
                        f"the self-test did not end within {timeout_s:g} s",
                        advice="Look for a smaller model, or raise [update] self_test_timeout_s.",
                    )
        finally:
            if child.poll() is None:
                child.kill()


def child_environment() -> dict[str, str]:
    """Return the environment of a process in which a model is tried."""
    # One thread each: idle pools of BLAS threads would eat up the address space limit.
    return {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}


def _child_failure(done: "subprocess.CompletedProcess[bytes]") -> GateError:
    try:
        failure = msgspec.json.decode(done.stdout, type=_Failure)
    except msgspec.DecodeError:
        how = f"signal {-done.returncode}" if done.returncode < 0 else f"code {done.returncode}"
        tail = " ".join(done.stderr.decode(errors="replace").split())[-_MAX_STDERR:]
        return GateError(
            f"the self-test died with {how}" + (f": {tail}" if tail else ""),
            advice="The model cannot run on this device; build it anew.",
        )
    return GateError(failure.what, where=failure.where, advice=failure.advice)


def limit_process(memory_bytes: int, *, cpu_s: int | None = None) -> None:
    """Limit this process: address space, processor time, no core dump and no file."""
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    if cpu_s is not None:
        resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))


def main(arguments: list[str]) -> int:
    """Be the child: limit ourselves, verify, replay, print the receipt."""
    root = DeviceRoot(Path(arguments[0]))
    slot = cast("Slot", arguments[1])
    try:
        config = load_config(root)
        trust = read_trust(
            root.trusted,
            device_class=config.device.device_class,
            backend=config.runtime.backend,
        )
        data = read_bundle(root.slot(slot))
        limits = config.update
        limit_process(limits.self_test_memory_bytes, cpu_s=int(limits.self_test_timeout_s) + 1)
        with Runtime.open(
            data,
            trust=trust,
            backend=config.runtime.backend,
            num_threads=config.runtime.num_threads,
        ) as runtime:
            receipt = replay(runtime)
    except FieldloopError as error:
        failure = _Failure(what=error.what, where=error.where, advice=error.advice)
        sys.stdout.write(msgspec.json.encode(failure).decode())
        return 1
    except MemoryError:
        failure = _Failure(what="the model needs more memory than the self-test allows")
        sys.stdout.write(msgspec.json.encode(failure).decode())
        return 1
    sys.stdout.write(msgspec.json.encode(receipt).decode())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
