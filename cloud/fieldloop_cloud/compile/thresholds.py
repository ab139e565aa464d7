"""Move a tree's thresholds in front of the scaler, into the model's input.

A tree asks `value[c] <= threshold`, in float64 or after a cast to float32. If column c is a
non-decreasing function of one input column (`Value.raw`), the same question is `input[j] <= t` with
t the largest float32 whose image still passes. It is found by bisection over all float32 numbers,
against scikit-learn's own arithmetic, so every float32 input reaches the leaf it reaches there.
Columns without such a function are compared as they are, with the threshold rounded *down* to
float32: for float32 x, x <= threshold and x <= floor32(threshold) are the same question.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fieldloop_cloud.compile.tensor import Tensor
from fieldloop_cloud.compile.value import Value, host_array


@dataclass(frozen=True, slots=True)
class Folded:
    """Questions about the table.

    Attributes:
        columns: Column of `ThresholdTable.tensor` for each question, int32.
        thresholds: For a float32 table float32; for an int8 table int32 in -129 … 127 (-129: no
            code passes).
        nan_image: What a missing input (NaN) becomes in `value`, float64: NaN if it stays missing
            (the tree's own rule decides), a number if it is imputed on the way (compare it with
            the original threshold).
    """

    columns: NDArray[np.int32]
    thresholds: NDArray[Any]
    nan_image: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class ThresholdTable:
    """The table to compare, and the way to ask it a tree's questions.

    Attributes:
        value: What the tree was fitted on.
        tensor: float32 or int8 (-1, m): the model's input, with the columns appended that no
            monotone function leads to.
        place: For each column of `value` its column in `tensor`.
    """

    value: Value
    tensor: Tensor
    place: NDArray[np.int32]

    @classmethod
    def of(cls, value: Value) -> "ThresholdTable":
        """Lay out the table for `value`."""
        own = [c for c, raw in enumerate(value.raw) if raw is None]
        entrance = value.entrance
        place = np.array([0 if raw is None else raw for raw in value.raw], np.int32)
        if not own:
            return cls(value, entrance, place)
        if len(own) == value.width:
            return cls(value, value.tensor(), np.arange(value.width, dtype=np.int32))
        g = value.graph
        extra = value.take(own).tensor()
        place[own] = entrance.shape[1] + np.arange(len(own))
        return cls(value, g.concat([g.cast(entrance, "float32"), extra], axis=1), place)

    def fold(
        self,
        columns: Sequence[int] | NDArray[Any],
        thresholds: Sequence[float] | NDArray[Any],
        *,
        compared_as: Literal["float32", "float64"] = "float32",
    ) -> Folded:
        """Return the questions `value[column] <= threshold` as questions about `tensor`.

        Args:
            columns: Columns of `value`, (q,).
            thresholds: float64, (q,).
            compared_as: What the tree casts its input to before it compares.
        """
        at = np.asarray(columns, np.intp)
        limit = np.asarray(thresholds, np.float64)
        moved = np.empty(len(at), np.float64)
        missing = np.full(len(at), np.nan)
        raw = np.array([-1 if r is None else r for r in self.value.raw])[at]
        inside = raw >= 0
        if self.value.untouched and self.tensor.dtype == "float32":
            moved = floor32(limit).astype(np.float64)
        else:
            moved[raw < 0] = floor32(limit[raw < 0])
            moved[inside], missing[inside] = _bisect(
                self.value, at[inside], raw[inside], limit[inside], compared_as
            )
        self.value.probes.extend(zip(raw[inside].tolist(), moved[inside].tolist(), strict=True))
        kind: Any = np.int32 if self.tensor.dtype == "int8" else np.float32
        return Folded(self.place[at], moved.astype(kind), missing)

    def exceeds(
        self, columns: Sequence[int] | NDArray[Any], limits: Sequence[float] | NDArray[Any]
    ) -> Tensor:
        """Return `value[column] > limit` as scikit-learn decides it in float64, bool (-1, q).

        A missing value exceeds nothing, unless it is imputed on the way.
        """
        g = self.value.graph
        folded = self.fold(columns, limits, compared_as="float64")
        asked = g.gather(g.cast(self.tensor, "float32"), folded.columns, axis=1)
        above = g.greater(asked, folded.thresholds.astype(np.float32))
        imputed = folded.nan_image > np.asarray(limits)
        if not imputed.any():
            return above
        return g.logical_or(above, g.logical_and(g.not_equal(asked, asked), imputed))


def floor32(values: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return the largest finite float32 not above each value.

    >>> bool(floor32(np.array([0.1]))[0] <= 0.1)
    True
    """
    top = float(np.finfo(np.float32).max)
    near = np.clip(values, -top, top).astype(np.float32)
    return np.where(near > values, np.nextafter(near, np.float32(-top)), near).astype(np.float32)


