"""Numeric preprocessing.

Scalers are affine maps that emit nothing where the next estimator can absorb them; the others say
which of their columns are non-decreasing functions, so that trees can look through them.
"""

from typing import Any

import numpy as np
from sklearn import preprocessing as pp

from fieldloop_cloud.compile.lowering import Context, Outputs, lowers
from fieldloop_cloud.compile.tensor import Tensor
from fieldloop_cloud.compile.value import Value


@lowers(pp.StandardScaler)
def standard_scaler(estimator: Any, value: Value, _: Context) -> Outputs:
    """(x - mean) / scale."""
    scale = np.asarray(estimator.scale_) if estimator.with_std else np.float64(1.0)
    mean = np.asarray(estimator.mean_) if estimator.with_mean else np.float64(0.0)
    return {"transformed": value.scaled(1.0 / scale, -mean / scale)}


@lowers(pp.RobustScaler)
def robust_scaler(estimator: Any, value: Value, _: Context) -> Outputs:
    """(x - median) / interquartile range."""
    scale = np.asarray(estimator.scale_) if estimator.with_scaling else np.float64(1.0)
    centre = np.asarray(estimator.center_) if estimator.with_centering else np.float64(0.0)
    return {"transformed": value.scaled(1.0 / scale, -centre / scale)}


@lowers(pp.MinMaxScaler)
def min_max_scaler(estimator: Any, value: Value, context: Context) -> Outputs:
    """X · scale + min, clipped to the range if asked for."""
    scaled = value.scaled(estimator.scale_, estimator.min_)
    if not estimator.clip:
        return {"transformed": scaled}
    low, high = estimator.feature_range
    return {"transformed": _clipped(scaled, low, high, context)}


@lowers(pp.MaxAbsScaler)
def max_abs_scaler(estimator: Any, value: Value, context: Context) -> Outputs:
    """X / largest absolute value, clipped to ±1 if asked for."""
    scaled = value.scaled(1.0 / np.asarray(estimator.scale_), 0.0)
    clip = getattr(estimator, "clip", False)
    return {"transformed": _clipped(scaled, -1.0, 1.0, context) if clip else scaled}


def _clipped(value: Value, low: float, high: float, context: Context) -> Value:
    g = context.graph
    return value.opaque(
        lambda: g.minimum(g.maximum(value.tensor(), low), high), monotone=range(value.width)
    )


@lowers(pp.Normalizer)
def normalizer(estimator: Any, value: Value, context: Context) -> Outputs:
    """Each row over its norm; a row of zeros stays."""
    g = context.graph
    table = value.tensor()
    # Over the largest first: squares of small or large numbers leave float32's range.
    largest = g.reduce_max(g.abs(table), 1, keepdims=True)
    table = g.div(table, g.select(g.equal(largest, 0.0), 1.0, largest))
    if estimator.norm == "max":
        return {"transformed": table}
    if estimator.norm == "l1":
        norm = g.sum(g.abs(table), 1, keepdims=True)
    else:
        norm = g.sqrt(g.sum(g.square(table), 1, keepdims=True))
    return {"transformed": g.div(table, g.select(g.equal(norm, 0.0), 1.0, norm))}


@lowers(pp.Binarizer)
def binarizer(estimator: Any, value: Value, context: Context) -> Outputs:
    """1 above the threshold, else 0."""
    columns = np.arange(value.width)
    limit = float(estimator.threshold)
    if value.reference_dtype == np.float32:  # NumPy compares in the array's own precision
        limit = float(np.float32(limit))

    def build() -> Tensor:
        above = context.thresholds(value).exceeds(columns, np.full(value.width, limit))
        return context.graph.cast(above, "float32")

    return {"transformed": value.opaque(build, monotone=columns.tolist())}


