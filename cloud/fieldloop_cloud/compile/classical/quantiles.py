"""QuantileTransformer: piecewise linear curves, one a column, and the normal quantile function.

Repeated quantiles (values that occur often) make jumps: below, above and exactly at such a value
the curve differs, as NumPy's interpolation from both sides has it. The segment of a cell is found
by counting the break points at or below it; a table holds each segment's line.

For a normal output the smaller tail is interpolated, 1 - p above the median, since float32 cannot
tell 1 - 1e-8 from 1.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from sklearn.preprocessing import QuantileTransformer

from fieldloop_cloud.compile.classical.power import polynomial
from fieldloop_cloud.compile.graph import Graph
from fieldloop_cloud.compile.lowering import Context, Outputs, lowers
from fieldloop_cloud.compile.tensor import Tensor
from fieldloop_cloud.compile.thresholds import floor32
from fieldloop_cloud.compile.value import Value

BOUND = 1e-7
"""scikit-learn's distance from the ends, for a normal output."""
NEVER = float(np.finfo(np.float32).max)
MEDIAN = 0.5


@dataclass(frozen=True)
class _Curve:
    """One column's segments; the first lies below all break points.

    Attributes:
        edge: Smallest float32 number of each segment but the first, (m,).
        anchor: Where each line starts, (m + 1,).
        start: Value there.
        slope: Of the line.
        spot: Cell that has a value of its own; NEVER if there is none.
        at_spot: That value.
    """

    edge: NDArray[np.float64]
    anchor: NDArray[np.float64]
    start: NDArray[np.float64]
    slope: NDArray[np.float64]
    spot: NDArray[np.float64]
    at_spot: NDArray[np.float64]


@lowers(QuantileTransformer)
def quantile_transformer(estimator: Any, value: Value, context: Context) -> Outputs:
    """The curve of each column; for a normal output its normal quantile."""
    g = context.graph
    normal = estimator.output_distribution == "normal"
    references = np.asarray(estimator.references_, np.float64)
    quantiles = np.asarray(estimator.quantiles_, np.float64)
    curves = [_curve(column, references, normal=normal) for column in quantiles.T]

    def build() -> Tensor:
        return _interpolated(g, value.tensor(), curves, normal=normal)

    return {"transformed": value.opaque(build, monotone=range(value.width))}


def _curve(quantiles: NDArray[Any], references: NDArray[Any], *, normal: bool) -> _Curve:
    points, first = np.unique(quantiles, return_index=True)
    last = len(quantiles) - 1 - np.unique(quantiles[::-1], return_index=True)[1]
    left, right = references[first], references[last]
    at_point = 0.5 * (left + right)
    at_point[-1], right[-1], left[0] = 1.0, 1.0, 0.0
    at_point[0] = 0.0
    gap = np.diff(points)
    slope = np.concatenate([[0.0], (left[1:] - right[:-1]) / gap, [0.0]])
    anchor = np.concatenate([points[:1], points]).astype(np.float32).astype(np.float64)
    start = np.concatenate([[0.0], right]) + slope * (anchor - np.concatenate([[0.0], points]))
    start[0] = 0.0
    edge = -floor32(-points).astype(np.float64)
    spot = np.where(edge == points, points, NEVER)
    curve = _Curve(edge, anchor, start, slope, np.append(NEVER, spot), np.append(0.0, at_point))
    return _bounded(curve, points) if normal else curve


def _bounded(curve: _Curve, points: NDArray[np.float64]) -> _Curve:
    """Flatten what scikit-learn sets to 0 and 1 near the ends before it takes normal quantiles."""
    near_low = points - BOUND < points[0]
    near_high = points + BOUND > points[-1]
    value = np.where(near_low, 0.0, np.where(near_high, 1.0, curve.at_spot[1:]))
    return _Curve(
        curve.edge,
        curve.anchor,
        curve.start,
        curve.slope,
        curve.spot,
        np.append(0.0, value),
    )


def _interpolated(g: Graph, table: Tensor, curves: list[_Curve], *, normal: bool) -> Tensor:
    columns = len(curves)
    size = max(len(curve.edge) for curve in curves)
    edges = np.full((columns, size), NEVER)
    lines = np.zeros((columns, size + 1, 6))
    for j, curve in enumerate(curves):
        edges[j, : len(curve.edge)] = curve.edge
        lines[j, : len(curve.start)] = _lines(curve, normal=normal)
    cells = g.expand_dims(table, 2)
    count = g.sum(g.cast(g.greater_equal(cells, edges.astype(np.float32)), "int32"), 2)
    segment = g.add(count, (np.arange(columns) * (size + 1)).astype(np.int32))
    line = g.gather(lines.reshape(-1, 6), segment)  # (-1, columns, 6)
    anchor, start, slope, spot, at_spot, sign = (
        g.squeeze(g.slice(line, (0, 0, k), (-1, -1, 1)), 2) for k in range(6)
    )
    along = g.add(start, g.mul(g.sub(table, anchor), slope))
    share = g.select(g.equal(table, spot), at_spot, along)
    share = g.minimum(g.maximum(share, 0.0), 1.0)
    result = g.mul(normal_quantile(g, share), sign) if normal else share
    # A missing cell counts as below all; it stays missing.
    return g.add(result, g.mul(table, 0.0))


def _lines(curve: _Curve, *, normal: bool) -> NDArray[np.float64]:
    """Return (anchor, start, slope, spot, value at spot, sign) of each segment, (m + 1, 6)."""
    sign = np.ones(len(curve.start))
    start, slope, at_spot = curve.start, curve.slope, curve.at_spot
    if normal:
        upper = start > MEDIAN
        start = np.where(upper, 1.0 - start, start)
        slope = np.where(upper, -slope, slope)
        at_spot = np.where(upper, 1.0 - at_spot, at_spot)
        sign = np.where(upper, -1.0, 1.0)
    return np.stack([curve.anchor, start, slope, curve.spot, at_spot, sign], axis=1)


_CENTRE = (
    (3.3871327179, 50.434271938, 159.29113202, 59.109374720),
    (1.0, 17.895169469, 78.757757664, 67.187563600),
)
_TAIL = (
    (1.4234372777, 2.7568153900, 1.3067284816, 0.17023821103),
    (1.0, 0.73700164250, 0.12021132975),
)
_CENTRE_WIDTH = 0.425


def normal_quantile(g: Graph, share: Tensor) -> Tensor:
    """Return the normal quantile of a probability, clipped as scikit-learn clips it.

    Wichura, Algorithm AS 241, routine PPND7 (Applied Statistics 37, 1988, 477-484).
    """
    above = g.greater(share, MEDIAN)
    tail = g.select(above, g.sub(1.0, share), share)
    tail = g.maximum(tail, BOUND / 2)
    q = g.sub(MEDIAN, tail)
    r = g.sub(_CENTRE_WIDTH**2, g.square(q))
    centre = g.mul(q, g.div(polynomial(g, r, _CENTRE[0]), polynomial(g, r, _CENTRE[1])))
    s = g.sub(g.sqrt(g.neg(g.log(tail))), 1.6)
    outer = g.div(polynomial(g, s, _TAIL[0]), polynomial(g, s, _TAIL[1]))
    size = g.select(g.greater(q, _CENTRE_WIDTH), outer, centre)
    limit = -float(stats.norm.ppf(BOUND - np.spacing(1)))
    size = g.minimum(size, limit)
    return g.select(above, size, g.neg(size))
