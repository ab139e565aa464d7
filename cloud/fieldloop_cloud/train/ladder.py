"""Climbing the precision ladder with one trained candidate: compile, measure, gate.

The first rung is the float32 reference; each further one is compared with it on the validation
rows. What does not compile is skipped with its reason.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fieldloop.errors import GateError, ModelRuntimeError, UnsupportedError
from fieldloop.manifest import Precision
from fieldloop_cloud.compile.compiled import Compiled
from fieldloop_cloud.compile.inspect import inspect
from fieldloop_cloud.compile.quantize import (
    Gate,
    calibration_sha256,
    classification_gate,
    reference_gate,
    regression_gate,
)
from fieldloop_cloud.release.targets import Target
from fieldloop_cloud.select.choice import overruns
from fieldloop_cloud.select.scored import Measured, Scored, Skipped
from fieldloop_cloud.train.bench import Bench
from fieldloop_cloud.train.measure import Answers, answers, latency
from fieldloop_cloud.train.metrics import estimate


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
    """

    name: str
    compile_to: Callable[[Precision], Compiled]
    parameters: dict[str, str]
    train_s: float
    model: Any
    calibration: NDArray[np.float32]


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
    scored: list[Scored] = []
    skipped: list[Skipped] = []
    reference: Answers | None = None
    steps = rungs(ladder, bench.target)
    for number, precision in enumerate(steps):
        name = f"{trained.name}.{precision}"
        bench.progress("measure", number / len(steps), f"measuring {name}")
        try:
            compiled = trained.compile_to(precision)
            said = answers(compiled.tflite, compiled.signature, bench.validation.X)
        except (UnsupportedError, GateError, ModelRuntimeError) as error:
            if reference is None:
                raise
            skipped.append(Skipped(name=name, reason=str(error)))
            continue
        gate = _gate(compiled, said, reference, bench)
        reference = reference or said
        measured = _measured(trained, compiled, said, gate, bench)
        scored.append(_within(measured, compiled, trained.model, bench.target))
    return scored, skipped


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
    timed = latency(compiled.tflite, compiled.signature, bench.validation.X)
    is_calibrated = compiled.precision in ("int8", "int16x8")
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
        min_runtime=inspect(compiled.tflite).min_runtime,
        calibration_sha256=calibration_sha256(trained.calibration) if is_calibrated else "",
    )


def _within(measured: Measured, compiled: Compiled, model: Any, target: Target) -> Scored:
    """Judge a measured variant against the device's limits."""
    broken = "; ".join(over.text for over in overruns(measured, target))
    fields = {field: getattr(measured, field) for field in Measured.__struct_fields__}
    return Scored(**{**fields, "over_budget": broken}, compiled=compiled, model=model)
