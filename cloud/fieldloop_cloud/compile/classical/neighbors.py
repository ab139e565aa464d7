"""Nearest neighbours by brute force, and nearest centroids.

Euclidean neighbours are found in two steps: one product ranks all training rows by the expanded
norm, then the differences of the few best are squared themselves. The product alone would mix up
close neighbours and have no digits left for small distances, which the weights 1 / distance need.
Other metrics take the differences to all rows.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor, NearestCentroid

from fieldloop_cloud.compile.classical.compact import Compact
from fieldloop_cloud.compile.classical.distances import TINY, Metric, differences
from fieldloop_cloud.compile.classical.several import (
    labels_of,
    probabilities_of,
    several_places,
)
from fieldloop_cloud.compile.lowering import Context, Outputs, lowers
from fieldloop_cloud.compile.tensor import Tensor
from fieldloop_cloud.compile.value import Value, host_array

EUCLID = 2.0

TIE = 2e-6
"""Distances that differ by less, relatively, are the same in float32."""

SPARE = 8
"""Rows ranked beyond those asked for, so that rounding in the first step loses none of them."""


@dataclass(frozen=True)
class Neighbours:
    """The nearest training rows of each row.

    Attributes:
        indices: int32 (-1, k), nearest first.
        distances: float32 (-1, k).
    """

    indices: Tensor
    distances: Tensor

    @classmethod
    def of(cls, estimator: Any, value: Value, context: Context) -> "Neighbours":
        """Emit the search."""
        parameters = estimator.effective_metric_params_ or {}
        metric = Metric.of(estimator.effective_metric_, parameters, context)
        points, count = host_array(estimator._fit_X), int(estimator.n_neighbors)  # noqa: SLF001 - said nowhere else
        context.ties.append(lambda rows: _last_is_tied(estimator, value.reference(rows)))
        if count > len(points):
            raise context.refuse(
                f"{count} neighbours of {len(points)} training rows",
                parameter="n_neighbors",
                advice="Ask for fewer neighbours.",
            )
        if metric.p == EUCLID:
            return cls._euclidean(points, count, value, context)
        g = context.graph
        lengths = metric.lengths(g, differences(value, points, context))
        nearest, indices = g.topk(g.neg(lengths), count)
        return cls(indices, g.neg(nearest))

    @classmethod
    def _euclidean(cls, points: Any, count: int, value: Value, context: Context) -> "Neighbours":
        g = context.graph
        context.unsteady = True
        compact = Compact.of(value, points, context)
        if compact is None:
            table, shift = value.centred()
            stored, held = context.stored(points - shift, name="training_rows")
            scale = np.ones(held.shape[1])
        else:
            table, stored = compact.near, compact.points
            held, scale = compact.numbers, compact.scale
        # ‖x‖² is the same for all training rows: it changes no order.
        closeness = g.fully_connected(g.mul(table, 2 * scale**2), stored, -(held**2 @ scale**2))
        _, candidates = g.topk(closeness, min(count + SPARE, len(points)))
        apart = g.sub(g.gather(stored, candidates), g.expand_dims(table, 1))
        if (scale != 1).any():
            apart = g.mul(apart, scale)
        squares = g.sum(g.square(apart), 2)
        nearest, places = g.topk(g.neg(squares), count)
        return cls(g.gather(candidates, places, axis=1, batch_dims=1), g.sqrt(g.neg(nearest)))

    def weights(self, estimator: Any, context: Context) -> Tensor | None:
        """Emit each neighbour's weight, (-1, k); None if all count the same."""
        if estimator.weights in (None, "uniform"):
            return None
        if estimator.weights != "distance":
            raise context.refuse(
                "weights by a function of your own are not supported",
                parameter="weights",
                advice="Fit with weights='uniform' or 'distance'.",
            )
        g = context.graph
        # At distance zero the weight is so large that the other neighbours vanish beside it.
        return g.div(1.0, g.maximum(self.distances, TINY))

    def mean(self, targets: Any, weights: Tensor | None, context: Context) -> Tensor:
        """Emit the (weighted) mean of the neighbours' targets; targets (m, t) to (-1, t)."""
        g = context.graph
        found = g.gather(np.asarray(targets, np.float32), self.indices)
        if weights is None:
            return g.mean(found, 1)
        share = g.div(weights, g.sum(weights, 1, keepdims=True))
        return g.sum(g.mul(found, g.expand_dims(share, 2)), 1)