@lowers(pp.KBinsDiscretizer)
def k_bins_discretizer(estimator: Any, value: Value, context: Context) -> Outputs:
    """Number of the bin, or a column for each bin: how many inner edges lie at or below x."""
    g = context.graph
    inner = [np.asarray(edges, np.float64)[1:-1] for edges in estimator.bin_edges_]
    columns = np.concatenate([np.full(len(edges), j) for j, edges in enumerate(inner)])
    edges = np.concatenate(inner)
    one_hot = estimator.encode.startswith("onehot")
    matrix, offset = _bins(inner, one_hot=one_hot)

    def build() -> Tensor:
        if not len(edges):
            return g.fully_connected(value.tensor(), np.zeros((len(offset), value.width)), offset)
        # x >= edge is x > the number before edge
        limits = np.nextafter(edges, -np.inf)
        above = context.thresholds(value).exceeds(columns.astype(int), limits)
        return g.fully_connected(g.cast(above, "float32"), matrix, offset)

    if one_hot:
        return {"transformed": value.opaque(build, width=len(offset))}
    return {"transformed": value.opaque(build, monotone=range(value.width))}


def _bins(inner: list[Any], *, one_hot: bool) -> tuple[Any, Any]:
    """Return the matrix (outputs, edges) and offset from "is at or above the edge" to bins."""
    rows, offset, place = [], [], 0
    total = sum(len(edges) for edges in inner)
    for edges in inner:
        count = len(edges)
        step = np.zeros((count + 1, total))
        if one_hot:  # bin b: above edge b - 1 and not above edge b
            step[np.arange(1, count + 1), place + np.arange(count)] = 1.0
            step[np.arange(count), place + np.arange(count)] -= 1.0
            rows.append(step)
            offset += [1.0] + [0.0] * count
        else:
            step[0, place : place + count] = 1.0
            rows.append(step[:1])
            offset.append(0.0)
        place += count
    return np.concatenate(rows), np.array(offset)


@lowers(pp.PolynomialFeatures)
def polynomial_features(estimator: Any, value: Value, context: Context) -> Outputs:
    """Products of columns: each term picks its factors from (1, x) and multiplies them."""
    g = context.graph
    powers = np.asarray(estimator.powers_)
    degree = max(int(powers.sum(axis=1).max(initial=0)), 1)
    picks = np.zeros((degree, len(powers)), np.int32)
    for term, exponents in enumerate(powers):
        factors = np.repeat(np.arange(value.width), exponents) + 1
        picks[: len(factors), term] = factors
    table = value.tensor()
    one = g.add(g.mul(g.columns(table, 0, 1), 0.0), 1.0)
    extended = g.concat([one, table], axis=1)
    product = g.gather(extended, picks[0], axis=1)
    for factor in picks[1:]:
        product = g.mul(product, g.gather(extended, factor, axis=1))
    return {"transformed": product}


KNOWN_FUNCTIONS = {
    np.log: "log",
    np.exp: "exp",
    np.sqrt: "sqrt",
    np.abs: "abs",
    np.square: "square",
    np.tanh: "tanh",
    np.sin: "sin",
    np.cos: "cos",
}
"""NumPy functions that are one op."""

_RISING = {np.log, np.exp, np.sqrt, np.tanh}


@lowers(pp.FunctionTransformer)
def function_transformer(estimator: Any, value: Value, context: Context) -> Outputs:
    """A NumPy function that TFLite has too; any other function is unknown."""
    function = estimator.func
    if function is None:
        return {"transformed": value.take(range(value.width))}
    if function not in KNOWN_FUNCTIONS or estimator.kw_args:
        names = ", ".join(f"np.{name}" for name in KNOWN_FUNCTIONS.values())
        raise context.refuse(
            f"the function {getattr(function, '__name__', function)} is not known here",
            parameter="func",
            advice=f"Use one of {names} without arguments, or register a transformer of your own.",
        )
    g, op = context.graph, KNOWN_FUNCTIONS[function]

    def build() -> Tensor:
        table = value.tensor()
        made: Tensor = getattr(g, op)(table)
        # A missing value stays missing; some kernels' exp(NaN) is 0.
        return g.select(g.equal(table, table), made, table)

    rising = range(value.width) if function in _RISING else None
    return {"transformed": value.opaque(build, monotone=rising)}
