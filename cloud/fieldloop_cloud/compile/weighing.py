"""Weighing variants against the float32 reference: answers, size, memory, latency, and the device.

Variants are compared row by row, target by target, through codec and interpreter; the verdict on
the worst target counts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from fieldloop.errors import DataError, ModelRuntimeError, SignatureError
from fieldloop.manifest import Precision
from fieldloop.signature import Category, Signature
from fieldloop_cloud.compile.compiled import Compiled, Rung
from fieldloop_cloud.compile.inspect import inspect
from fieldloop_cloud.compile.quantize import (
    Gate,
    classification_gate,
    reference_gate,
    regression_gate,
)
from fieldloop_cloud.compile.rungs import Attempt
from fieldloop_cloud.release.targets import Target, version_tuple
from fieldloop_cloud.train.measure import answers, answers_of_targets, latencies

MAX_ROWS = 5000
"""More rows than these are thinned out evenly; they prove far more than any usual epsilon."""

MIN_VALUES = 30
"""With fewer rows a bootstrap of values proves nothing."""


Truth = Sequence[Any] | Mapping[str, Sequence[Any]]
"""The right labels or values of rows; of several targets by the target's name."""


@dataclass(frozen=True, slots=True, eq=False)
class Scale:
    """What every rung is weighed with.

    Attributes:
        rows: Encoded rows to compare on.
        truth: What is right for them, one array for each column that is compared.
        wanted: What the reference says.
        reference: Its own gate.
        epsilon: The largest loss allowed.
        target: The device class, if one is given.
    """

    rows: NDArray[np.float32]
    truth: list[NDArray[np.generic]]
    wanted: list[NDArray[np.generic]]
    reference: Gate
    epsilon: float
    target: Target | None

    @classmethod
    def of(
        cls,
        reference: Compiled,
        rows: NDArray[np.float32],
        truth: Truth | None,
        *,
        epsilon: float,
        target: Target | None,
    ) -> "Scale":
        """Weigh against a reference; arguments as for `smallest_proven`."""
        numbers = _thinned(len(rows))
        held_out = rows[numbers]
        wanted = _columns(reference, held_out)
        right = wanted
        if truth is not None:
            right = [one[numbers] for one in _encoded(reference.signature, truth, len(rows))]
        gate = reference_gate(reference.evidence.row_count, reference.evidence.sentence)
        return cls(held_out, right, wanted, gate, epsilon, target)

    def judge(self, compiled: Compiled) -> Gate:
        """Judge every column and return the verdict on the worst."""
        said = _columns(compiled, self.rows)
        gates = [
            _column_gate(right, reference, variant, self.epsilon)
            for right, reference, variant in zip(self.truth, self.wanted, said, strict=True)
        ]
        return max(gates, key=lambda gate: (not gate.passed, gate.drop_high))

    def best(self, precision: Precision, ways: Sequence[Attempt]) -> tuple[Rung, Compiled | None]:
        """Return the better of the ways to a precision; of proven ones the one that costs least."""
        made: list[tuple[Rung, Compiled]] = []
        reasons = []
        for way in ways:
            try:
                if way.compiled is None:
                    reasons.append(way.reason)
                else:
                    made.append((self.rung(way.compiled, self.judge(way.compiled)), way.compiled))
            except (ModelRuntimeError, SignatureError) as error:
                reasons.append(str(error))
        if not made:
            return Rung(precision=precision, reason="; ".join(dict.fromkeys(reasons))), None
        return min(
            made,
            key=lambda one: (
                one[0].gate is not None and not one[0].gate.passed,
                self.cost(one[0]),
            ),
        )

    def rung(self, compiled: Compiled, gate: Gate) -> Rung:
        """Measure a variant."""
        facts = inspect(compiled.tflite)
        timed = latencies(compiled.tflite, compiled.signature, self.rows)
        runtime = self.target.runtime if self.target is not None else ""
        mine = timed.get(runtime) or next(iter(timed.values()))
        misfit = self.misfit(compiled)
        return Rung(
            precision=compiled.precision,
            size_bytes=len(compiled.tflite),
            gate=gate,
            reason=f"{gate.reason}; but {misfit}" if misfit else gate.reason,
            arena_bytes=facts.arena_bytes,
            latency_p50_ms=mine.p50_ms,
            latency_by_runtime={name: one.p50_ms for name, one in timed.items()},
            min_runtime=facts.min_runtime,
            quantizer=compiled.evidence.quantizer,
            kept_float=compiled.evidence.kept_float,
            warnings=compiled.evidence.warnings,
        )

    def misfit(self, compiled: Compiled) -> str:
        """Say why the device does not run a variant; empty if it does, or none is given."""
        if self.target is None:
            return ""
        if compiled.precision not in self.target.precisions:
            return f"{self.target.name} runs {', '.join(self.target.precisions)} only"
        need = inspect(compiled.tflite).min_runtime
        if (version_tuple(need) or ()) > (version_tuple(self.target.runtime_version) or ()):
            return f"it needs TFLite {need}, {self.target.name} has {self.target.runtime_version}"
        if len(compiled.tflite) > self.target.max_model_bytes:
            limit = self.target.max_model_bytes
            return f"{self.target.name} takes {limit:,} bytes, not {len(compiled.tflite):,}"
        return ""

    def cost(self, rung: Rung) -> float:
        """Return what is to be as small as possible: latency on a device, else bytes."""
        if self.target is not None:
            return rung.latency_p50_ms or 0.0
        return float(rung.size_bytes or 0)


