"""Naive Bayes: the classes' joint log likelihoods, which a softmax turns into probabilities.

Only differences between classes matter. What all classes have in common is taken out of every
feature's term before the sum, since the terms may be millions (a feature of almost no variance)
where their difference is one.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.naive_bayes import BernoulliNB, ComplementNB, GaussianNB, MultinomialNB

from fieldloop_cloud.compile.classical.distances import differences
from fieldloop_cloud.compile.lowering import Context, Outputs, lowers
from fieldloop_cloud.compile.tensor import Tensor
from fieldloop_cloud.compile.value import Value

RESOLUTION = 1e-6
"""Log likelihoods that differ by less, relatively, are the same in float32."""


@lowers(GaussianNB)
def gaussian(estimator: Any, value: Value, context: Context) -> Outputs:
    """Squared distances in units of each class's own variances."""
    g = context.graph
    variance = np.asarray(estimator.var_, np.float64)
    apart = differences(value, np.asarray(estimator.theta_, np.float64), context)
    terms = g.square(g.mul(apart, np.sqrt(0.5 / variance)))
    terms = g.sub(terms, g.reduce_min(terms, 1, keepdims=True))
    context.ties.append(lambda rows: _too_close(estimator, value.reference(rows)))
    constant = np.log(estimator.class_prior_) - 0.5 * np.log(variance).sum(axis=1)
    return _classes(g.sub(constant - constant.max(), g.sum(terms, 2)), context)


def _too_close(estimator: Any, rows: Any) -> NDArray[np.bool_]:
    """Whether the best classes differ by less than float32 resolves in likelihoods so small."""
    joint = np.sort(estimator.predict_joint_log_proba(rows), axis=1)
    if joint.shape[1] == 1:
        return np.zeros(len(joint), np.bool_)
    return np.asarray(joint[:, -1] - joint[:, -2] <= RESOLUTION * np.abs(joint[:, -1]))


@lowers(MultinomialNB)
def multinomial(estimator: Any, value: Value, context: Context) -> Outputs:
    """Counts times log probabilities."""
    weights, prior = estimator.feature_log_prob_, estimator.class_log_prior_
    return _classes(_linear(value, weights, prior, context), context)


@lowers(ComplementNB)
def complement(estimator: Any, value: Value, context: Context) -> Outputs:
    """Counts times weights of what is not in the class."""
    one_class = len(estimator.classes_) == 1
    prior = estimator.class_log_prior_ if one_class else np.zeros(len(estimator.classes_))
    return _classes(_linear(value, estimator.feature_log_prob_, prior, context), context)


@lowers(BernoulliNB)
def bernoulli(estimator: Any, value: Value, context: Context) -> Outputs:
    """Features as yes and no."""
    present = np.asarray(estimator.feature_log_prob_, np.float64)
    absent = np.log(1 - np.exp(present))
    constant = estimator.class_log_prior_ + absent.sum(axis=1)
    weights = present - absent
    if estimator.binarize is None:
        return _classes(_linear(value, weights, constant, context), context)
    g = context.graph
    bits = _above(value, float(estimator.binarize), context)
    centred = weights - weights.mean(axis=0)
    joint = g.fully_connected(bits, context.weights(centred), constant - constant.max())
    return _classes(joint, context)


def _above(value: Value, threshold: float, context: Context) -> Tensor:
    """Emit 1 where a column is above the threshold, else 0; decided as scikit-learn decides it."""
    g = context.graph
    if len(value.example) and np.asarray(value.reference(value.example[:1])).dtype == np.float32:
        threshold = float(np.float32(threshold))  # NumPy compares in the table's own precision
    table = context.thresholds(value)
    asked = table.fold(
        np.arange(value.width), np.full(value.width, threshold), compared_as="float64"
    )
    picked = table.tensor
    if not np.array_equal(asked.columns, np.arange(picked.shape[1])):
        picked = g.gather(picked, asked.columns, axis=1)
    if picked.dtype != "float32":
        picked = g.cast(picked, "float32")
    return g.cast(g.greater(picked, asked.thresholds.astype(np.float32)), "float32")


def _linear(value: Value, weights: Any, constant: Any, context: Context) -> Tensor:
    """Emit x · weightsᵀ + constant, up to what all classes have in common.

    Likelihoods of hundreds have few digits behind the point: the comparison allows for that.
    """
    context.unsteady = True
    table: NDArray[np.float64] = np.asarray(weights, np.float64)
    offset = np.asarray(constant, np.float64)
    return context.linear(value, table - table.mean(axis=0), offset - offset.max())


def _classes(joint: Tensor, context: Context) -> Outputs:
    return {"label": context.graph.arg_max(joint), "probabilities": context.graph.softmax(joint)}
