"""Discriminant analysis: Gaussian classes with one covariance, or one each."""

from typing import Any

import numpy as np
from sklearn.discriminant_analysis import (
    LinearDiscriminantAnalysis,
    QuadraticDiscriminantAnalysis,
)

from fieldloop_cloud.compile.classical.linear import decided, decision_function, two_columns
from fieldloop_cloud.compile.lowering import Context, Outputs, lowers
from fieldloop_cloud.compile.tensor import Tensor
from fieldloop_cloud.compile.value import Value

TWO_CLASSES = 2


@lowers(LinearDiscriminantAnalysis)
def linear_discriminant(estimator: Any, value: Value, context: Context) -> Outputs:
    """A linear classifier; and the projection on the directions that part the classes."""
    decision = decision_function(estimator, value, context)
    outputs: dict[str, Tensor | Value] = {**decided(decision, context)}
    outputs["probabilities"] = (
        two_columns(decision, context) if decision.rank == 1 else context.graph.softmax(decision)
    )
    if estimator.solver != "lsqr":
        kept = np.asarray(estimator.scalings_)[:, : estimator._max_components]  # noqa: SLF001
        centre = np.asarray(estimator.xbar_) @ kept if estimator.solver == "svd" else 0.0
        outputs["transformed"] = value.projected(kept, -centre)
    return outputs


@lowers(QuadraticDiscriminantAnalysis)
def quadratic_discriminant(estimator: Any, value: Value, context: Context) -> Outputs:
    """Log posterior of each class: a Mahalanobis distance, a determinant and a prior."""
    g = context.graph
    table, shift = value.centred()
    parts, constants = [], []
    for k, (rotation, spread) in enumerate(
        zip(estimator.rotations_, estimator.scalings_, strict=True)
    ):
        whitening = (np.asarray(rotation) * np.asarray(spread) ** -0.5).T
        offset = whitening @ (shift - estimator.means_[k])
        white = g.fully_connected(table, context.weights(whitening), offset)
        parts.append(g.sum(g.square(white), 1, keepdims=True))
        constants.append(-0.5 * np.log(spread).sum() + np.log(estimator.priors_[k]))
    scores = g.add(g.mul(g.concat(parts, axis=1), -0.5), np.array(constants))
    if len(parts) != TWO_CLASSES:
        return {**decided(scores, context), "probabilities": g.softmax(scores)}
    difference = g.sub(g.columns(scores, 1, 2), g.columns(scores, 0, 1))
    decision = g.reshape(difference, (-1,))
    return {**decided(decision, context), "probabilities": two_columns(decision, context)}
