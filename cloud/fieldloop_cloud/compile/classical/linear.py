"""Linear models: one product, and what turns its result into labels and probabilities."""

from typing import Any

import numpy as np
from sklearn.linear_model import LinearRegression, LogisticRegression

from fieldloop_cloud.compile.lowering import Context, Outputs, lowers
from fieldloop_cloud.compile.tensor import Tensor
from fieldloop_cloud.compile.value import Value


@lowers(LinearRegression)
def linear_regression(estimator: Any, value: Value, context: Context) -> Outputs:
    """X · coef + intercept."""
    return {"value": context.linear(value, estimator.coef_, estimator.intercept_)}


@lowers(LogisticRegression)
def logistic_regression(estimator: Any, value: Value, context: Context) -> Outputs:
    """Softmax over the classes' decisions, or the logistic function of the one decision."""
    g = context.graph
    decision = decision_function(estimator, value, context)
    if decision.rank == 1:
        return {
            "label": label_from(decision, context),
            "probabilities": two_columns(g.logistic(decision), context),
            "decision": decision,
        }
    return {
        "label": g.arg_max(decision),
        "probabilities": g.softmax(decision),
        "decision": decision,
    }


def decision_function(estimator: Any, value: Value, context: Context) -> Tensor:
    """Return the decision as scikit-learn shapes it: (-1,) for two classes, else (-1, k)."""
    coef = np.asarray(estimator.coef_)
    flat = coef[0] if coef.ndim == 2 and len(coef) == 1 else coef  # noqa: PLR2004 - dimensions
    return context.linear(value, flat, estimator.intercept_)


def label_from(decision: Tensor, context: Context) -> Tensor:
    """Return 1 where the decision is above zero, else 0, int32."""
    return context.graph.cast(context.graph.greater(decision, 0.0), "int32")


def two_columns(positive: Tensor, context: Context) -> Tensor:
    """Return the columns (1 - p, p)."""
    g = context.graph
    column = g.reshape(positive, (-1, 1))
    return g.concat([g.sub(1.0, column), column], axis=1)
