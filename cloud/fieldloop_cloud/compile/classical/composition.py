"""Estimators made of estimators in a row or side by side."""

from typing import Any

from sklearn.pipeline import Pipeline

from fieldloop_cloud.compile.lowering import Context, Outputs, lowers
from fieldloop_cloud.compile.value import Value


@lowers(Pipeline)
def pipeline(estimator: Any, value: Value, context: Context) -> Outputs:
    """Each step on what the one before it made."""
    *transformers, (name, last) = estimator.steps
    for step, transformer in transformers:
        value = context.transform(transformer, value, step=step)
    if last is None or last == "passthrough":
        return {"transformed": value}
    return context.lower(last, value, step=name)
