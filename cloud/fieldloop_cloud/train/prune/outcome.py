"""What pruning gives: the smaller net, what it costs, and the comparison with the original."""

import time
import zlib
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from fieldloop.errors import ConfigError, GateError
from fieldloop_cloud.compile.quantize import Gate
from fieldloop_cloud.engine import open_engine
from fieldloop_cloud.files import write_file
from fieldloop_cloud.train.nets.macs import mac_count
from fieldloop_cloud.train.prune.job import PruneResult, PruneStep

_TIMED_RUNS = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class NetSize:
    """What a net costs, as a float32 flatbuffer on this machine.

    Attributes:
        parameter_count: Weights that are not zero.
        size_bytes: Of the flatbuffer.
        download_bytes: Of the flatbuffer, deflated.
        mac_count: Multiplications with addition for one row.
        latency_ms: Median for one row, one thread.
    """

    parameter_count: int
    size_bytes: int
    download_bytes: int
    mac_count: int
    latency_ms: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Pruned:
    """A pruned and fine-tuned net.

    Attributes:
        keras_bytes: The `.keras` file; `to_tflite` takes it once it is saved.
        tflite: The same as a float32 flatbuffer.
        before: What the original costs.
        after: What the pruned net costs.
        gate: The comparison with the original on the held-out rows.
        steps: The rounds; the last one may have been refused.
        channels: Channels before and after, for each layer that lost some.
        sensitivity: For the scope `sensitivity`: layer to points of (share, added loss).
    """

    keras_bytes: bytes = field(repr=False)
    tflite: bytes = field(repr=False)
    before: NetSize
    after: NetSize
    gate: Gate
    steps: tuple[PruneStep, ...]
    channels: dict[str, tuple[int, int]]
    sensitivity: dict[str, tuple[tuple[float, float], ...]]

    @property
    def share(self) -> float:
        """The share that is gone: that of the last round that was good enough."""
        return max(step.share for step in self.steps if step.kept)

    def save(self, path: Path | str) -> Path:
        """Write the `.keras` file, whole or not at all.

        Raises:
            ConfigError: The name does not end with `.keras`.
            EnvironmentFaultError: The place cannot be written.
        """
        target = Path(path)
        if target.suffix != ".keras":
            raise ConfigError(
                "a Keras model's file ends with .keras", where=str(path), advice="Name it so."
            )
        write_file(target, self.keras_bytes)
        return target


def collected(job: Path, rows: NDArray[np.float32]) -> Pruned:
    """Return what the worker left in its directory.

    Args:
        job: The directory.
        rows: To time the nets on.

    Raises:
        GateError: No round was good enough.
    """
    result = msgspec.json.decode((job / "result.json").read_bytes(), type=PruneResult)
    kept = [step for step in result.steps if step.kept]
    if not kept:
        raise GateError(
            f"the net loses too much already in the first round: {result.steps[0].gate.reason}",
            where="prune",
            advice="Take a smaller share, more steps or epochs, or allow a larger epsilon.",
        )
    before, after = ((job / f"{name}.tflite").read_bytes() for name in ("before", "after"))
    slow, fast = _latencies((before, after), rows)
    count = int(result.parameter_count)
    return Pruned(
        keras_bytes=(job / "pruned.keras").read_bytes(),
        tflite=after,
        before=_size(before, count, slow),
        after=_size(after, kept[-1].parameter_count, fast),
        gate=kept[-1].gate,
        steps=result.steps,
        channels=result.channels,
        sensitivity=result.sensitivity,
    )


def _size(tflite: bytes, parameter_count: int, latency_ms: float) -> NetSize:
    return NetSize(
        parameter_count=parameter_count,
        size_bytes=len(tflite),
        download_bytes=len(zlib.compress(tflite, 9)),
        mac_count=mac_count(tflite),
        latency_ms=latency_ms,
    )


def _latencies(models: tuple[bytes, ...], rows: NDArray[np.float32]) -> list[float]:
    """Time single rows in turns, so that whatever else the machine does hits all alike."""
    engines = [open_engine(tflite) for tflite in models]
    taken: list[list[int]] = [[] for _ in models]
    try:
        for number in range(_TIMED_RUNS):
            row = rows[number % len(rows)][np.newaxis]
            for engine, times in zip(engines, taken, strict=True):
                start = time.perf_counter_ns()
                engine.run([row.reshape(1, *engine.inputs[0].shape[1:])])
                times.append(time.perf_counter_ns() - start)
    finally:
        for engine in engines:
            engine.close()
    return [float(np.median(times)) / 1e6 for times in taken]
