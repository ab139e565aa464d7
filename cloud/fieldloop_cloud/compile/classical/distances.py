"""Distances between rows and fixed points, from the differences themselves.

‖x‖² - 2 x·p + ‖p‖² would be cheaper, but it is exact only near zero; a difference is exact wherever
the two lie. Rows are centred first, since float32 has few digits left far from zero.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fieldloop_cloud.compile.graph import Graph
from fieldloop_cloud.compile.lowering import Context
from fieldloop_cloud.compile.tensor import Tensor
from fieldloop_cloud.compile.value import Value

TINY = 1e-30
"""Keeps a division away from zero without changing any number of use."""

_NAMES = {
    "euclidean": 2.0,
    "l2": 2.0,
    "manhattan": 1.0,
    "l1": 1.0,
    "cityblock": 1.0,
    "chebyshev": np.inf,
}


@dataclass(frozen=True)
class Metric:
    """A Minkowski metric: (Σ |difference|^p)^(1/p).

    Attributes:
        p: 1 Manhattan, 2 Euclidean, infinity Chebyshev, or any number from 1 on.
    """

    p: float

    @classmethod
    def of(cls, name: Any, parameters: dict[str, Any], context: Context) -> "Metric":
        """Return the metric that scikit-learn knows by `name`, or refuse."""
        known = [*_NAMES, "minkowski"]
        if not isinstance(name, str) or name not in known:
            raise context.refuse(
                f"the metric {name if isinstance(name, str) else 'of your own'!r} is not supported",
                parameter="metric",
                advice=f"Fit with one of: {', '.join(known)}.",
            )
        if parameters.get("w") is not None:
            raise context.refuse(
                "a metric with weights is not supported",
                parameter="metric_params",
                advice="Scale the features in front of the estimator instead.",
            )
        p = float(parameters.get("p", 2.0)) if name == "minkowski" else _NAMES[name]
        if p < 1:
            raise context.refuse(
                f"p = {p:g} is no metric", parameter="p", advice="Fit with p of at least 1."
            )
        return cls(p)

    def ranks(self, g: Graph, apart: Tensor) -> Tensor:
        """Emit numbers that order as the distances do, cheaper ones where there are any."""
        return g.sum(g.square(apart), -1) if self.p == 2 else self.lengths(g, apart)  # noqa: PLR2004 - Euclid

    def lengths(self, g: Graph, apart: Tensor) -> Tensor:
        """Emit the distances: differences (…, n_features) to (…)."""
        if self.p == 2:  # noqa: PLR2004 - Euclid
            return g.sqrt(self.ranks(g, apart))
        size = g.abs(apart)
        if self.p == 1:
            return g.sum(size, -1)
        largest = g.reduce_max(size, -1, keepdims=True)
        if np.isinf(self.p):
            return g.reduce_max(size, -1)
        # Relative to the largest one no power falls below float32's range.
        share = g.div(size, g.maximum(largest, TINY))
        total = g.sum(g.pow(share, self.p), -1)
        return g.mul(g.pow(g.maximum(total, TINY), 1 / self.p), g.reduce_max(size, -1))


def differences(value: Value, points: NDArray[np.float64], context: Context) -> Tensor:
    """Emit row - point for all rows and points, float32 (-1, k, n_features).

    What is nearest may change with the last bit: the context is told that ties are possible.
    """
    context.unsteady = True
    g = context.graph
    table, shift = value.centred()
    return g.sub(g.expand_dims(table, 1), points - shift)
