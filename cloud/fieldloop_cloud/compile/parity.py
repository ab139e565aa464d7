"""Compare a compiled model with its original, and refuse it if anything was lost.

Compared are the user's rows and adversarial probes made from them (`compile.probes`). Reference is
what scikit-learn answers for the very numbers that the model's input tensor stands for: float32
rows, or for an int8 input the rows after quantization. What the input's quantization itself
changes is counted apart.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fieldloop.errors import DataError, GateError
from fieldloop_cloud.compile.compiled import Compiled, Evidence
from fieldloop_cloud.compile.probes import BEYOND, probes_for
from fieldloop_cloud.compile.rows import Rows
from fieldloop_cloud.compile.unsteady import movement
from fieldloop_cloud.compile.value import host_array

LIMITS = {"float32": 2e-5, "float16": 2e-2, "int8": 5e-2}
"""Deviation by precision, relative to the size of the output: in float32 of every row and probe,
in reduced precision the root mean square over the user's rows."""

PROBABILITY_LIMITS = {"float32": 1e-5, "float16": 2e-2, "int8": 5e-2}
"""The same for probabilities, absolute."""

DUST = 0.01
"""A transformed column smaller than this share of the largest one is judged as if it were not."""

LARGE_DECISION = 100.0
"""Decisions above this are coarser than the limits in float32; probabilities may follow them."""

LABEL_CHANGES = {"float32": 0.0, "float16": 0.01, "int8": 0.02}
"""Largest share of rows whose label may differ; ties of the original do not count."""

MAX_ROWS = 1000
"""More rows than these are thinned out evenly."""

METHODS: dict[str, tuple[str, ...]] = {
    "label": ("predict",),
    "probabilities": ("predict_proba",),
    "decision": ("decision_function",),
    "value": ("predict",),
    "transformed": ("transform",),
    "distances": ("transform", "kneighbors"),
    "score": ("score_samples",),
}
"""Where scikit-learn has the answer for each output."""


@dataclass(frozen=True)
class _Compared:
    """One output on all rows.

    Attributes:
        deviation: Largest absolute deviation.
        excess: Deviation in units of what is allowed; above 1 is too much. In float32 the largest
            one of all rows; in reduced precision the root mean square over the user's rows.
        row: Where that is.
        margin: For each row how far the original's choice is from another one; None if unknown.
        tie: For each row the margin below which float32 itself is undecided.
        beyond: For each row whether it deviates by more.
    """

    deviation: float
    excess: float
    row: int
    margin: NDArray[np.float64] | None
    tie: NDArray[np.float64]
    beyond: NDArray[np.bool_]


