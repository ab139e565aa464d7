"""How far the original's own answer moves when a row moves by float32's rounding.

Some estimators jump: the k-th and the next neighbour are equally far, an isotonic step is steep, a
feature of almost no variance multiplies its input by a million. There the answer depends on the
last bits of intermediate results, and no float32 model can be held to one side of the jump. The
original itself says where: it is asked again about rows nudged by a few roundings.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ask = Callable[[NDArray[np.float32]], Mapping[str, NDArray[Any]] | None]

ROUNDINGS = 16.0
"""Nudges are this many float32 roundings of the number, or of its column's spread if larger."""

NUDGES = 16


def movement(
    ask: Ask, table: NDArray[np.float32], spread: NDArray[np.float64]
) -> dict[str, NDArray[np.float64]]:
    """Return for each output how far each row's answer moves; 1 for a label that changes.

    Args:
        ask: The original's answers by output for float32 rows; None where it refuses.
        table: The rows, (n, width).
        spread: Standard deviation of each column, (width,).
    """
    before = ask(table) if len(table) else None
    if before is None:
        return {}
    random = np.random.default_rng(0)
    moved = {name: np.zeros(len(table)) for name in before}
    size = np.maximum(np.abs(table.astype(np.float64)), spread) * ROUNDINGS
    for _ in range(NUDGES):
        steps = random.choice([-1.0, 1.0], table.shape) * size * 2.0**-24
        after = ask((table + steps).astype(np.float32))
        if after is None:
            continue
        for name, answer in after.items():
            moved[name] = np.maximum(moved[name], _apart(before[name], answer))
    return moved


def _apart(a: NDArray[Any], b: NDArray[Any]) -> NDArray[np.float64]:
    """Largest difference in each row; for what is no real number 1 where it differs."""
    a, b = a.reshape(len(a), -1), b.reshape(len(b), -1)
    if a.dtype.kind != "f":
        return np.asarray((a != b).any(axis=1), np.float64)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.nan_to_num(np.abs(a - b)).max(axis=1, initial=0.0), np.float64)
