"""Rows that are likely to tell a compiled model from its original."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fieldloop.signature import Signature
from fieldloop_cloud.compile.rows import Rows

MAX_COLUMNS = 64
"""Columns that are driven to their extremes, evenly chosen."""

MAX_THRESHOLDS = 150
"""Thresholds that are hit exactly, evenly chosen."""

BEYOND = 10.0
"""How many of its ranges a feature is driven beyond what was seen."""


def probes_for(
    rows: Rows, signature: Signature, thresholds: Sequence[tuple[int, float]]
) -> NDArray[np.float32]:
    """Return encoded probe rows, (n, width): extremes, categories, thresholds, missing values.

    Args:
        rows: The example they start from.
        signature: Says what may be missing and which input is quantized.
        thresholds: (input column, number in the input tensor's own units).
    """
    if not len(rows.example):
        return np.empty((0, rows.width), np.float32)
    base = rows.example[len(rows.example) // 2]
    made = [base]
    for column in _some(np.arange(rows.width), MAX_COLUMNS):
        numbers = _extremes(rows, signature, int(column))
        made += [_with(base, int(column), number) for number in numbers]
    made += _corners(rows, signature)
    made += _on_thresholds(rows, signature, thresholds)
    return np.stack(made).astype(np.float32)


def _with(base: NDArray[np.float32], column: int, number: float) -> NDArray[np.float32]:
    row = base.copy()
    row[column] = number
    return row


def _some(items: NDArray[np.intp], count: int) -> NDArray[np.intp]:
    chosen = np.linspace(0, len(items) - 1, min(len(items), count)).astype(int)
    return np.asarray(items[chosen])


def _extremes(rows: Rows, signature: Signature, column: int) -> list[float]:
    feature = signature.features[column] if signature.features else None
    numbers: list[float] = []
    if feature is not None and feature.missing_allowed:
        numbers.append(np.nan)
    if feature is not None and feature.categories:
        unknown = [-1.0] if feature.unknown == "encode" else []
        return numbers + unknown + [float(code) for code in range(len(feature.categories))]
    low, high = _range(rows.example[:, column])
    span = high - low
    return [*numbers, low, high, low - BEYOND * span, high + BEYOND * span, 0.0]


def _range(cells: NDArray[np.float32]) -> tuple[float, float]:
    seen = cells[np.isfinite(cells)]
    return (float(seen.min()), float(seen.max())) if len(seen) else (0.0, 0.0)


def _corners(rows: Rows, signature: Signature) -> list[NDArray[np.float32]]:
    """All numbers at their lowest, all at their highest, and all missing."""
    ranges = np.array([_range(rows.example[:, j]) for j in range(rows.width)], np.float32)
    corners = [ranges[:, 0], ranges[:, 1]]
    if signature.features and all(feature.missing_allowed for feature in signature.features):
        corners.append(np.full(rows.width, np.nan, np.float32))
    return corners


def _on_thresholds(
    rows: Rows, signature: Signature, thresholds: Sequence[tuple[int, float]]
) -> list[NDArray[np.float32]]:
    spec = signature.inputs[0]
    made = []
    chosen = _some(np.arange(len(thresholds)), MAX_THRESHOLDS)
    for turn, at in enumerate(chosen):
        column, number = thresholds[int(at)]
        base = rows.example[turn % len(rows.example)]
        if spec.is_quantized:
            scale, zero = spec.scale[column], spec.zero_point[column]
            beside = [(number + step - zero) * scale for step in (0, 1)]
        else:
            exact = np.float32(number)
            next_ones = (np.nextafter(exact, np.float32(side)) for side in (-np.inf, np.inf))
            beside = [float(exact), *(float(neighbour) for neighbour in next_ones)]
        made += [_with(base, column, value) for value in beside]
    return [row for row in made if np.isfinite(row).any()]
