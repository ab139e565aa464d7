"""`prune` and `prune_magnitude`: a trained net with fewer channels, or with many zeros.

Only the first makes the flatbuffer smaller and faster. Zeros scattered over a kernel take as much
room and time as any other weight; they only compress well on the way to a device.
"""

import shutil
import tempfile
import time
import zipfile
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from fieldloop.errors import (
    ConfigError,
    DataError,
    EnvironmentFaultError,
    GateError,
    ModelRuntimeError,
    UnsupportedError,
)
from fieldloop.interpreter import open_engine
from fieldloop_cloud.compile.conversion import INSTALL_DEEP, missing_packages
from fieldloop_cloud.compile.quantize import EPSILON, Gate, check_epsilon
from fieldloop_cloud.compile.worker import Progress, last_line, quiet, run_worker
from fieldloop_cloud.files import write_file
from fieldloop_cloud.train.nets.job import told_error
from fieldloop_cloud.train.nets.macs import mac_count
from fieldloop_cloud.train.prune.importance import Importance
from fieldloop_cloud.train.prune.job import PruneJob, PruneResult, PruneStep, Scope

HELD_OUT_SHARE = 0.2
"""Of the rows, if no held-out rows are given."""

_WORKER = "fieldloop_cloud.train.prune.worker"
_TIMED_RUNS = 200
_GRACE_S = 60.0
"""Beside the budget, for TensorFlow's start and the conversions."""


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


def prune(
    model: Any,
    X: Any,
    y: Any,
    *,
    share: float = 0.5,
    importance: Importance = "l2",
    scope: Scope = "global",
    held_out: tuple[Any, Any] | None = None,
    epsilon: float = EPSILON,
    steps: int = 3,
    epochs: int = 10,
    multiple_of: int = 1,
    batch: int = 32,
    learning_rate: float = 1e-3,
    seed: int = 0,
    budget_s: float = 600.0,
    progress: Progress = quiet,
) -> Pruned:
    """Take out a share of a net's channels and fine-tune what is left.

    In each of `steps` rounds the least important channels go and the net is trained on for at most
    `epochs`. The rounds end when one loses more than `epsilon` of the score on the held-out rows;
    the round before it is returned. Half of the channels is about three quarters of the weights.
    Channels that are tied together by Add or Multiply go together.

    Args:
        model: A functional or sequential Keras model, or the path of a `.keras` file, with layers
            of `roles.PASSES` and the like: convolutions, dense, BatchNormalization, pooling, …
        X: Encoded training rows, float32 (n, *input shape).
        y: Class numbers (n,), integers from 0 in the order of the outputs; or values (n,), floats.
        share: Of the channels of all layers but the last.
        importance: `l2`, `l1`, `bn` or `taylor`; see `Importance`.
        scope: `global` takes channels wherever they matter least, `layer` the same share of each
            layer, `sensitivity` where a sweep over the layers shows that it costs least.
        held_out: X and y to compare on, not trained on; None: a fifth of the rows.
        epsilon: Largest loss of accuracy or R² allowed. It is what was seen; the gate says whether
            the rows were enough to prove it.
        steps: Rounds.
        epochs: Most epochs of a round.
        multiple_of: Each layer keeps a multiple of this; 4 or 8 suits SIMD kernels.
        batch: Rows of a training step.
        learning_rate: Of Adam.
        seed: Of the split and the order of rows.
        budget_s: For all rounds.
        progress: Receives the rounds.

    Raises:
        UnsupportedError: A layer whose channels cannot be followed, by name.
        GateError: Not even the first round stays within epsilon.
        DataError: Rows that do not fit.
        ConfigError: A share, a number of steps or a criterion that makes no sense.
        ModelRuntimeError: The process ended or ran out of time.
        EnvironmentFaultError: The packages for nets are not installed.

    Example:
        >>> pruned = prune("net.keras", X, y, share=0.5)  # doctest: +SKIP
        >>> pruned.before.size_bytes, pruned.after.size_bytes  # doctest: +SKIP
        (88436, 30076)
        >>> compiled = fl.to_tflite(pruned.save("small.keras"), example=X)  # doctest: +SKIP
    """
    if importance not in {"l1", "l2", "bn", "taylor"}:
        raise ConfigError(
            f"there is no importance {importance!r}", advice="Use l1, l2, bn or taylor."
        )
    if scope not in {"global", "layer", "sensitivity"}:
        raise ConfigError(
            f"there is no scope {scope!r}", advice="Use global, layer or sensitivity."
        )
    order = PruneJob(
        method="channels",
        share=share,
        task=_task(y),
        importance=importance,
        scope=scope,
        steps=steps,
        epochs=epochs,
        batch=batch,
        learning_rate=learning_rate,
        multiple_of=multiple_of,
        epsilon=epsilon,
        seed=seed,
        budget_s=budget_s,
    )
    return _run(order, model, (X, y), held_out, progress)


