"""Piecewise linear curves: a table of break points, with straight lines between them."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fieldloop_cloud.compile.graph import Graph
from fieldloop_cloud.compile.tensor import Tensor


@dataclass(frozen=True, eq=False)
class Curve:
    """A function of one variable, flat outside its break points.

    Attributes:
        x: Break points, rising strictly, (q,), q >= 1.
        y: Values there, (q,).
    """

    x: NDArray[np.float64]
    y: NDArray[np.float64]


def interpolate(g: Graph, column: Tensor, curve: Curve) -> Tensor:
    """Emit the curve's value for each row, float32 (-1, 1).

    The segment is found by counting the break points below; within it the line starts at the left
    break point, so that steep segments stay exact. Where break points fall together in float32 the
    segment has no length and its slope is zero.

    Args:
        g: The graph.
        column: float32 (-1, 1).
        curve: At least one break point.
    """
    left = np.asarray(curve.x, np.float32)
    keep = np.concatenate([[True], np.diff(left) > 0])  # the first of equals
    last = np.concatenate([np.diff(left) > 0, [True]])  # the value after a jump
    x, y, top = left[keep], np.asarray(curve.y)[last], np.asarray(curve.y)[keep]
    inside = g.minimum(g.maximum(column, x[0]), x[-1])
    if len(x) == 1:
        return g.add(g.mul(inside, 0.0), y[-1])
    slope = np.zeros(len(x))
    slope[:-1] = (top[1:] - y[:-1]) / np.diff(x.astype(np.float64))
    below = g.cast(g.greater_equal(inside, x), "int32")
    segment = g.sub(g.sum(below, 1), 1)
    table = np.stack([x.astype(np.float64), slope, y], axis=1)
    line = g.gather(np.float32(table), segment)
    step = g.mul(g.sub(inside, g.columns(line, 0, 1)), g.columns(line, 1, 2))
    return g.add(g.columns(line, 2, 3), step)