def check(
    compiled: Compiled,
    model: Any,
    rows: Rows,
    *,
    held_out: NDArray[np.float32] | None = None,
    thresholds: Sequence[tuple[int, float]] = (),
    unsteady: bool = False,
    ties: Sequence[Callable[[NDArray[Any]], NDArray[np.bool_]]] = (),
) -> Evidence:
    """Return the evidence, or refuse.

    Args:
        compiled: The model with its flatbuffer (its evidence is ignored).
        model: The original.
        rows: The form of its rows.
        held_out: Encoded rows to compare on; None: the example.
        thresholds: (input column, input number) pairs that the graph compares with.
        unsteady: Whether the original may jump within float32's rounding; then the rows on which it
            does are found, and held to no more than it itself holds (`compile.unsteady`).
        ties: Functions that say for which rows an estimator inside the original has a tie.

    Raises:
        DataError: The original itself refuses the rows.
        GateError: The compiled model deviates beyond the limit; names the output and the cause.
    """
    given = rows.example if held_out is None else held_out
    real = given[np.linspace(0, len(given) - 1, min(len(given), MAX_ROWS)).astype(int)]
    signature = compiled.signature
    table = _through_input(compiled, real)
    expected = _ask_all(model, rows, table, signature.outputs)
    if expected is None:
        raise DataError(
            "the original model itself refuses these rows",
            where="example",
            advice="Give rows that it can predict.",
        )
    probes = _through_input(compiled, probes_for(rows, signature, thresholds))
    probes, answers = _answered(model, rows, probes, signature.outputs)
    count = len(real)
    joined = {name: np.concatenate([expected[name], answers[name]]) for name in expected}
    steep = _steepness(joined, count)
    every = np.concatenate([table, probes]).astype(np.float32)
    got = compiled.run_encoded(every)

    def compare(moved: dict[str, NDArray[np.float64]]) -> dict[str, _Compared]:
        return {
            spec.name: _compare(
                spec.role,
                joined[spec.name],
                got[spec.name],
                count=count,
                compiled=compiled,
                steep=steep,
                moved=moved.get(spec.name),
            )
            for spec in signature.outputs
            if spec.name in joined and spec.role != "label"
        }

    compared = compare({})
    changed, tied = _labels(joined, got, compared, len(every), signature.outputs)
    if (unsteady or ties) and compiled.precision == "float32":
        suspects = _suspects(compared, changed & ~tied)
        moved = _moved(model, rows, every, signature.outputs, suspects)
        for undecided in ties if len(suspects) else ():
            for sizes in moved.values():
                sizes[suspects[undecided(every[suspects])]] = np.inf
        compared = compare(moved)
        tied |= changed & np.any([moved[n] > 0 for n in moved if n.startswith("label")], axis=0)
    if compiled.precision != "float32":  # beyond their range only the exact form must agree
        changed, tied = changed[:count], tied[:count]
    evidence = Evidence(
        original=f"{type(model).__module__.partition('.')[0]} {type(model).__name__}",
        row_count=count,
        probe_count=len(probes),
        label_changes=int((changed & ~tied).sum()),
        tie_count=int(tied.sum()),
        deviation={name: found.deviation for name, found in compared.items()},
        limit={name: _limit(name, compiled) for name in compared},
        input_label_changes=_lost_at_input(model, rows, real, table, signature),
    )
    _judge(evidence, compared, compiled, rows, len(changed))
    return evidence


