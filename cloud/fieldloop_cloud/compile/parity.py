"""Compare a compiled model with its original, and refuse it if anything was lost.

Compared are the user's rows and adversarial probes made from them (`compile.probes`). Reference is
what scikit-learn answers for the very numbers that the model's input tensor stands for: float32
rows, or for an int8 input the rows after quantization. What the input's quantization itself
changes is counted apart.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fieldloop.errors import DataError, GateError, UnsupportedError
from fieldloop.signature import OutputRole, Signature
from fieldloop_cloud.compile.comparison import (
    Compared,
    changed_labels,
    compare,
    limit_of,
    steepness,
)
from fieldloop_cloud.compile.compiled import Compiled, Evidence
from fieldloop_cloud.compile.inspect import inspect
from fieldloop_cloud.compile.originals import answered, ask, ask_all
from fieldloop_cloud.compile.probes import probes_for
from fieldloop_cloud.compile.rows import Rows, table_of
from fieldloop_cloud.compile.unsteady import movement, rounding_ops

LABEL_CHANGES = {"float32": 0.0, "float16": 0.01, "int8": 0.02}
"""Largest share of rows whose label may differ; ties of the original do not count."""

LOST_LABELS = LABEL_CHANGES["int8"]
"""Largest share of labels that rounding the input to the tensor's type may change.

A stated limit, chosen and not derived: the same share that int8 weights may change, so that an int8
model answers at most twice this share of rows differently. A feature whose rows crowd into few of
its 256 codes exceeds it and is refused; float16 and float32 do not round the input this way. The
evidence shows the number of labels that were changed."""

MOVED_VALUE = 0.1
"""Largest root mean square, in standard deviations, by which it may move a value.

R² then loses at most 0.1² = 0.01, the counterpart of a point of accuracy; stated as above."""

TINY = 1e-12

MAX_ROWS = 1000
"""More rows than these are thinned out evenly."""


def check(
    compiled: Compiled,
    model: Any,
    rows: Rows,
    *,
    name: str,
    held_out: Any = None,
    thresholds: Sequence[tuple[int, float]] = (),
    unsteady: bool = False,
    ties: Sequence[Callable[[NDArray[Any]], NDArray[np.bool_]]] = (),
) -> Evidence:
    """Return the evidence, or refuse.

    Args:
        compiled: The model with its flatbuffer (its evidence is ignored).
        model: The original.
        rows: The form of its rows.
        name: The original's, for the evidence.
        held_out: Raw rows to compare on; None: the example.
        thresholds: (input column, input number) pairs that the graph compares with.
        unsteady: Whether the original may jump within float32's rounding; then the rows on which it
            does are found, and held to no more than it itself holds (`compile.unsteady`).
        ties: Functions that say for which rows an estimator inside the original has a tie.

    Raises:
        DataError: The original itself refuses the rows.
        GateError: The compiled model deviates beyond the limit; names the output and the cause.
    """
    raw = _thinned(rows.raw if held_out is None else table_of(held_out))
    real = rows.encode(raw)
    raw = _widened(raw, rows)
    signature = compiled.signature
    table = _through_input(compiled, real)
    expected = ask_all(model, rows, table, signature.outputs)
    if expected is None:
        raise DataError(
            "the original model itself refuses these rows",
            where="example",
            advice="Give rows that it can predict.",
        )
    probes = _through_input(compiled, probes_for(rows, signature, thresholds))
    probes, answers = answered(model, rows, probes, signature.outputs)
    count = len(real)
    joined = {name: np.concatenate([expected[name], answers[name]]) for name in expected}
    steep = steepness(joined, count)
    every = np.concatenate([table, probes]).astype(np.float32)
    got = compiled.run_encoded(every)
    heard = _answering(got, signature, count)
    every, steep = every[heard], steep[heard]
    got = {name: answer[heard] for name, answer in got.items()}
    joined = {name: answer[heard] for name, answer in joined.items()}

    def compare_all(moved: dict[str, NDArray[np.float64]]) -> dict[str, Compared]:
        return {
            spec.name: compare(
                spec.role,
                joined[spec.name],
                got[spec.name],
                count=count,
                compiled=compiled,
                steep=steep,
                moved=moved.get(spec.name),
                each=len(signature.targets) > 1 and spec.target is None,
            )
            for spec in signature.outputs
            if spec.name in joined and spec.role != "label"
        }

    compared = compare_all({})
    changed, tied = changed_labels(joined, got, compared, len(every), signature.outputs)
    if (unsteady or ties) and compiled.precision == "float32":
        suspects = _suspects(compared, changed & ~tied)
        op_count = rounding_ops(inspect(compiled.tflite).op_counts)
        moved = _moved(model, rows, every, signature.outputs, suspects, op_count=op_count)
        for undecided in ties if len(suspects) else ():
            for sizes in moved.values():
                sizes[suspects[undecided(every[suspects])]] = np.inf
        compared = compare_all(moved)
        tied |= changed & np.any([moved[n] > 0 for n in moved if n.startswith("label")], axis=0)
    if compiled.precision != "float32":  # beyond their range only the exact form must agree
        changed, tied = changed[:count], tied[:count]
    evidence = Evidence(
        original=name,
        row_count=count,
        probe_count=len(every) - count,
        label_changes=int((changed & ~tied).sum()),
        tie_count=int(tied.sum()),
        deviation={name: found.deviation for name, found in compared.items()},
        limit={name: limit_of(name, compiled) for name in compared},
        input_label_changes=_lost_at_input(model, raw, rows.original(table), compiled),
    )
    _judge(evidence, compared, compiled, rows, len(changed))
    return evidence


def _through_input(compiled: Compiled, real: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the numbers that the input tensor stands for."""
    spec = compiled.signature.inputs[0]
    if not spec.is_quantized:
        return real
    if np.isnan(real).any():
        raise UnsupportedError(
            "an int8 input has no code for a missing value",
            where="held-out rows",
            advice="Use float32 or float16, or impute before the model.",
        )
    codes = compiled.codec.tensors(real)[0].astype(np.float64)
    real64 = (codes - np.array(spec.zero_point)) * np.array(spec.scale)
    return np.asarray(real64, np.float32)