def _bisect(
    value: Value,
    columns: NDArray[np.intp],
    raw: NDArray[Any],
    limit: NDArray[np.float64],
    compared_as: str,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Find the largest input number whose image passes, for all questions at once."""
    if not len(columns):
        return np.empty(0), np.empty(0)
    kind = value.example.dtype
    ask = _questions(value, columns, raw, limit, compared_as)
    to_number, low, high = _numbers(kind)
    below = np.full(len(columns), low - 1, np.int64)  # passes, or lies before the first number
    above = np.full(len(columns), high + 1, np.int64)  # fails, or lies behind the last one
    while (above - below > 1).any():
        middle = (below + above) // 2
        passes = ask(to_number(np.clip(middle, low, high)))
        live = above - below > 1
        below = np.where(live & passes, middle, below)
        above = np.where(live & ~passes, middle, above)
    if kind.kind != "f":
        return below.astype(np.float64), np.full(len(columns), np.nan)
    found: NDArray[np.float64] = to_number(np.maximum(below, low)).astype(np.float64)
    return found, _nan_images(value)[columns]


def _halved(
    value: Value, rows: NDArray[Any], columns: NDArray[np.intp], candidates: NDArray[Any]
) -> NDArray[np.float64]:
    """Return each row's image in its own column; infinite where scikit-learn refuses the row."""
    try:
        return np.asarray(host_array(value.reference(rows))[np.arange(len(rows)), columns])
    except ValueError:
        if len(rows) == 1:
            return np.copysign(np.inf, candidates.astype(np.float64))
    half = len(rows) // 2
    parts = [slice(None, half), slice(half, None)]
    return np.concatenate([_halved(value, rows[p], columns[p], candidates[p]) for p in parts])


def _nan_images(value: Value) -> NDArray[np.float64]:
    """What each column becomes when every input is missing; NaN if scikit-learn refuses NaN."""
    missing = np.full((1, value.example.shape[1]), np.nan, np.float32)
    try:
        return np.asarray(host_array(value.reference(missing))[0])
    except ValueError:
        return np.full(value.width, np.nan)


def _numbers(kind: np.dtype[Any]) -> tuple[Any, int, int]:
    """Return (position -> number, first, last): the finite numbers of a dtype in order."""
    if kind.kind == "f":
        last = int(np.float32(np.finfo(np.float32).max).view(np.int32))

        def to_number(position: NDArray[np.int64]) -> NDArray[np.float32]:
            size = np.abs(position).astype(np.int32).view(np.float32)
            return np.where(position < 0, -size, size).astype(np.float32)

        return to_number, -last, last
    info = np.iinfo(kind)
    return (lambda position: position.astype(kind)), int(info.min), int(info.max)


def _questions(
    value: Value,
    columns: NDArray[np.intp],
    raw: NDArray[Any],
    limit: NDArray[np.float64],
    compared_as: str,
) -> Any:
    """Return a function that asks all questions with one call of the reference.

    Questions about different input columns share a row: each column of the value depends on its
    own input column only.
    """
    order = np.zeros(len(raw), np.intp)
    for j in np.unique(raw):
        mine = raw == j
        order[mine] = np.arange(mine.sum())
    filler = value.example[0]

    def ask(candidates: NDArray[Any]) -> NDArray[np.bool_]:
        rows = np.repeat(filler[None], order.max() + 1, axis=0)
        rows[order, raw] = candidates
        with np.errstate(all="ignore"):
            try:
                table = host_array(value.reference(rows))[order, columns]
            except ValueError:  # a number so large that scikit-learn refuses it
                alone = np.repeat(filler[None], len(raw), axis=0)
                alone[np.arange(len(raw)), raw] = candidates
                table = _halved(value, alone, columns, candidates)
            image = table.astype(np.float32).astype(np.float64)
        return np.asarray((image if compared_as == "float32" else table) <= limit)

    return ask
