"""Feature selection: columns are picked, nothing is computed."""

from typing import Any

import numpy as np
from sklearn import feature_selection as fs

from fieldloop_cloud.compile.lowering import Context, Outputs, lowers
from fieldloop_cloud.compile.value import Value


@lowers(
    fs.VarianceThreshold,
    fs.SelectKBest,
    fs.SelectPercentile,
    fs.SelectFpr,
    fs.SelectFdr,
    fs.SelectFwe,
    fs.GenericUnivariateSelect,
    fs.SelectFromModel,
    fs.SequentialFeatureSelector,
)
def selector(estimator: Any, value: Value, context: Context) -> Outputs:
    """The columns that were kept."""
    return {"transformed": _kept(estimator, value, context)}


@lowers(fs.RFE, fs.RFECV)
def recursive_elimination(estimator: Any, value: Value, context: Context) -> Outputs:
    """The columns that were kept, and what the estimator fitted on them says."""
    kept = _kept(estimator, value, context)
    outputs = context.lower(estimator.estimator_, kept, step="estimator")
    return {**outputs, "transformed": kept}


def _kept(estimator: Any, value: Value, context: Context) -> Value:
    columns = np.flatnonzero(estimator.get_support())
    if not len(columns):
        raise context.refuse("no feature was selected", advice="Lower the selector's threshold.")
    return value.take(columns)
