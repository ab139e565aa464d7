"""One output of a compiled model against the original's: how far apart, and what is a tie."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fieldloop.errors import GateError
from fieldloop_cloud.compile.compiled import Compiled
from fieldloop_cloud.compile.probes import BEYOND

LIMITS = {"float32": 2e-5, "float16": 2e-2, "int8": 5e-2}
"""Deviation by precision, relative to the size of the output: in float32 of every row and probe,
in reduced precision the root mean square over the user's rows."""

PROBABILITY_LIMITS = {"float32": 1e-5, "float16": 2e-2, "int8": 5e-2}
"""The same for probabilities, absolute."""

LARGEST = 3e38
"""Just below the end of float32."""

DUST = 0.01
"""A transformed column smaller than this share of the largest one is judged as if it were not."""

LARGE_DECISION = PROBABILITY_LIMITS["float32"] / 2.0**-23
"""From this size on (84) float32's own steps between decisions are larger than the limit for
probabilities. Neither softmax nor the logistic function passes on more than a quarter of such a
step, but a decision sums up several terms of its size; one step is what a probability may follow.
"""


@dataclass(frozen=True)
class Compared:
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


def limit_of(role: str, compiled: Compiled) -> float:
    """Return the relative (for probabilities absolute) deviation allowed for an output."""
    table = PROBABILITY_LIMITS if role.startswith("probabilities") else LIMITS
    return table[compiled.precision]


def steepness(expected: dict[str, NDArray[Any]], count: int) -> NDArray[np.float64]:
    """How much coarser float32 makes each row's probabilities where logits are large, at least 1.

    A row is judged by its own logits, or by the usual ones if larger: near a boundary the terms
    of a sum are large though their sum is not. One row of giants is no excuse for the others.

    Args:
        expected: The original's answers by output, the user's rows first.
        count: How many rows are the user's.
    """
    length = len(next(iter(expected.values())))
    decision = np.abs(np.nan_to_num(expected.get("decision", np.zeros(length)).astype(np.float64)))
    own = decision.reshape(length, -1).max(axis=1, initial=0.0)
    usual = float(np.median(own[:count])) if count else 0.0
    return np.asarray(np.maximum(1.0, np.maximum(own, usual) / LARGE_DECISION))


def compare(
    role: str | None,
    want: NDArray[Any],
    got: NDArray[Any],
    *,
    count: int,
    compiled: Compiled,
    steep: NDArray[np.float64],
    moved: NDArray[np.float64] | None = None,
    each: bool = False,
) -> Compared:
    """Compare one output; its size is that of the user's rows, or the row's own if larger.

    Args:
        role: What it means.
        want: The original's, user's rows first.
        got: The compiled model's.
        count: How many rows are the user's.
        compiled: The compiled model.
        steep: From `steepness`, (n,).
        moved: How far each row of the original moves within float32's rounding.
        each: Whether each column answers for a target of its own.
    """
    # Far out, what float32 cannot hold is the same as its largest number; not in the user's rows.
    a = np.clip(want.reshape(len(want), -1).astype(np.float64), -LARGEST, LARGEST)
    b = np.clip(got.reshape(len(got), -1).astype(np.float64), -LARGEST, LARGEST)
    if a.shape != b.shape:
        raise GateError(
            f"the compiled model gives {b.shape} where the original gives {a.shape}",
            where=str(role),
            advice="Report this estimator; use float32 logits of your own meanwhile.",
        )
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    difference = np.where(same, 0.0, np.abs(a - b))
    difference = np.where(np.isnan(difference), np.inf, difference)
    lost = np.isfinite(want.reshape(a.shape)) & ~np.isfinite(got.reshape(b.shape))
    difference[:count] = np.where(lost[:count], np.inf, difference[:count])
    finite = np.where(np.isfinite(a), np.abs(a), 0.0)
    if role == "probabilities":
        size = steep[:, None] if compiled.precision == "float32" else np.ones((len(a), 1))
    else:
        usual = finite[:count].max(initial=0.0)
        if role == "value":  # each target has a size of its own
            usual = finite[:count].max(axis=0, initial=0.0)
        if role == "transformed":  # columns may be of different size; one of dust counts as larger
            usual = np.maximum(finite[:count].max(axis=0, initial=0.0), DUST * usual)
        floor = 1.0 if role == "decision" else np.finfo(np.float32).tiny
        size = np.maximum(np.maximum(usual, finite), floor)
    allowed = np.broadcast_to(limit_of(str(role), compiled) * size, (len(a), size.shape[1])).copy()
    # A probe lies up to BEYOND ranges outside; float32 is coarser there by as much.
    allowed[count:] *= 1.0 + BEYOND
    if moved is not None:
        allowed += moved[:, None]
    excess = difference / allowed
    exact = compiled.precision == "float32"
    worst = excess.max(initial=0.0) if exact else np.sqrt(np.mean(excess[:count] ** 2))
    row = int(excess.max(axis=1, initial=0.0).argmax()) if excess.size else 0
    return Compared(
        deviation=float(difference.max(initial=0.0)),
        excess=float(worst),
        row=row,
        margin=_margin_of_each(role, a) if each else _margin(role, a),
        tie=_tie(role, finite, count=count, steep=steep) + (0.0 if moved is None else 2 * moved),
        beyond=np.asarray((excess > 1.0).any(axis=1)),
    )


def _tie(
    role: str | None, size: NDArray[np.float64], *, count: int, steep: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Twice float32's limit at the size of each row, in any precision.

    A row's own size counts, or the usual one: one row of giants is no excuse for the others.
    """
    if role == "probabilities":
        tie = 2 * PROBABILITY_LIMITS["float32"] * steep
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


def _margin_of_each(role: str | None, answer: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """The same where every column decides about a target by itself."""
    if role not in {"probabilities", "decision"}:
        return None
    threshold = 0.5 if role == "probabilities" else 0.0
    return np.asarray(np.abs(answer - threshold).min(axis=1))


def changed_labels(
    expected: dict[str, NDArray[Any]],
    got: dict[str, NDArray[Any]],
    compared: dict[str, Compared],
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