def prune_magnitude(
    model: Any,
    X: Any,
    y: Any,
    *,
    share: float = 0.8,
    held_out: tuple[Any, Any] | None = None,
    epsilon: float = EPSILON,
    steps: int = 3,
    epochs: int = 10,
    batch: int = 32,
    learning_rate: float = 1e-3,
    seed: int = 0,
    budget_s: float = 600.0,
    progress: Progress = quiet,
) -> Pruned:
    """Set the smallest weights of every kernel to zero and fine-tune the others.

    It is for the download alone: the flatbuffer keeps its size and its latency, and
    `download_bytes` says what a deflated one has. For a smaller and faster net use `prune`.
    Arguments and errors are those of `prune`.

    Measured on a CNN for digits of 21k parameters, bytes of the file / of the deflated file, with
    the accuracy within half a point throughout: as trained float32 88k / 79k, int8 31k / 24k; 80 %
    zeros 88k / 25k, 31k / 11k; half of the channels gone 29k / 24k, 14k / 9k. Weight clustering is
    left out, for it does not pay beyond these: 16 values a kernel gave 88k / 20k and 31k / 17k, and
    who minds the download quantizes first (`tools/bench/sparse.py`).

    Args:
        model: As for `prune`; any layers.
        X: As for `prune`.
        y: As for `prune`.
        share: Of each kernel's weights.
        held_out: As for `prune`.
        epsilon: As for `prune`.
        steps: Rounds.
        epochs: Most epochs of a round.
        batch: Rows of a training step.
        learning_rate: Of Adam.
        seed: Of the split and the order of rows.
        budget_s: For all rounds.
        progress: Receives the rounds.
    """
    order = PruneJob(
        method="weights",
        share=share,
        task=_task(y),
        steps=steps,
        epochs=epochs,
        batch=batch,
        learning_rate=learning_rate,
        epsilon=epsilon,
        seed=seed,
        budget_s=budget_s,
    )
    return _run(order, model, (X, y), held_out, progress)


def _task(y: Any) -> Any:
    return "regression" if np.asarray(y).dtype.kind == "f" else "classification"


def _run(
    order: PruneJob,
    model: Any,
    rows: tuple[Any, Any],
    held_out: tuple[Any, Any] | None,
    progress: Progress,
) -> Pruned:
    _check(order)
    arrays = _arrays(order, *rows, held_out)
    job = Path(tempfile.mkdtemp(prefix="fieldloop-prune-"))
    try:
        place_model(model, job)
        for name, array in arrays.items():
            np.save(job / f"{name}.npy", array)
        (job / "job.json").write_bytes(msgspec.json.encode(order))
        end = run_worker(_WORKER, job, timeout_s=order.budget_s + _GRACE_S, progress=progress)
        if (error := told_error(job)) is not None:
            raise error
        if not (job / "result.json").exists():
            how = "ran out of time" if end.timed_out else last_line(end.tail)
            raise ModelRuntimeError(
                f"the pruning process ended: {how}",
                where="prune",
                advice="Raise the budget, or check memory and TensorFlow with `fieldloop doctor`.",
            )
        return _collected(job, arrays["x_held_out"])
    finally:
        shutil.rmtree(job, ignore_errors=True)


