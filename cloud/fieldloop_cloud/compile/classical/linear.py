"""Linear models: one product, and what turns its result into labels and probabilities."""

from typing import Any

import numpy as np
from sklearn import linear_model as lm
from sklearn.cross_decomposition import CCA, PLSCanonical, PLSRegression
from sklearn.svm import LinearSVC, LinearSVR

from fieldloop_cloud.compile.classical.several import above
from fieldloop_cloud.compile.lowering import Context, Outputs, lowers
from fieldloop_cloud.compile.tensor import Tensor
from fieldloop_cloud.compile.value import Value

MATRIX = 2
"""Dimensions of `coef_` where there are several outputs."""


@lowers(
    lm.LinearRegression,
    lm.Ridge,
    lm.RidgeCV,
    lm.Lasso,
    lm.LassoCV,
    lm.LassoLars,
    lm.LassoLarsCV,
    lm.LassoLarsIC,
    lm.Lars,
    lm.LarsCV,
    lm.ElasticNet,
    lm.ElasticNetCV,
    lm.MultiTaskLasso,
    lm.MultiTaskElasticNet,
    lm.OrthogonalMatchingPursuit,
    lm.OrthogonalMatchingPursuitCV,
    lm.HuberRegressor,
    lm.TheilSenRegressor,
    lm.BayesianRidge,
    lm.ARDRegression,
    lm.QuantileRegressor,
    lm.SGDRegressor,
    LinearSVR,
)
def linear_regressor(estimator: Any, value: Value, context: Context) -> Outputs:
    """Value = X · coef + intercept."""
    coef = np.asarray(estimator.coef_)
    if isinstance(estimator, LinearSVR):
        coef = coef.ravel()
    return {"value": context.linear(value, coef, estimator.intercept_)}


@lowers(lm.RANSACRegressor)
def ransac_regressor(estimator: Any, value: Value, context: Context) -> Outputs:
    """The regressor fitted on the inliers."""
    return context.lower(estimator.estimator_, value, step="estimator")


@lowers(lm.PoissonRegressor, lm.GammaRegressor, lm.TweedieRegressor)
def generalized_regressor(estimator: Any, value: Value, context: Context) -> Outputs:
    """A linear model behind an inverse link: exp, or none."""
    link = getattr(estimator, "link", "log")
    if link == "auto":
        link = "identity" if estimator.power <= 0 else "log"
    raw = context.linear(value, estimator.coef_, estimator.intercept_)
    return {"value": raw if link == "identity" else context.graph.exp(raw)}


@lowers(PLSRegression, PLSCanonical, CCA)
def partial_least_squares(estimator: Any, value: Value, context: Context) -> Outputs:
    """A regression, and the projection on its components."""
    mean, spread = estimator._x_mean, estimator._x_std  # noqa: SLF001 - stored nowhere else
    coef = np.asarray(estimator.coef_)
    intercept = np.asarray(estimator.intercept_) - coef @ mean
    if estimator._predict_1d:  # noqa: SLF001 - the same
        coef = coef.ravel()
    rotations = np.asarray(estimator.x_rotations_) / np.asarray(spread)[:, None]
    return {
        "value": context.linear(value, coef, intercept),
        "transformed": value.projected(rotations, -mean @ rotations),
    }


@lowers(lm.LogisticRegression, lm.LogisticRegressionCV)
def logistic_regression(estimator: Any, value: Value, context: Context) -> Outputs:
    """Softmax over the classes' decisions, or the logistic function of the one decision."""
    decision = decision_function(estimator, value, context)
    if decision.rank == 1:
        probabilities = two_columns(decision, context)
    else:
        probabilities = context.graph.softmax(decision)
    return {**decided(decision, context), "probabilities": probabilities}


@lowers(lm.SGDClassifier)
def sgd_classifier(estimator: Any, value: Value, context: Context) -> Outputs:
    """One linear classifier a class; probabilities for the losses that have them."""
    decision = decision_function(estimator, value, context)
    outputs = decided(decision, context)
    if estimator.loss == "log_loss":
        outputs["probabilities"] = one_vs_rest_probabilities(decision, context)
    if estimator.loss == "modified_huber":
        outputs["probabilities"] = _clipped_probabilities(decision, context)
    return outputs


@lowers(lm.Perceptron, LinearSVC)
def linear_classifier(estimator: Any, value: Value, context: Context) -> Outputs:
    """The largest decision, or the sign of the only one."""
    return decided(decision_function(estimator, value, context), context)


@lowers(lm.RidgeClassifier, lm.RidgeClassifierCV)
def ridge_classifier(estimator: Any, value: Value, context: Context) -> Outputs:
    """As any linear classifier; with several labels for one row each has its own decision."""
    decision = decision_function(estimator, value, context)
    kind = estimator._label_binarizer.y_type_  # noqa: SLF001 - said nowhere else
    if kind.startswith("multilabel"):
        return {**above(decision, 0.0, context), "decision": decision}
    return decided(decision, context)


def decision_function(estimator: Any, value: Value, context: Context) -> Tensor:
    """Return the decision as scikit-learn shapes it: (-1,) for two classes, else (-1, k)."""
    coef = np.asarray(estimator.coef_)
    flat = coef[0] if coef.ndim == MATRIX and len(coef) == 1 else coef
    return context.linear(value, flat, estimator.intercept_)


def decided(decision: Tensor, context: Context) -> dict[str, Tensor]:
    """Return `label` and `decision`: the largest decision, or class 1 above zero."""
    g = context.graph
    if decision.rank == 1:
        return {"label": g.cast(g.greater(decision, 0.0), "int32"), "decision": decision}
    return {"label": g.arg_max(decision), "decision": decision}


def two_columns(decision: Tensor, context: Context) -> Tensor:
    """Return (logistic(-d), logistic(d)), float32 (-1, 2); both are exact far from zero."""
    g = context.graph
    column = g.reshape(decision, (-1, 1))
    return g.logistic(g.mul(column, [[-1.0, 1.0]]))


def one_vs_rest_probabilities(decision: Tensor, context: Context) -> Tensor:
    """Return logistic(d) over its sum, (-1, k).

    As the softmax of log(logistic(d)): where every class is far from its boundary the logistic
    function itself would be 0 in float32, and the quotient nothing.
    """
    if decision.rank == 1:
        return two_columns(decision, context)
    g = context.graph
    tail = g.log(g.add(g.exp(g.neg(g.abs(decision))), 1.0))
    return g.softmax(g.sub(g.minimum(decision, 0.0), tail))


def _clipped_probabilities(decision: Tensor, context: Context) -> Tensor:
    """Return (clip(d, -1, 1) + 1) / 2, over its sum; all classes alike where the sum is zero."""
    g = context.graph
    if decision.rank == 1:
        column = g.mul(g.reshape(decision, (-1, 1)), [[-1.0, 1.0]])
        return g.mul(g.add(_unit(column, context), 1.0), 0.5)
    share = g.mul(g.add(_unit(decision, context), 1.0), 0.5)
    share = g.select(g.equal(g.sum(share, 1, keepdims=True), 0.0), 1.0, share)
    return g.div(share, g.sum(share, 1, keepdims=True))


def _unit(table: Tensor, context: Context) -> Tensor:
    return context.graph.minimum(context.graph.maximum(table, -1.0), 1.0)
