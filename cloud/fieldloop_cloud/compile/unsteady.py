"""How far the original's own answer moves when a row moves by float32's rounding.

Some estimators jump: the k-th and the next neighbour are equally far, an isotonic step is steep, a
feature of almost no variance multiplies its input by a million. There the answer depends on the
last bits of intermediate results, and no float32 model can be held to one side of the jump. The
original itself says where: it is asked again about rows nudged by as much as float32 rounds.

The law. What float32 computes for a row is what exact arithmetic computes for a row nearby
(backward error). A result that an input number reaches through n roundings is off by the sum of n
independent errors of at most u = 2⁻²⁴ relative each, hence, but for a chance of 2 exp(-λ²/2), by
less than λ √n u (Higham and Mary, "A New Approach to Probabilistic Rounding Error Analysis", SIAM
J. Sci. Comput. 41 (2019), theorem 2.4). n is at most the columns of the row, which a product adds
up, plus the ops of the graph that round. A number counts as large as it is far from the centre of
its column, or as the column's spread if that is more: the graph subtracts the centre first, so a
feature's offset excuses nothing. A row is excused by its own movement only: an output may be off by
as much as the original's moved, and a label may differ if the original's changed.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ask = Callable[[NDArray[np.float64]], Mapping[str, NDArray[Any]] | None]

ROUNDING = 2.0**-24
"""float32's u: the largest relative error of one rounding."""

SURE = 4.0
"""The law's λ: it fails for one number in 1,500."""

NUDGES = 16
"""Random directions; one on the other side of a jump is missed in all of them once in 65,000."""


EXACT_OPS = frozenset(
    {
        "ARG_MAX",
        "ARG_MIN",
        "BITCAST",
        "BROADCAST_TO",
        "CAST",
        "CONCATENATION",
        "DEQUANTIZE",
        "EQUAL",
        "EXPAND_DIMS",
        "GATHER",
        "GATHER_ND",
        "GREATER",
        "GREATER_EQUAL",
        "LESS",
        "LESS_EQUAL",
        "LOGICAL_AND",
        "LOGICAL_NOT",
        "LOGICAL_OR",
        "MAXIMUM",
        "MINIMUM",
        "NEG",
        "NOT_EQUAL",
        "PACK",
        "REDUCE_MAX",
        "REDUCE_MIN",
        "RELU",
        "RESHAPE",
        "SELECT",
        "SELECT_V2",
        "SHAPE",
        "SLICE",
        "SQUEEZE",
        "STRIDED_SLICE",
        "TILE",
        "TOPK_V2",
        "TRANSPOSE",
        "UNPACK",
    }
)
"""Ops that move, compare or choose, and round nothing."""


def rounding_ops(op_counts: Mapping[str, int]) -> int:
    """Return how many ops of a graph round, from how often it has each."""
    return sum(count for op, count in op_counts.items() if op not in EXACT_OPS)


def roundings(width: int, op_count: int) -> float:
    """Return how many u a number may be off, for rows of `width` and so many rounding ops.

    >>> roundings(9, 16)
    20.0
    """
    return SURE * float(np.sqrt(width + op_count))


def movement(
    ask: Ask, table: NDArray[np.float32], example: NDArray[np.float32], *, op_count: int
) -> dict[str, NDArray[np.float64]]:
    """Return for each output how far each row's answer moves; 1 for a label that changes.

    Args:
        ask: The original's answers by output for rows; None where it refuses.
        table: The rows, (n, width).
        example: Rows that show each column's centre and spread, (m, width).
        op_count: From `rounding_ops`.
    """
    before = ask(table.astype(np.float64)) if len(table) else None
    if before is None:
        return {}
    random = np.random.default_rng(0)
    moved = {name: np.zeros(len(table)) for name in before}
    size = _size(table, example) * roundings(table.shape[1], op_count) * ROUNDING
    for _ in range(NUDGES):
        steps = random.choice([-1.0, 1.0], table.shape) * size
        after = ask(table + steps)
        if after is None:
            continue
        for name, answer in after.items():
            moved[name] = np.maximum(moved[name], _apart(before[name], answer))
    return moved


def _size(table: NDArray[np.float32], example: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return how far each number is from its column's centre, at least the column's spread."""
    seen = np.ma.masked_invalid(example.astype(np.float64))
    centre, spread = (np.ma.filled(made, 0.0) for made in (seen.mean(axis=0), seen.std(axis=0)))
    return np.asarray(np.maximum(np.abs(table.astype(np.float64) - centre), spread))


def _apart(a: NDArray[Any], b: NDArray[Any]) -> NDArray[np.float64]:
    """Largest difference in each row; for what is no real number 1 where it differs."""
    a, b = a.reshape(len(a), -1), b.reshape(len(b), -1)
    if a.dtype.kind != "f":
        return np.asarray((a != b).any(axis=1), np.float64)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.nan_to_num(np.abs(a - b)).max(axis=1, initial=0.0), np.float64)