def _suspects(compared: dict[str, Compared], changed: NDArray[np.bool_]) -> NDArray[np.intp]:
    """Return the rows that would have the model refused."""
    beyond = [found.beyond for found in compared.values()]
    return np.flatnonzero(np.any([changed, *beyond], axis=0))


def _answering(got: dict[str, NDArray[Any]], signature: Signature, count: int) -> NDArray[np.bool_]:
    """Leave out probes that overflow float32: the codec turns such an answer into an error."""
    heard = np.ones(len(next(iter(got.values()))), np.bool_)
    for spec in signature.outputs:
        if spec.role in {"probabilities", "value"}:
            heard &= np.isfinite(got[spec.name]).reshape(len(heard), -1).all(axis=1)
    heard[:count] = True
    return heard


def _moved(
    model: Any,
    rows: Rows,
    table: NDArray[np.float32],
    specs: Sequence[Any],
    suspects: NDArray[np.intp],
    *,
    op_count: int,
) -> dict[str, NDArray[np.float64]]:
    """How far the original's answers for suspects move within float32's rounding; 0 for others."""
    found = movement(
        lambda nudged: ask_all(model, rows, nudged, specs),
        table[suspects],
        rows.example,
        op_count=op_count,
    )
    moved = {spec.name: np.zeros(len(table)) for spec in specs}
    for name, sizes in found.items():
        moved[name][suspects] = sizes
    return moved


def _thinned(raw: Any) -> Any:
    places = np.linspace(0, len(raw) - 1, min(len(raw), MAX_ROWS)).astype(int)
    return raw.iloc[places] if hasattr(raw, "iloc") else raw[places]


def _widened(raw: Any, rows: Rows) -> Any:
    """Return raw rows with float64 where the form asks for it and they have float32."""
    if not hasattr(raw, "iloc"):
        wide = getattr(raw, "dtype", None) == np.float32 and rows.dtypes[0] == np.float64
        return raw.astype(np.float64) if wide else raw
    pairs = zip(raw.columns, raw.dtypes, rows.dtypes, strict=True)
    return raw.astype(
        {name: np.float64 for name, has, asks in pairs if has == np.float32 and asks == np.float64}
    )


def _lost_at_input(model: Any, raw: Any, seen: Any, compiled: Compiled) -> int:
    """Count the labels that change because the rows are rounded on their way in; or refuse."""
    role: OutputRole = "label" if compiled.signature.output("label") else "value"
    if compiled.signature.output(role) is None:
        return 0
    before, after = (ask(model, role, table) for table in (raw, seen))
    if before is None or after is None:
        return 0
    lost = 0
    if role == "label":
        lost = int((before != after).reshape(len(before), -1).any(axis=1).sum())
        # A single row is no evidence, however few there are.
        is_lost = lost > max(1, LOST_LABELS * len(before))
        what = f"changes {lost} of {len(before)} labels (allowed: {LOST_LABELS:.0%})"
    else:
        moved = np.sqrt(np.mean((before - after) ** 2, axis=0))
        share = float(np.max(moved / np.maximum(before.std(axis=0), TINY)))
        is_lost = share > MOVED_VALUE
        what = f"moves the value by {share:.2g} of its standard deviation (allowed: {MOVED_VALUE})"
    if is_lost:
        is_int8 = compiled.signature.inputs[0].is_quantized
        raise GateError(
            f"rounding the input to {8 if is_int8 else 32} bits {what}",
            where=compiled.signature.inputs[0].name,
            advice="Use float16 or float32, or narrow the features' ranges."
            if is_int8
            else "Subtract a constant from features that lie far from zero, before training.",
        )
    return lost


def _judge(
    evidence: Evidence,
    compared: dict[str, Compared],
    compiled: Compiled,
    rows: Rows,
    count: int,
) -> None:
    precision = compiled.precision
    allowed = LABEL_CHANGES[precision]
    tolerated = max(allowed * count, 1.0 if allowed else 0.0)
    if evidence.label_changes > tolerated:
        raise GateError(
            f"{evidence.label_changes} of {count} labels differ from the original in {precision} "
            f"(allowed: {allowed:.0%})",
            where=evidence.original,
            advice=_advice(precision, rows),
        )
    for name, found in compared.items():
        if found.excess > 1.0:
            raise GateError(
                f"'{name}' deviates by {found.deviation:.3g} from the original in {precision} "
                f"({found.excess:.3g} times what is allowed)",
                where=f"{evidence.original}, compared row {found.row}",
                advice=_advice(precision, rows),
            )


def _advice(precision: str, rows: Rows) -> str:
    """Name the likely cause."""
    if precision != "float32":
        return f"The weights do not survive {precision}: use float32 for this model."
    with np.errstate(all="ignore"):
        spread = np.nanstd(rows.example.astype(np.float64), axis=0)
        ratio = np.abs(np.nanmean(rows.example, axis=0)) / np.maximum(spread, 1e-30)
    worst = int(np.nanargmax(ratio)) if len(ratio) else 0
    name = rows.names[worst] if rows.names else f"x{worst}"
    return (
        f"float32 is too coarse for these features; '{name}' lies {ratio[worst]:.3g} of its "
        "spreads from zero: scale the features, or subtract a constant before training."
    )
