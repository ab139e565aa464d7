"""Power transformations: Box-Cox and Yeo-Johnson.

Both are expm1(λ·log(…)) / λ. TFLite has exp and log only, and some kernels' logarithm is good to
1e-7 absolutely, which near zero leaves no digits. So log1p and expm1 are series near zero, and exp
and log further out.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.preprocessing import PowerTransformer

from fieldloop_cloud.compile.graph import Graph
from fieldloop_cloud.compile.lowering import Context, Outputs, lowers
from fieldloop_cloud.compile.tensor import Operand, Tensor
from fieldloop_cloud.compile.value import Value, host_array

NEAR = 0.5
"""Arguments smaller than this take the series."""

LARGEST = float(np.finfo(np.float32).max)

COARSE = 1e5
"""Powers this many of their own spreads from zero keep two digits of the spread in float32."""

LOG_TERMS = tuple(2.0 / (2 * k + 1) for k in range(7))
"""log(1 + x) = 2 atanh(s) with s = x / (2 + x): coefficients of s, s³, s⁵, …"""

EXP_TERMS = tuple(1.0 / math.factorial(k) for k in range(1, 10))
"""exp(x) - 1: coefficients of x, x², x³, …"""


@lowers(PowerTransformer)
def power_transformer(estimator: Any, value: Value, context: Context) -> Outputs:
    """The transformation, then the standard scaler that it was fitted with."""
    g = context.graph
    lambdas = np.asarray(estimator.lambdas_, np.float64)

    def build() -> Tensor:
        # A tree behind it needs no table: its thresholds are moved in front, however extreme.
        _refuse_extremes(estimator, value, context)
        table = value.tensor()
        if estimator.method == "box-cox":
            powered = _power(g, g.log(table), lambdas)
            return g.select(g.equal(table, table), powered, table)
        identity = lambdas == 1.0
        positive = g.greater_equal(table, 0.0)
        exponent = g.select(positive, np.float32(lambdas), np.float32(2.0 - lambdas))
        size = _power(g, log1p(g, g.abs(table)), exponent)
        signed = g.select(positive, size, g.neg(size))
        signed = g.select(identity, table, signed) if identity.any() else signed
        # A missing value stays missing; some kernels' exp(NaN) is 0.
        return g.select(g.equal(table, table), signed, table)

    powered = value.opaque(build, monotone=range(value.width))
    if not estimator.standardize:
        return {"transformed": powered}
    scaler = estimator._scaler  # noqa: SLF001 - fitted with the transformation
    scale, mean = np.asarray(scaler.scale_), np.asarray(scaler.mean_)
    before = value.reference
    powered = powered.with_reference(
        lambda rows: host_array(estimator.transform(before(rows))) * scale + mean
    )
    return {"transformed": powered.scaled(1.0 / scale, -mean / scale)}


def _refuse_extremes(estimator: Any, value: Value, context: Context) -> None:
    """Refuse a column whose powers float32 cannot hold, or cannot tell from each other."""
    with np.errstate(all="ignore"):
        made = np.abs(host_array(estimator.transform(value.reference(value.example))))
    spread, middle = np.ones(made.shape[1]), np.zeros(made.shape[1])
    if estimator.standardize:
        scaler = estimator._scaler  # noqa: SLF001 - as above
        spread, middle = np.asarray(scaler.scale_), np.abs(np.asarray(scaler.mean_))
    largest = np.nanmax(made, axis=0, initial=0.0) * spread + middle
    held = np.isfinite(largest) & (largest < LARGEST)
    if estimator.standardize:
        held &= largest < COARSE * spread
    for column in np.flatnonzero(~held)[:1].tolist():
        names = getattr(estimator, "feature_names_in_", None)
        name = f"x{column}" if names is None else names[column]
        size = "beyond float64"
        if np.isfinite(largest[column]):
            size = f"up to {largest[column]:.2g} with a spread of {spread[column]:.2g}"
        raise context.refuse(
            f"the exponent {estimator.lambdas_[column]:.4g} of column '{name}' gives powers "
            f"{size}, which float32 cannot hold",
            parameter="lambdas_",
            advice="Bring the column to about 1 … 10 before the PowerTransformer (divide by its "
            "median), clip its outliers, or use QuantileTransformer.",
        )


def _power(g: Graph, logarithm: Tensor, exponent: Operand) -> Tensor:
    """Return expm1(exponent · logarithm) / exponent, the logarithm itself for exponent zero."""
    power = g.operand(exponent, logarithm)
    is_zero = g.equal(power, 0.0)
    safe = g.select(is_zero, 1.0, power)
    return g.select(is_zero, logarithm, g.div(expm1(g, g.mul(safe, logarithm)), safe))


def log1p(g: Graph, x: Tensor) -> Tensor:
    """Return log(1 + x) for x >= 0, to float32's relative precision."""
    near = g.minimum(x, NEAR)
    s = g.div(near, g.add(near, 2.0))
    series = g.mul(s, polynomial(g, g.square(s), LOG_TERMS))
    return g.select(g.less(x, NEAR), series, g.log(g.add(x, 1.0)))


def expm1(g: Graph, x: Tensor) -> Tensor:
    """Return exp(x) - 1 to float32's relative precision."""
    near = g.minimum(g.maximum(x, -NEAR), NEAR)
    series = g.mul(near, polynomial(g, near, EXP_TERMS))
    return g.select(g.less(g.abs(x), NEAR), series, g.sub(g.exp(x), 1.0))


def polynomial(g: Graph, x: Tensor, coefficients: Sequence[float]) -> Tensor:
    """Return the polynomial by Horner's scheme; the constant term stands first."""
    *rest, top = coefficients
    value = g.add(g.mul(x, top), rest[-1])
    for coefficient in reversed(rest[:-1]):
        value = g.add(g.mul(value, x), coefficient)
    return value