def _last_is_tied(estimator: Any, rows: Any) -> NDArray[np.bool_]:
    """Whether the last neighbour and the next one are equally far: either is right."""
    count = estimator.n_neighbors
    if not len(rows) or count >= estimator.n_samples_fit_:
        return np.zeros(len(rows), np.bool_)
    far = np.asarray(estimator.kneighbors(rows, count + 1)[0], np.float64)
    return np.asarray(far[:, -1] - far[:, -2] <= TIE * np.maximum(far[:, -1], TINY))


@lowers(KNeighborsClassifier)
def classifier(estimator: Any, value: Value, context: Context) -> Outputs:
    """Share of the neighbours' (weighted) votes; the first of equals wins."""
    g = context.graph
    found = Neighbours.of(estimator, value, context)
    codes = np.asarray(estimator._y)  # noqa: SLF001 - as above
    counts = [
        len(c) for c in (estimator.classes_ if estimator.outputs_2d_ else [estimator.classes_])
    ]
    columns = codes.reshape(len(codes), len(counts)).T
    votes = np.hstack([np.eye(n)[column] for n, column in zip(counts, columns, strict=True)])
    shares = found.mean(votes, found.weights(estimator, context), context)
    if not estimator.outputs_2d_:
        return {"label": g.arg_max(shares), "probabilities": shares}
    parts = [g.columns(shares, *place) for place in several_places(counts)]
    return {"label": labels_of(parts, context), **probabilities_of(parts)}


@lowers(KNeighborsRegressor)
def regressor(estimator: Any, value: Value, context: Context) -> Outputs:
    """Mean of the neighbours' targets."""
    g = context.graph
    targets = np.asarray(estimator._y, np.float64)  # noqa: SLF001 - as above
    found = Neighbours.of(estimator, value, context)
    columns = targets.reshape(len(targets), -1)
    centre = columns.mean(axis=0)  # float32 keeps more digits of what is left
    mean = found.mean(columns - centre, found.weights(estimator, context), context)
    made = g.add(mean, centre)
    return {"value": g.reshape(made, (-1,)) if targets.ndim == 1 else made}


@lowers(NearestCentroid)
def nearest_centroid(estimator: Any, value: Value, context: Context) -> Outputs:
    """The nearest centroid; with unequal priors or for probabilities, discriminant scores."""
    g = context.graph
    metric = Metric.of(estimator.metric, {}, context)
    apart = differences(value, np.asarray(estimator.centroids_, np.float64), context)
    label = g.arg_min(metric.ranks(g, apart))
    prior = np.asarray(estimator.class_prior_, np.float64)
    even = bool(np.isclose(prior, 1 / len(prior)).all())
    if even and metric.p != EUCLID:
        return {"label": label}
    spread = np.asarray(estimator.within_class_std_dev_, np.float64)
    scale = 1 / np.where(spread == 0, 1.0, spread)
    scaled = g.mul(apart, scale)
    euclid = metric.p == EUCLID
    squares = metric.ranks(g, scaled) if euclid else g.square(metric.lengths(g, scaled))
    scores = g.add(g.neg(squares), 2 * np.log(prior))
    label = label if even else g.arg_max(scores)
    if metric.p != EUCLID:
        return {"label": label}
    decision = scores
    if len(prior) == 2:  # noqa: PLR2004 - scikit-learn's shape for two classes
        # a² - b² = (a - b)(a + b): far from both centroids their squares would cancel.
        between = (estimator.centroids_[1:] - estimator.centroids_[:1]) * scale
        offset = 2 * np.log(prior[1:] / prior[:1])
        decision = g.reshape(g.fully_connected(g.sum(scaled, 1), between, offset), (-1,))
    return {"label": label, "probabilities": g.softmax(scores), "decision": decision}
