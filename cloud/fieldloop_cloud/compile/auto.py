"""`precision="auto"`: the precision that is proven to answer as the original does, and costs least.

Every rung of the ladder is compiled and compared with the float32 reference, row by row, through
codec and interpreter. The reference has passed its comparison with the original, so its labels are
the original's and stand for the truth where the user gave none. Nothing is taken on trust: without
proof it is float32. Without a device the smallest proven file is taken; for a device the fastest
one that it runs.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from fieldloop.errors import DataError, GateError, ModelRuntimeError, SignatureError
from fieldloop.manifest import Precision
from fieldloop.signature import Category, Signature
from fieldloop_cloud.compile.compiled import Compiled, Rung
from fieldloop_cloud.compile.inspect import inspect
from fieldloop_cloud.compile.quantize import (
    RESCUES,
    Gate,
    classification_gate,
    needs_rescue,
    reference_gate,
    regression_gate,
)
from fieldloop_cloud.compile.rungs import Attempt, Judge, Offers
from fieldloop_cloud.release.targets import Target, version_tuple
from fieldloop_cloud.train.measure import answers, answers_of_targets, latency

MAX_ROWS = 5000
"""More rows than these are thinned out evenly; they prove far more than any usual epsilon."""

MIN_VALUES = 30
"""With fewer rows a bootstrap of values proves nothing."""


Truth = Sequence[Any] | Mapping[str, Sequence[Any]]
"""The right labels or values of rows; of several targets by the target's name."""


def smallest_proven(
    offers: Offers,
    rows: Callable[[], NDArray[np.float32]],
    ladder: Sequence[Precision],
    *,
    epsilon: float,
    truth: Truth | None = None,
    target: Target | None = None,
) -> Compiled:
    """Climb the ladder and return the best accepted flatbuffer; `evidence.rungs` tells why.

    Args:
        offers: Gives every way to a precision.
        rows: Gives the encoded rows to compare on, once the reference is compiled.
        ladder: Precisions, float32 first.
        epsilon: Largest share of labels, or loss of R², that may be lost.
        truth: Labels or values of the rows; None: what the reference says.
        target: The device class; None: the smallest file is taken, whatever would run it.

    Raises:
        GateError: Nothing that the device runs is proven.
        FieldloopError: The float32 reference itself cannot be had.
    """
    reference = offers("float32", _none_yet)[0].compiled
    assert reference is not None
    whole = rows()
    scale = _Scale.of(reference, whole, truth, epsilon=epsilon, target=target)
    rungs = [scale.rung(reference, scale.reference)]
    accepted = [] if scale.misfit(reference) else [(rungs[0], reference)]
    gates: dict[Precision, Gate | None] = {}
    for precision in ladder[1:]:
        if target is not None and precision not in target.precisions:
            continue
        if precision in RESCUES and not needs_rescue(gates.get("int8")):
            continue
        rung, compiled = scale.best(precision, offers(precision, scale.judge))
        rungs.append(rung)
        gates[precision] = rung.gate
        if compiled is not None and rung.gate is not None and rung.gate.passed:
            accepted += [] if scale.misfit(compiled) else [(rung, compiled)]
    if not accepted:
        raise _nothing_fits(rungs, target)
    best = min(accepted, key=lambda one: scale.cost(one[0]))[1]
    return dataclasses.replace(
        best, evidence=msgspec.structs.replace(best.evidence, rungs=tuple(rungs))
    )


def at_precision(
    offers: Offers,
    rows: Callable[[], NDArray[np.float32]],
    ladder: Sequence[Precision],
    *,
    epsilon: float,
    truth: Truth | None = None,
    target: Target | None = None,
) -> Compiled:
    """Compile to the one precision that the user wants, by the better way, proven or not.

    Args:
        offers: Gives every way to a precision.
        rows: Gives the encoded rows to compare on.
        ladder: The precision.
        epsilon: Largest loss for `accepted` in the evidence, and for `mixed` to stop at.
        truth: As for `smallest_proven`.
        target: As for `smallest_proven`.

    Raises:
        GateError: There is no way to it; for `mixed`, none that loses so little.
    """
    reference = offers("float32", _none_yet)[0].compiled
    assert reference is not None
    scale = _Scale.of(reference, rows(), truth, epsilon=epsilon, target=target)
    rung, compiled = scale.best(ladder[0], offers(ladder[0], scale.judge))
    if compiled is None:
        raise GateError(
            f"the model cannot be had in {ladder[0]}: {rung.reason}",
            where=ladder[0],
            advice="Take another precision, or auto.",
        )
    rungs = (scale.rung(reference, scale.reference), rung)
    return dataclasses.replace(
        compiled, evidence=msgspec.structs.replace(compiled.evidence, rungs=rungs)
    )


def judge_of(
    reference: Compiled,
    rows: NDArray[np.float32],
    truth: Truth | None = None,
    *,
    epsilon: float,
) -> Judge:
    """Return what compares variants with a float32 reference; arguments as above.

    Raises:
        DataError: The truth does not fit the rows.
    """
    return _Scale.of(reference, rows, truth, epsilon=epsilon, target=None).judge


def _none_yet(compiled: Compiled) -> Gate:
    raise AssertionError(compiled.precision)


@dataclass(frozen=True, slots=True, eq=False)
class _Scale:
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
    ) -> "_Scale":
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
        timed = latency(compiled.tflite, compiled.signature, self.rows)
        misfit = self.misfit(compiled)
        return Rung(
            precision=compiled.precision,
            size_bytes=len(compiled.tflite),
            gate=gate,
            reason=f"{gate.reason}; but {misfit}" if misfit else gate.reason,
            arena_bytes=facts.arena_bytes,
            latency_p50_ms=timed.p50_ms,
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


def _nothing_fits(rungs: Sequence[Rung], target: Target | None) -> GateError:
    reasons = "; ".join(f"{rung.precision}: {rung.reason}" for rung in rungs)
    return GateError(
        f"nothing that the device runs is proven: {reasons}",
        where=target.name if target else "",
        advice="Train with quantization in mind, bring more rows, or allow a larger epsilon.",
    )


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
