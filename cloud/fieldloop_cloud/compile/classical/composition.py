"""Estimators made of estimators: in a row, side by side, or chosen by a search."""

from typing import Any

import numpy as np
from sklearn.compose import ColumnTransformer, TransformedTargetRegressor
from sklearn.model_selection import GridSearchCV, RandomizedSearchCV
from sklearn.pipeline import FeatureUnion, Pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler

from fieldloop_cloud.compile.lowering import Context, Outputs, lowers
from fieldloop_cloud.compile.tensor import Tensor
from fieldloop_cloud.compile.value import Value, side_by_side


@lowers(Pipeline)
def pipeline(estimator: Any, value: Value, context: Context) -> Outputs:
    """Each step on what the one before it made."""
    *transformers, (name, last) = estimator.steps
    for step, transformer in transformers:
        value = context.transform(transformer, value, step=step)
    if last is None or last == "passthrough":
        return {"transformed": value}
    return context.lower(last, value, step=name)


@lowers(ColumnTransformer)
def column_transformer(estimator: Any, value: Value, context: Context) -> Outputs:
    """Each transformer on its columns, the results side by side."""
    places = estimator._transformer_to_input_indices  # noqa: SLF001 - names resolved at fit
    parts = []
    for name, transformer, _ in estimator.transformers_:
        columns = np.asarray(places.get(name, []), dtype=np.intp)
        if not len(columns) or (isinstance(transformer, str) and transformer == "drop"):
            continue
        part = context.transform(transformer, value.take(columns), step=name)
        weight = (estimator.transformer_weights or {}).get(name)
        parts.append(part if weight is None else _weighted(part, weight))
    return {"transformed": _joined(parts, context)}


@lowers(FeatureUnion)
def feature_union(estimator: Any, value: Value, context: Context) -> Outputs:
    """Each transformer on all columns, the results side by side."""
    parts = []
    for name, transformer in estimator.transformer_list:
        if isinstance(transformer, str) and transformer == "drop":
            continue
        part = context.transform(transformer, value, step=name)
        weight = (estimator.transformer_weights or {}).get(name)
        parts.append(part if weight is None else _weighted(part, weight))
    return {"transformed": _joined(parts, context)}


def _weighted(part: Value, weight: float) -> Value:
    before = part.reference
    return part.scaled(weight, 0.0).with_reference(lambda rows: before(rows) * weight)


def _joined(parts: list[Value], context: Context) -> Value:
    if not parts:
        raise context.refuse("no column is left", advice="Let at least one transformer through.")
    return side_by_side(parts)


@lowers(GridSearchCV, RandomizedSearchCV)
def search(estimator: Any, value: Value, context: Context) -> Outputs:
    """The best estimator found."""
    if not hasattr(estimator, "best_estimator_"):
        raise context.refuse(
            "the best estimator was not fitted on all data",
            parameter="refit",
            advice="Search with refit=True.",
        )
    return context.lower(estimator.best_estimator_, value, step="best_estimator")


@lowers(TransformedTargetRegressor)
def transformed_target(estimator: Any, value: Value, context: Context) -> Outputs:
    """A regressor whose target was scaled; the inverse is put behind it."""
    outputs = context.lower(estimator.regressor_, value, step="regressor")
    made = outputs["value"]
    assert isinstance(made, Tensor)
    return {"value": _inverse(estimator, made, context)}


def _inverse(estimator: Any, made: Tensor, context: Context) -> Tensor:
    g, transformer = context.graph, estimator.transformer_
    if type(transformer) is StandardScaler:
        scaled = made
        if transformer.with_std:
            scaled = g.mul(scaled, np.asarray(transformer.scale_))
        return g.add(scaled, np.asarray(transformer.mean_)) if transformer.with_mean else scaled
    if type(transformer) is MinMaxScaler and not transformer.clip:
        shifted = g.sub(made, np.asarray(transformer.min_))
        return g.mul(shifted, 1.0 / np.asarray(transformer.scale_))
    inverse = estimator.inverse_func
    if estimator.func is None and estimator.transformer is None:
        return made
    if inverse is np.exp:
        return g.exp(made)
    if inverse is np.expm1:
        return g.sub(g.exp(made), 1.0)
    if inverse is np.square:
        return g.square(made)
    raise context.refuse(
        "the inverse of the target's transformation is not known here",
        parameter="inverse_func" if estimator.func is not None else "transformer",
        advice="Use StandardScaler, MinMaxScaler, np.exp, np.expm1 or np.square.",
    )