def _check(order: PruneJob) -> None:
    check_epsilon(order.epsilon)
    problems = {
        "share": not 0 < order.share < 1,
        "steps": order.steps < 1,
        "epochs": order.epochs < 0,
        "multiple_of": order.multiple_of < 1,
        "batch": order.batch < 1,
        "learning_rate": not order.learning_rate > 0,
        "budget_s": not order.budget_s > 0,
    }
    if wrong := [name for name, failed in problems.items() if failed]:
        raise ConfigError(
            f"{', '.join(wrong)} cannot be right",
            where="prune",
            advice="Give a share between 0 and 1 and positive numbers.",
        )


def _arrays(
    order: PruneJob, X: Any, y: Any, held_out: tuple[Any, Any] | None
) -> dict[str, NDArray[Any]]:
    rows, truth = _pair(order, X, y, "X")
    if held_out is not None:
        x_held_out, y_held_out = _pair(order, held_out[0], held_out[1], "held_out")
        return {
            "x_train": rows,
            "y_train": truth,
            "x_held_out": x_held_out,
            "y_held_out": y_held_out,
        }
    shuffled = np.random.default_rng(order.seed).permutation(len(rows))
    count = max(1, round(HELD_OUT_SHARE * len(rows)))
    if len(rows) - count < 1:
        raise DataError("one row is too few", where="X", advice="Give more rows.")
    away, stay = shuffled[:count], shuffled[count:]
    return {
        "x_train": rows[stay],
        "y_train": truth[stay],
        "x_held_out": rows[away],
        "y_held_out": truth[away],
    }


def _pair(order: PruneJob, X: Any, y: Any, where: str) -> tuple[NDArray[Any], NDArray[Any]]:
    try:
        rows = np.asarray(X, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise DataError(
            f"the rows are no numbers: {error}", where=where, advice="Encode them first."
        ) from error
    truth = np.asarray(y)
    if not len(rows) or len(rows) != len(truth):
        raise DataError(
            f"{len(rows)} rows and {len(truth)} answers do not fit",
            where=where,
            advice="Give one answer for each row.",
        )
    if order.task == "regression":
        truth = truth.astype(np.float32)
    elif truth.dtype.kind not in "iu" or truth.min() < 0:
        raise DataError(
            "the classes are no numbers from 0",
            where=where,
            advice="Give each row the number of its class in the order of the net's outputs.",
        )
    if not (np.isfinite(rows).all() and np.isfinite(truth).all()):
        raise DataError("a value is missing or infinite", where=where, advice="Fill it in.")
    return rows, truth


def place_model(model: Any, job: Path) -> None:
    """Put a live Keras model or a `.keras` file into a job's directory as `model.keras`.

    Raises:
        EnvironmentFaultError: The packages for nets are not installed.
        DataError: The path is no `.keras` file.
        UnsupportedError: The model cannot be saved.
    """
    if missing := missing_packages():
        raise EnvironmentFaultError(
            f"a net cannot be trained here: {missing}",
            advice=f"Install the packages for nets: {INSTALL_DEEP}.",
        )
    if isinstance(model, (str, Path)):
        if Path(model).suffix != ".keras" or not zipfile.is_zipfile(model):
            raise DataError(
                "this is not a .keras file, or a damaged one",
                where=str(model),
                advice="Save it with model.save('name.keras').",
            )
        shutil.copy(model, job / "model.keras")
        return
    try:
        model.save(job / "model.keras")
    except Exception as error:
        raise UnsupportedError(
            f"the Keras model cannot be saved: {last_line(str(error))}",
            where=type(model).__name__,
            advice="Call it once on some rows, and use layers that Keras can save.",
        ) from error


def _collected(job: Path, rows: NDArray[np.float32]) -> Pruned:
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
