"""Categories: which one a cell holds, and what each encoder writes for it.

What an encoder writes is asked of the encoder itself, one category at a time, and kept as a table:
its rules for dropped, infrequent and unknown categories are not repeated here. In the graph every
known category of every column is compared with the cell at once; the table turns the answers into
the encoder's columns.

Text (anything that is no number) arrives as codes: `Value.vocabularies` maps categories to codes,
and the signature tells the device what to do with a category that no encoder knows. Numbers are
compared as they are; where the encoder would raise on an unknown number, the result is NaN.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, TargetEncoder

from fieldloop_cloud.compile.lowering import Context, Outputs, lowers
from fieldloop_cloud.compile.rows import UNKNOWN, is_missing
from fieldloop_cloud.compile.tensor import Tensor
from fieldloop_cloud.compile.value import Value, host_array

HALF = 0.5


@dataclass(frozen=True)
class _Table:
    """What the encoder writes: offset + answers · matrix, NaN where the other pair is positive.

    Attributes:
        column: Of each category, (q,).
        code: What the cell holds for it, NaN for a missing value, (q,).
        matrix: (q, outputs).
        offset: What is written if no category is known, (outputs,).
        nan_matrix: The same for "is NaN", (q, outputs).
        nan_offset: (outputs,).
    """

    column: NDArray[np.int32]
    code: NDArray[np.float32]
    matrix: NDArray[np.float64]
    offset: NDArray[np.float64]
    nan_matrix: NDArray[np.float64]
    nan_offset: NDArray[np.float64]


@lowers(OneHotEncoder, OrdinalEncoder, TargetEncoder)
def category_encoder(estimator: Any, value: Value, context: Context) -> Outputs:
    """Known categories compared at once, then the encoder's table."""
    rejects = getattr(estimator, "handle_unknown", "ignore") == "error"
    for vocabulary in value.vocabularies:
        if vocabulary is not None:
            vocabulary.restrict("reject" if rejects else "encode")
    table = _tabulated(estimator, value, context, rejects=rejects)
    g = context.graph
    cells = g.gather(value.tensor(), table.column, axis=1)
    missing = np.isnan(table.code)
    answers = g.equal(cells, np.where(missing, np.float32(0), table.code))
    if missing.any():
        is_nan = g.not_equal(cells, cells)
        answers = g.select(missing, is_nan, answers)
    known = g.cast(answers, "float32")
    written = _written(known, table, context)
    written = _with_nan(known, written, table, context)
    numbers = [c for c in range(value.width) if value.vocabularies[c] is None]
    if rejects and numbers:
        written = _poisoned(known, written, table.column, numbers, context)
    return {"transformed": written}


def _tabulated(estimator: Any, value: Value, context: Context, *, rejects: bool) -> _Table:
    """Ask the encoder what it writes for each category, all other columns held still."""
    categories = [list(column) for column in estimator.categories_]
    column = np.concatenate([np.full(len(c), i, np.int32) for i, c in enumerate(categories)])
    base = [c[0] for c in categories]
    rows = [base]
    for place, known in enumerate(categories):
        rows += [[*base[:place], category, *base[place + 1 :]] for category in known]
    if not rejects:
        rows += [
            [*base[:place], _unknown(known), *base[place + 1 :]]
            for place, known in enumerate(categories)
        ]
    answers = host_array(estimator.transform(_raw(estimator, rows)))
    code = np.concatenate(
        [_codes(value, place, known, context) for place, known in enumerate(categories)]
    )
    nan = np.isnan(answers).astype(np.float64)
    real = np.where(np.isnan(answers), 0.0, answers)
    matrix, offset = _additive(real, column, len(categories))
    nan_matrix, nan_offset = _additive(nan, column, len(categories))
    return _Table(column, code, matrix, offset, nan_matrix, nan_offset)


