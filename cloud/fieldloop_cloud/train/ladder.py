"""Climbing the precision ladder with one trained candidate: compile, measure, gate.

The first rung is the float32 reference; each further one is compared with it on the validation
rows. What does not compile is skipped with its reason.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fieldloop.errors import FieldloopError, GateError, ModelRuntimeError, UnsupportedError
from fieldloop.manifest import Precision
from fieldloop_cloud.compile.compiled import Compiled
from fieldloop_cloud.compile.inspect import inspect
from fieldloop_cloud.compile.quantize import (
    RESCUES,
    Gate,
    calibration_sha256,
    classification_gate,
    needs_rescue,
    reference_gate,
    regression_gate,
)
from fieldloop_cloud.compile.rungs import (
    INTEGER,
    QAT,
    Attempt,
    NetRungs,
    Offers,
    compiled_directly,
)
from fieldloop_cloud.data.dataset import Dataset
from fieldloop_cloud.release.targets import Target
from fieldloop_cloud.select.choice import overruns
from fieldloop_cloud.select.scored import Measured, Scored, Skipped
from fieldloop_cloud.train.bench import Bench
from fieldloop_cloud.train.measure import Answers, answers, latencies
from fieldloop_cloud.train.metrics import estimate
from fieldloop_cloud.train.nets.job import Epoch


@dataclass(frozen=True, slots=True, eq=False)
class Trained:
    """A trained candidate that can be compiled to several precisions.

    Attributes:
        name: The candidate's.
        compile_to: Makes the flatbuffer of a precision, or raises.
        parameters: Hyper-parameters as text.
        train_s: Seconds that training took.
        model: The fitted scikit-learn object, or the bytes of a `.keras` file.
        calibration: Training rows that set the integer precisions' ranges.
        held_out: Gives a precision's answers for the validation rows where the flatbuffer itself
            was fitted on them (cross-validation); None where it was not.
        aware: Trains the net further with int8's rounding and gives the int8 flatbuffer, or
            raises; None where that cannot be done. It is asked only if int8 does not pass.
        history: A net's epochs.
        features: The training rows as a classical head sees them, a backbone's features; None
            where it sees the rows themselves.
    """

    name: str
    compile_to: Callable[[Precision], Compiled]
    parameters: dict[str, str]
    train_s: float
    model: Any
    calibration: NDArray[np.float32]
    held_out: Callable[[Precision], Answers] | None = None
    aware: Callable[[], bytes] | None = None
    history: tuple[Epoch, ...] = ()
    features: Dataset | None = None

    @property
    def is_net(self) -> bool:
        """Whether it is a Keras model, which more than one quantizer can quantize."""
        return isinstance(self.model, bytes)


def rungs(ladder: tuple[Precision, ...], target: Target) -> tuple[Precision, ...]:
    """Return the reference and the rungs that the target runs."""
    return tuple(p for p in ladder if p == "float32" or p in target.precisions)


def climb(
    trained: Trained, ladder: tuple[Precision, ...], bench: Bench
) -> tuple[list[Scored], list[Skipped]]:
    """Measure the reference and each rung against it.

    Raises:
        FieldloopError: The float32 reference itself cannot be had.
    """
    return _Climb(trained, bench).up(rungs(ladder, bench.target))


class _Climb:
    """One candidate on its way up."""

    def __init__(self, trained: Trained, bench: Bench) -> None:
        self._trained, self._bench = trained, bench
        self._offers = _offers(trained, bench)
        self._reference: Answers | None = None
        self._scored: dict[Precision, Scored] = {}
        self._skipped: list[Skipped] = []

    def up(self, steps: tuple[Precision, ...]) -> tuple[list[Scored], list[Skipped]]:
        """Take every step, and train with the rounding where int8 did not pass."""
        for number, precision in enumerate(steps):
            name = f"{self._trained.name}.{precision}"
            self._bench.progress("measure", number / len(steps), f"measuring {name}")
            if precision in RESCUES and not needs_rescue(self._int8):
                continue
            self._take(precision, self._offers(precision, self._judge))
        is_lost = self._int8 is None or self._int8.verdict == "refused"
        if "int8" in steps and is_lost and self._trained.aware is not None:
            self._take("int8", _aware(self._trained.aware, self._offers))
        return list(self._scored.values()), self._skipped

    @property
    def _int8(self) -> Gate | None:
        return self._scored["int8"].gate if "int8" in self._scored else None

    def _take(self, precision: Precision, ways: tuple[Attempt, ...]) -> None:
        """Measure the ways to a precision, and keep the best that there has been."""
        found = [self._scored[precision]] if precision in self._scored else []
        reasons = [way.reason for way in ways if way.compiled is None]
        for compiled in (way.compiled for way in ways if way.compiled is not None):
            try:
                found.append(self._measure(compiled))
            except (UnsupportedError, GateError, ModelRuntimeError) as error:
                if self._reference is None:
                    raise
                reasons.append(str(error))
        if found:
            best = min(found, key=lambda item: (not item.gate.passed, item.latency_p50_ms))
            self._scored[precision] = best
        elif reasons:
            name = f"{self._trained.name}.{precision}"
            self._skipped.append(Skipped(name=name, reason="; ".join(dict.fromkeys(reasons))))

    def _measure(self, compiled: Compiled) -> Scored:
        said = _held_out(self._trained, compiled, self._bench)
        gate = _gate(compiled, said, self._reference, self._bench)
        self._reference = self._reference or said
        measured = _measured(self._trained, compiled, said, gate, self._bench)
        return _within(measured, compiled, self._trained.model, self._bench.target)

    def _judge(self, compiled: Compiled) -> Gate:
        said = _held_out(self._trained, compiled, self._bench)
        return _gate(compiled, said, self._reference, self._bench)


def _aware(train: Callable[[], bytes], offers: Offers) -> tuple[Attempt, ...]:
    """Train with int8's rounding, as one more way to int8."""
    assert isinstance(offers, NetRungs)
    try:
        return (offers.aware(train()),)
    except FieldloopError as error:
        return (Attempt("int8", None, str(error)),)


