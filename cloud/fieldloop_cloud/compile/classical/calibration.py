"""Calibrated classifiers: a classifier's decision, mapped to probabilities on rows set aside.

Sigmoid calibrators are one logistic function each, isotonic ones a table of break points with
straight lines between them, temperature scaling is one factor in front of a softmax. The mean over
the folds is the answer. `ensemble=False` has one fold and is the small one to deploy.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.calibration import CalibratedClassifierCV
from sklearn.isotonic import IsotonicRegression

from fieldloop_cloud.compile.classical.interpolation import Curve, interpolate
from fieldloop_cloud.compile.lowering import Context, Outputs, lowers
from fieldloop_cloud.compile.tensor import Tensor
from fieldloop_cloud.compile.value import Value

TOLERANCE = 2e-5
"""What a compiled decision may deviate by, relative to its size or 1."""

STEP = 1e-6

TINY = 1e-12
"""scikit-learn adds it to probabilities before it takes their logarithm."""


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
    if fold.method == "isotonic":
        context.ties.append(lambda rows: _on_a_step(fold, value.reference(rows)))
    made = _calibrate(columns, fold.calibrators, context)
    return _normalized(made, _places(fold.estimator, estimator), count, context)


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
    two = shares.shape[1] == 2  # noqa: PLR2004 - of two classes the second one is calibrated
    return g.columns(shares, 1, 2) if two else shares


def _calibrate(columns: Tensor, calibrators: Sequence[Any], context: Context) -> Tensor:
    """Map each column by its calibrator."""
    g = context.graph
    if all(isinstance(one, IsotonicRegression) for one in calibrators):
        curves = [isotonic_curve(one) for one in calibrators]
        parts = [
            interpolate(g, g.columns(columns, place, place + 1), curve)
            for place, curve in enumerate(curves)
        ]
        return g.concat(parts, axis=1)
    slope = np.array([one.a_ for one in calibrators])
    offset = np.array([one.b_ for one in calibrators])
    return g.logistic(g.add(g.mul(columns, -slope), -offset))


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


def _places(inner: Any, outer: Any) -> NDArray[np.intp]:
    """Return where the inner classes stand among the outer ones (a fold may lack some)."""
    return np.asarray(np.searchsorted(outer.classes_, inner.classes_), np.intp)


def _normalized(made: Tensor, places: NDArray[np.intp], count: int, context: Context) -> Tensor:
    """Return columns that add up to 1."""
    g = context.graph
    if count == 2:  # noqa: PLR2004 - one calibrator for two classes
        return g.concat([g.sub(1.0, made), made], axis=1)
    if len(places) < count:
        spread = np.zeros((count, len(places)))
        spread[places, np.arange(len(places))] = 1.0
        made = g.fully_connected(made, spread)
    total = g.sum(made, 1, keepdims=True)
    nothing = g.equal(total, 0.0)
    share = g.div(made, g.select(nothing, np.ones((1, 1)), total))
    return g.select(nothing, np.full((1, count), 1 / count), share)


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
    if count == 2:  # noqa: PLR2004 - see above
        column = g.reshape(decision, (-1, 1))
        decision = g.concat([g.neg(column), column], axis=1)
    return g.softmax(g.mul(decision, beta))