def _through_input(compiled: Compiled, real: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the numbers that the input tensor stands for."""
    spec = compiled.signature.inputs[0]
    if not spec.is_quantized:
        return real
    codes = compiled.codec.tensors(real)[0].astype(np.float64)
    real64 = (codes - np.array(spec.zero_point)) * np.array(spec.scale)
    return np.asarray(real64, np.float32)


def ask(model: Any, role: str, raw: Any) -> NDArray[Any] | None:
    """Return scikit-learn's answer for an output, or None if it has no method for it."""
    for method in METHODS[role]:
        if hasattr(model, method):
            answer = getattr(model, method)(raw)
            if method == "kneighbors":
                answer = answer[0]
            if isinstance(answer, list):  # several targets: the first one
                answer = answer[0]
            if role == "label":
                labels = np.asarray(answer)
                is_column = labels.ndim > 1 and labels.shape[1] == 1  # CatBoost's way
                return labels[:, 0] if is_column else labels
            return host_array(answer)
    return None


def _ask_all(
    model: Any, rows: Rows, table: NDArray[np.float32], specs: Sequence[Any]
) -> dict[str, NDArray[Any]] | None:
    """Return the answer for each output; None if scikit-learn refuses a row."""
    raw = rows.original(table)
    answers = {}
    try:
        with np.errstate(all="ignore"):
            for spec in specs:
                answer = ask(model, spec.role, raw)
                if answer is not None:
                    answers[spec.name] = answer
    except ValueError:
        return None
    return answers


def _answered(
    model: Any, rows: Rows, table: NDArray[np.float32], specs: Sequence[Any]
) -> tuple[NDArray[np.float32], dict[str, NDArray[Any]]]:
    """Return the probes that scikit-learn answers (halving what it refuses), and the answers."""
    answers = _ask_all(model, rows, table, specs) if len(table) else None
    if answers is not None:
        return table, answers
    if len(table) <= 1:
        empty = _ask_all(model, rows, rows.example[:1], specs) or {}
        return table[:0], {name: answer[:0] for name, answer in empty.items()}
    half = len(table) // 2
    first, a = _answered(model, rows, table[:half], specs)
    second, b = _answered(model, rows, table[half:], specs)
    return np.concatenate([first, second]), {n: np.concatenate([a[n], b[n]]) for n in a}


def _limit(role: str, compiled: Compiled) -> float:
    table = PROBABILITY_LIMITS if role.startswith("probabilities") else LIMITS
    return table[compiled.precision]


def _steepness(expected: dict[str, NDArray[Any]], count: int) -> float:
    """How much coarser float32 makes probabilities whose logits are large, at least 1."""
    decision = np.abs(expected.get("decision", np.zeros(1))[:count])
    return max(1.0, float(decision.max(initial=0.0)) / LARGE_DECISION)


def _suspects(compared: dict[str, _Compared], changed: NDArray[np.bool_]) -> NDArray[np.intp]:
    """Return the rows that would have the model refused."""
    beyond = [found.beyond for found in compared.values()]
    return np.flatnonzero(np.any([changed, *beyond], axis=0))


def _moved(
    model: Any,
    rows: Rows,
    table: NDArray[np.float32],
    specs: Sequence[Any],
    suspects: NDArray[np.intp],
) -> dict[str, NDArray[np.float64]]:
    """How far the original's answers for suspects move within float32's rounding; 0 for others."""
    with np.errstate(all="ignore"):
        spread = np.nan_to_num(np.nanstd(rows.example.astype(np.float64), axis=0))
    found = movement(lambda nudged: _ask_all(model, rows, nudged, specs), table[suspects], spread)
    moved = {spec.name: np.zeros(len(table)) for spec in specs}
    for name, sizes in found.items():
        moved[name][suspects] = sizes
    return moved


def _compare(
    role: str | None,
    want: NDArray[Any],
    got: NDArray[Any],
    *,
    count: int,
    compiled: Compiled,
    steep: float,
    moved: NDArray[np.float64] | None = None,
) -> _Compared:
    """Compare one output; its size is that of the user's rows, or the row's own if larger."""
    with np.errstate(over="ignore"):  # what float32 cannot hold is infinite here and there
        a = want.reshape(len(want), -1).astype(np.float32).astype(np.float64)
    b = got.reshape(len(got), -1).astype(np.float64)
    if a.shape != b.shape:
        raise GateError(
            f"the compiled model gives {b.shape} where the original gives {a.shape}",
            where=str(role),
            advice="Report this estimator; use float32 logits of your own meanwhile.",
        )
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    difference = np.where(same, 0.0, np.abs(a - b))
    difference = np.where(np.isnan(difference), np.inf, difference)
    finite = np.where(np.isfinite(a), np.abs(a), 0.0)
    if role == "probabilities":
        size = np.full((len(a), 1), steep)
    else:
        usual = finite[:count].max(initial=0.0)
        if role == "transformed":  # columns may be of different size; one of dust counts as larger
            usual = np.maximum(finite[:count].max(axis=0, initial=0.0), DUST * usual)
        floor = 1.0 if role == "decision" else np.finfo(np.float32).tiny
        size = np.maximum(np.maximum(usual, finite), floor)
    allowed = np.broadcast_to(_limit(str(role), compiled) * size, (len(a), size.shape[1])).copy()
    # A probe lies up to BEYOND ranges outside; float32 is coarser there by as much.
    allowed[count:] *= 1.0 + BEYOND
    if moved is not None:
        allowed += 4 * moved[:, None]
    excess = difference / allowed
    exact = compiled.precision == "float32"
    worst = excess.max(initial=0.0) if exact else np.sqrt(np.mean(excess[:count] ** 2))
    row = int(excess.max(axis=1, initial=0.0).argmax()) if excess.size else 0
    return _Compared(
        deviation=float(difference.max(initial=0.0)),
        excess=float(worst),
        row=row,
        margin=_margin(role, a),
        tie=_tie(role, finite, count=count, steep=steep) + (0.0 if moved is None else 8 * moved),
        beyond=np.asarray((excess > 1.0).any(axis=1)),
    )


def _tie(
    role: str | None, size: NDArray[np.float64], *, count: int, steep: float
) -> NDArray[np.float64]:
    """Twice float32's limit at the size of each row, in any precision.

    A row's own size counts, or the usual one: one row of giants is no excuse for the others.
    """
    if role == "probabilities":
        tie = np.full(len(size), 2 * PROBABILITY_LIMITS["float32"] * steep)
    else:
        own = size.max(axis=1, initial=0.0)
        usual = float(np.median(own[:count])) if count else 0.0
        floor = 1.0 if role == "decision" else 0.0
        tie = 2 * LIMITS["float32"] * np.maximum(np.maximum(own, usual), floor)
    tie[count:] *= 1.0 + BEYOND
    return tie


def _margin(role: str | None, answer: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """How far each row's choice is from the next one."""
    if role == "decision" and answer.shape[1] == 1:
        return np.abs(answer[:, 0])
    if role in {"probabilities", "decision"} and answer.shape[1] > 1:
        ordered = np.sort(answer, axis=1)
        gap = ordered[:, -1] - ordered[:, -2]
        # One-vs-one decisions vote: any of them near zero may turn a vote.
        return np.minimum(gap, np.abs(answer).min(axis=1)) if role == "decision" else gap
    if role == "distances" and answer.shape[1] > 1:
        ordered = np.sort(answer, axis=1)
        return np.asarray(ordered[:, 1] - ordered[:, 0])
    return None


def _labels(
    expected: dict[str, NDArray[Any]],
    got: dict[str, NDArray[Any]],
    compared: dict[str, _Compared],
    count: int,
    specs: Sequence[Any],
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return (label differs, and the original is undecided there)."""
    changed = np.zeros(count, np.bool_)
    for spec in specs:
        if spec.role == "label" and spec.name in expected:
            differs = np.asarray(expected[spec.name] != got[spec.name])
            changed |= differs.reshape(count, -1).any(axis=1)
    undecided = np.zeros(count, np.bool_)
    for found in compared.values():
        if found.margin is not None:
            undecided |= found.margin <= found.tie
    return changed, changed & undecided


def _lost_at_input(
    model: Any, rows: Rows, real: NDArray[Any], seen: NDArray[Any], signature: Any
) -> int:
    if not signature.inputs[0].is_quantized or signature.output("label") is None:
        return 0
    before, after = (ask(model, "label", rows.original(table)) for table in (real, seen))
    return int((before != after).sum()) if before is not None and after is not None else 0


def _judge(
    evidence: Evidence,
    compared: dict[str, _Compared],
    compiled: Compiled,
    rows: Rows,
    count: int,
) -> None:
    precision = compiled.precision
    allowed = LABEL_CHANGES[precision]
    if evidence.label_changes > allowed * count:
        raise GateError(
            f"{evidence.label_changes} of {count} labels differ from the original in {precision} "
            f"(allowed: {allowed:.0%})",
            where=evidence.original,
            advice=_advice(precision, rows),
        )
    lost = evidence.input_label_changes
    if lost > allowed * max(evidence.row_count, 1):
        raise GateError(
            f"rounding the input to 8 bits changes {lost} of {evidence.row_count} labels "
            f"(allowed: {allowed:.0%})",
            where=evidence.original,
            advice="Use float16 or float32, or narrow the features' ranges.",
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