def _held_out(trained: Trained, compiled: Compiled, bench: Bench) -> Answers:
    if trained.held_out is not None:
        return trained.held_out(compiled.precision)
    return answers(compiled.tflite, compiled.signature, bench.validation.X)


def _offers(trained: Trained, bench: Bench) -> Offers:
    if not trained.is_net:
        return compiled_directly(trained.compile_to)
    return NetRungs(
        trained.compile_to,
        calibration=trained.calibration,
        rows=bench.validation.X,
        progress=bench.progress,
    )


def _gate(compiled: Compiled, said: Answers, reference: Answers | None, bench: Bench) -> Gate:
    truth = bench.validation.y
    if reference is None:
        return reference_gate(compiled.evidence.row_count, compiled.evidence.sentence)
    if bench.train.task == "regression":
        return regression_gate(
            truth.astype(np.float32),
            reference.predicted,
            said.predicted,
            epsilon=bench.epsilon,
            seed=bench.seed,
        )
    return classification_gate(
        truth.astype(np.int64), reference.predicted, said.predicted, epsilon=bench.epsilon
    )


def _measured(
    trained: Trained, compiled: Compiled, said: Answers, gate: Gate, bench: Bench
) -> Measured:
    score = estimate(bench.metric, bench.validation.y, said.predicted, seed=bench.seed)
    timings = latencies(compiled.tflite, compiled.signature, bench.validation.X)
    timed = timings.get(bench.target.runtime) or next(iter(timings.values()))
    facts = inspect(compiled.tflite)
    is_calibrated = compiled.precision in INTEGER and compiled.evidence.quantizer != QAT
    return Measured(
        candidate=trained.name,
        parameters=trained.parameters,
        precision=compiled.precision,
        metric=bench.metric,
        score=score.value,
        score_low=score.low,
        score_high=score.high,
        size_bytes=len(compiled.tflite),
        latency_p50_ms=timed.p50_ms,
        latency_p90_ms=timed.p90_ms,
        train_s=trained.train_s,
        gate=gate,
        min_runtime=facts.min_runtime,
        latency_by_runtime={name: one.p50_ms for name, one in timings.items()},
        arena_bytes=facts.arena_bytes,
        quantizer=compiled.evidence.quantizer,
        kept_float=compiled.evidence.kept_float,
        warnings=compiled.evidence.warnings,
        history=trained.history,
        calibration_sha256=calibration_sha256(trained.calibration) if is_calibrated else "",
    )


def _within(measured: Measured, compiled: Compiled, model: Any, target: Target) -> Scored:
    """Judge a measured variant against the device's limits."""
    broken = "; ".join(over.text for over in overruns(measured, target))
    fields = {field: getattr(measured, field) for field in Measured.__struct_fields__}
    return Scored(**{**fields, "over_budget": broken}, compiled=compiled, model=model)
