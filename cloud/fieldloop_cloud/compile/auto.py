"""`precision="auto"`: the smallest precision that is proven to answer as the original does.

Every rung of the ladder is compiled and compared with the float32 reference, row by row, through
codec and interpreter. The reference has passed its comparison with the original, so its labels are
the original's and stand for the truth. Nothing is taken on trust: without proof it is float32.
"""

import dataclasses
from collections.abc import Callable, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from fieldloop.errors import GateError, ModelRuntimeError, SignatureError, UnsupportedError
from fieldloop.manifest import Precision
from fieldloop_cloud.compile.compiled import Compiled, Rung
from fieldloop_cloud.compile.quantize import (
    Gate,
    classification_gate,
    reference_gate,
    regression_gate,
)
from fieldloop_cloud.train.measure import Answers, answers

MAX_ROWS = 5000
"""More rows than these are thinned out evenly; they prove far more than any usual epsilon."""

MIN_VALUES = 30
"""With fewer rows a bootstrap of values proves nothing."""


def smallest_proven(
    compile_to: Callable[[Precision], Compiled],
    rows: Callable[[], NDArray[np.float32]],
    ladder: Sequence[Precision],
    *,
    epsilon: float,
) -> Compiled:
    """Climb the ladder and return the smallest accepted flatbuffer; `evidence.rungs` tells why.

    Args:
        compile_to: Makes the flatbuffer of a precision, or raises.
        rows: Gives the encoded rows to compare on, once the reference is compiled.
        ladder: Precisions, float32 first.
        epsilon: Largest share of labels, or loss of R², that may differ from the original.

    Raises:
        FieldloopError: The float32 reference itself cannot be had.
    """
    reference = compile_to(ladder[0])
    held_out = _thinned(rows())
    wanted = _columns(_said(reference, held_out))
    gate = reference_gate(reference.evidence.row_count, reference.evidence.sentence)
    rungs = [_rung(reference, gate)]
    best = reference
    for precision in ladder[1:]:
        try:
            compiled = compile_to(precision)
            said = _columns(_said(compiled, held_out))
        except (UnsupportedError, GateError, ModelRuntimeError, SignatureError) as error:
            rungs.append(Rung(precision=precision, reason=str(error)))
            continue
        gate = _gate(wanted, said, epsilon)
        rungs.append(_rung(compiled, gate))
        if gate.passed and len(compiled.tflite) < len(best.tflite):
            best = compiled
    return dataclasses.replace(
        best, evidence=msgspec.structs.replace(best.evidence, rungs=tuple(rungs))
    )


def _rung(compiled: Compiled, gate: Gate) -> Rung:
    return Rung(
        precision=compiled.precision,
        size_bytes=len(compiled.tflite),
        gate=gate,
        reason=gate.reason,
    )


def _thinned(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    if len(rows) <= MAX_ROWS:
        return rows
    return rows[np.linspace(0, len(rows) - 1, MAX_ROWS).astype(np.int64)]


def _said(compiled: Compiled, rows: NDArray[np.float32]) -> Answers:
    return answers(compiled.tflite, compiled.signature, rows)


def _columns(said: Answers) -> list[NDArray[np.generic]]:
    """Return what is compared: the label or value, or every value where there are several."""
    if not np.isnan(said.predicted).any():
        return [said.predicted]
    several = said.outputs[0]
    return list(several.reshape(len(several), -1).T)


def _gate(
    wanted: list[NDArray[np.generic]], said: list[NDArray[np.generic]], epsilon: float
) -> Gate:
    """Judge every column and return the verdict on the worst."""
    gates = [
        _column_gate(reference, variant, epsilon)
        for reference, variant in zip(wanted, said, strict=True)
    ]
    return max(gates, key=lambda gate: (not gate.passed, gate.drop_high))


def _column_gate(
    reference: NDArray[np.generic], variant: NDArray[np.generic], epsilon: float
) -> Gate:
    if reference.dtype.kind in "iub":
        truth = reference.astype(np.int64)
        return classification_gate(truth, truth, variant.astype(np.int64), epsilon=epsilon)
    values, made = reference.astype(np.float64), variant.astype(np.float64)
    if values.min() == values.max():  # no spread to measure by: count the rows that moved
        moved = np.abs(made - values) > epsilon * np.abs(values)
        same = np.zeros(len(values), dtype=np.int64)
        return classification_gate(same, same, moved.astype(np.int64), epsilon=epsilon)
    gate = regression_gate(
        values.astype(np.float32),
        values.astype(np.float32),
        made.astype(np.float32),
        epsilon=epsilon,
    )
    if gate.passed and len(values) < MIN_VALUES:
        reason = f"not proven: n = {len(values)}; at least {MIN_VALUES} rows are needed"
        return msgspec.structs.replace(gate, verdict="not proven", reason=reason)
    return gate
