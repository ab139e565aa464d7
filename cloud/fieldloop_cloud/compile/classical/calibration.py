"""Calibrated classifiers: a classifier's decision, mapped to probabilities on rows set aside.

Sigmoid calibrators are one logistic function each, isotonic ones a table of break points with
straight lines between them, temperature scaling is one factor in front of a softmax. The mean over
the folds is the answer. `ensemble=False` has one fold and is the small one to deploy.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.calibration import CalibratedClassifierCV

from fieldloop_cloud.compile.classical.interpolation import Curve, interpolate
from fieldloop_cloud.compile.classical.linear import one_vs_rest_probabilities
from fieldloop_cloud.compile.lowering import Context, Outputs, lowers
from fieldloop_cloud.compile.tensor import Tensor
from fieldloop_cloud.compile.value import Value

TWO = 2

TOLERANCE = 2e-5
"""What a compiled decision may deviate by, relative to its size or 1."""

STEP = 1e-6

TINY = 1e-12
"""scikit-learn adds it to probabilities before it takes their logarithm."""


@dataclass(frozen=True, slots=True)
class _Classes:
    """How many classes there are, and which of them a fold knows."""

    count: int
    places: NDArray[np.intp]


@lowers(CalibratedClassifierCV)
def calibrated(estimator: Any, value: Value, context: Context) -> Outputs:
    """Mean of the folds' calibrated probabilities; the label is the largest."""
    g = context.graph
    parts = [
        _fold(fold, estimator, value, context, step=f"fold {number}")
        for number, fold in enumerate(estimator.calibrated_classifiers_)
    ]
    total = parts[0]
    for part in parts[1:]:
        total = g.add(total, part)
    mean = g.mul(total, 1 / len(parts)) if len(parts) > 1 else total
    return {"label": g.arg_max(mean), "probabilities": mean}


def _fold(fold: Any, estimator: Any, value: Value, context: Context, *, step: str) -> Tensor:
    """Return one fold's probabilities, (-1, k)."""
    outputs = context.lower(fold.estimator, value, step=step)
    columns = _response(outputs, fold.estimator, context)
    count = len(estimator.classes_)
    if fold.method == "temperature":
        return _temperature(outputs, fold, count, context)
    if fold.method not in {"sigmoid", "isotonic"}:
        raise context.refuse(
            f"unknown calibration {fold.method!r}",
            parameter="method",
            advice="Use 'sigmoid', 'isotonic' or 'temperature'.",
        )
    places = np.searchsorted(estimator.classes_, fold.estimator.classes_)
    if fold.method == "sigmoid":
        share = _sigmoid(columns, fold.calibrators, context)
        return share if share.shape[1] == count else _spread(share, places, count, context)
    context.ties.append(lambda rows: _on_a_step(fold, value.reference(rows)))
    return _isotonic(columns, fold.calibrators, _Classes(count, places), context)


def _response(outputs: Outputs, inner: Any, context: Context) -> Tensor:
    """Return what scikit-learn calibrates: the decision if there is one, else probabilities."""
    g = context.graph
    if "decision" in outputs:
        decision = outputs["decision"]
        assert isinstance(decision, Tensor)
        return g.reshape(decision, (-1, 1)) if decision.rank == 1 else decision
    if "probabilities" not in outputs:
        raise context.refuse(
            "the classifier has neither a decision nor probabilities",
            estimator=inner,
            advice="Calibrate a classifier with decision_function or predict_proba.",
        )
    shares = outputs["probabilities"]
    assert isinstance(shares, Tensor)
    # Of two classes the second one is calibrated.
    return g.columns(shares, 1, 2) if shares.shape[1] == TWO else shares


def _sigmoid(columns: Tensor, calibrators: Sequence[Any], context: Context) -> Tensor:
    """One logistic function a class, over their sum; (1 - p, p) for two classes."""
    g = context.graph
    slope = np.array([one.a_ for one in calibrators])
    offset = np.array([one.b_ for one in calibrators])
    logits = g.add(g.mul(columns, -slope), -offset)
    if len(calibrators) == 1:
        logits = g.reshape(logits, (-1,))
    return one_vs_rest_probabilities(logits, context)


def _isotonic(
    columns: Tensor, calibrators: Sequence[Any], classes: "_Classes", context: Context
) -> Tensor:
    """One curve a class, over their sum; where all are zero every class is alike."""
    g = context.graph
    parts = [
        interpolate(g, g.columns(columns, place, place + 1), isotonic_curve(one))
        for place, one in enumerate(calibrators)
    ]
    made = g.concat(parts, axis=1)
    if classes.count == TWO:
        return g.concat([g.sub(1.0, made), made], axis=1)
    if made.shape[1] < classes.count:
        made = _spread(made, classes.places, classes.count, context)
    total = g.sum(made, 1, keepdims=True)
    nothing = g.equal(total, 0.0)
    share = g.div(made, g.select(nothing, np.ones((1, 1)), total))
    return g.select(nothing, np.full((1, classes.count), 1 / classes.count), share)


def _spread(share: Tensor, places: NDArray[np.intp], count: int, context: Context) -> Tensor:
    """Put the columns of a fold that lacks some classes where they belong."""
    spread = np.zeros((count, len(places)))
    spread[places, np.arange(len(places))] = 1.0
    return context.graph.fully_connected(share, spread)


def isotonic_curve(calibrator: Any) -> Curve:
    """Return a fitted IsotonicRegression as a curve, flat outside its range."""
    return Curve(np.asarray(calibrator.X_thresholds_), np.asarray(calibrator.y_thresholds_))


def _on_a_step(fold: Any, rows: Any) -> NDArray[np.bool_]:
    """Whether a curve is so steep at a row that the decision's own tolerance moves it."""
    method = (
        "decision_function" if hasattr(fold.estimator, "decision_function") else "predict_proba"
    )
    response = np.asarray(getattr(fold.estimator, method)(rows), np.float64)
    if response.ndim == 1:
        response = response[:, None]
    elif response.shape[1] > len(fold.calibrators):
        response = response[:, 1:]
    slack = TOLERANCE * np.maximum(np.abs(response), 1.0)
    steps = [
        one.predict(column + width) - one.predict(column - width) > STEP
        for one, column, width in zip(fold.calibrators, response.T, slack.T, strict=True)
    ]
    return np.asarray(np.any(steps, axis=0))


def _temperature(outputs: Outputs, fold: Any, count: int, context: Context) -> Tensor:
    """softmax(beta · logits), where a two-class decision d stands for the logits (-d, d)."""
    g = context.graph
    beta = float(fold.calibrators[0].beta_)
    if "decision" not in outputs:
        shares = outputs["probabilities"]
        assert isinstance(shares, Tensor)
        return g.softmax(g.mul(g.log(g.add(shares, TINY)), beta))
    decision = outputs["decision"]
    assert isinstance(decision, Tensor)
    if count == TWO:
        column = g.reshape(decision, (-1, 1))
        decision = g.concat([g.neg(column), column], axis=1)
    return g.softmax(g.mul(decision, beta))