def _encoded(signature: Signature, truth: Truth, row_count: int) -> list[NDArray[np.generic]]:
    """Return the truth as the columns are: class indices, or numbers.

    Raises:
        DataError: It does not fit the rows or targets, or holds a label that the model lacks.
    """
    if len(signature.targets) < 2:  # noqa: PLR2004 - several
        only = next(iter(truth.values())) if isinstance(truth, Mapping) else truth
        return [_column(signature.labels, only, row_count)]
    names = [target.name for target in signature.targets]
    if not isinstance(truth, Mapping) or set(truth) != set(names):
        raise DataError(
            "the truth is not given for each of the model's targets",
            advice=f"Give a dict by target: {', '.join(names)}.",
        )
    return [_column(one.labels, truth[one.name], row_count) for one in signature.targets]


def _column(
    labels: Sequence[Category], truth: Sequence[Any], row_count: int
) -> NDArray[np.generic]:
    if len(truth) != row_count:
        raise DataError(
            f"{len(truth)} true answers do not fit {row_count} rows",
            advice="Give one for each row.",
        )
    if not labels:
        return np.asarray(truth, dtype=np.float64)
    known = {str(label): index for index, label in enumerate(labels)}
    unknown = sorted({str(label) for label in truth} - set(known))
    if unknown:
        raise DataError(
            f"the model knows no label {', '.join(unknown[:5])}",
            advice=f"Its labels are {', '.join(known)}.",
        )
    return np.array([known[str(label)] for label in truth], dtype=np.int64)


def _thinned(row_count: int) -> NDArray[np.int64]:
    return np.linspace(0, row_count - 1, min(row_count, MAX_ROWS)).astype(np.int64)


def _columns(compiled: Compiled, rows: NDArray[np.float32]) -> list[NDArray[np.generic]]:
    """Return what is compared: the label or value, of each target where there are several."""
    said = answers(compiled.tflite, compiled.signature, rows)
    each = answers_of_targets(compiled.signature, said)
    if each:
        return [one.predicted for one in each]
    if not np.isnan(said.predicted).any():
        return [said.predicted]
    several = said.outputs[0]
    return list(several.reshape(len(several), -1).T)


def _column_gate(
    truth: NDArray[np.generic],
    reference: NDArray[np.generic],
    variant: NDArray[np.generic],
    epsilon: float,
) -> Gate:
    if reference.dtype.kind in "iub":
        return classification_gate(
            truth.astype(np.int64),
            reference.astype(np.int64),
            variant.astype(np.int64),
            epsilon=epsilon,
        )
    values, made = reference.astype(np.float64), variant.astype(np.float64)
    if values.min() == values.max():  # no spread to measure by: count the rows that moved
        moved = np.abs(made - values) > epsilon * np.abs(values)
        same = np.zeros(len(values), dtype=np.int64)
        return classification_gate(same, same, moved.astype(np.int64), epsilon=epsilon)
    gate = regression_gate(
        truth.astype(np.float32),
        values.astype(np.float32),
        made.astype(np.float32),
        epsilon=epsilon,
    )
    if gate.passed and len(values) < MIN_VALUES:
        reason = f"not proven: n = {len(values)}; at least {MIN_VALUES} rows are needed"
        return msgspec.structs.replace(gate, verdict="not proven", reason=reason)
    return gate