def _additive(
    answers: NDArray[np.float64], column: NDArray[np.int32], columns: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Split answers (base, categories…, unknowns…) into matrix and offset; columns add up."""
    base, known = answers[0], answers[1 : 1 + len(column)] - answers[0]
    unknown = answers[1 + len(column) :] - base
    if not len(unknown):  # never asked for: write nothing of this column
        unknown = np.stack([-_own(base, known[column == i]) for i in range(columns)])
    return known - unknown[column], base + unknown.sum(axis=0)


def _own(base: NDArray[np.float64], changes: NDArray[np.float64]) -> NDArray[np.float64]:
    """The part of the base row that this column wrote: what changes when the category does."""
    return np.where((changes != 0).any(axis=0), base, 0.0)


def _unknown(known: list[Any]) -> Any:
    numbers = [c for c in known if not is_missing(c)]
    if numbers and all(isinstance(c, (int, float, np.number)) for c in numbers):
        return max(numbers) + 1
    return UNKNOWN


def _raw(estimator: Any, rows: list[list[Any]]) -> Any:
    """Return rows in the form that the encoder was fitted on."""
    kinds = [column.dtype for column in estimator.categories_]
    columns = list(zip(*rows, strict=True))
    if hasattr(estimator, "feature_names_in_"):
        cells = [_cells(cell, kind) for cell, kind in zip(columns, kinds, strict=True)]
        frame = pd.concat([pd.Series(cell) for cell in cells], axis=1)
        frame.columns = list(estimator.feature_names_in_)
        return frame
    if all(kind.kind in "fiu" for kind in kinds):
        return np.array(rows, dtype=np.result_type(*kinds))
    table = np.empty((len(rows), len(columns)), dtype=object)
    table[:] = rows
    return table


def _cells(cells: Any, kind: np.dtype[Any]) -> NDArray[Any]:
    if kind.kind in "fiu":
        return np.array(cells, dtype=kind)
    column = np.empty(len(cells), dtype=object)
    column[:] = cells
    return column


def _codes(value: Value, place: int, known: list[Any], context: Context) -> NDArray[np.float32]:
    """Return what the cell holds for each category."""
    vocabulary = value.vocabularies[place]
    if vocabulary is not None:
        return np.array(vocabulary.codes(known), np.float32)
    numbers = np.array([np.nan if is_missing(c) else c for c in known], np.float64)
    exact = np.isnan(numbers) | (numbers.astype(np.float32) == numbers)
    if not exact.all():
        raise context.refuse(
            f"category {numbers[~exact][0]} is no 32-bit float, the device could not tell it",
            parameter="categories_",
            advice="Fit on float32 columns, or give the categories as text.",
        )
    return numbers.astype(np.float32)


def _written(known: Tensor, table: _Table, context: Context) -> Tensor:
    g = context.graph
    ones = (table.matrix == 1.0).sum(axis=0) == 1
    alone = (table.matrix != 0.0).sum(axis=0) == 1
    if (ones & alone).all() and not table.offset.any():  # each column is one answer
        picked = (table.matrix == 1.0).argmax(axis=0).astype(np.int32)
        if np.array_equal(picked, np.arange(len(table.column))):
            return known
        return g.gather(known, picked, axis=1)
    return g.fully_connected(known, table.matrix.T, table.offset)


def _with_nan(known: Tensor, written: Tensor, table: _Table, context: Context) -> Tensor:
    if not (table.nan_matrix.any() or table.nan_offset.any()):
        return written
    g = context.graph
    is_nan = g.fully_connected(known, table.nan_matrix.T, table.nan_offset)
    return g.select(g.greater(is_nan, HALF), _nan(context), written)


def _poisoned(
    known: Tensor,
    written: Tensor,
    column: NDArray[np.int32],
    numbers: list[int],
    context: Context,
) -> Tensor:
    """NaN everywhere in a row with a number that the encoder would raise on."""
    g = context.graph
    member = (column[None, :] == np.array(numbers)[:, None]).astype(np.float64)
    found = g.reduce_min(g.fully_connected(known, member), 1, keepdims=True)
    return g.select(g.less(found, HALF), _nan(context), written)


def _nan(context: Context) -> Tensor:
    g = context.graph
    zero = g.constant(np.zeros(1, np.float32))
    return g.div(zero, zero)
