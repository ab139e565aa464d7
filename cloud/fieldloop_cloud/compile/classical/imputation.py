"""Missing values: filled in, or pointed at."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from sklearn.impute import MissingIndicator, SimpleImputer

from fieldloop_cloud.compile.lowering import Context, Outputs, lowers
from fieldloop_cloud.compile.rows import is_missing
from fieldloop_cloud.compile.tensor import Tensor
from fieldloop_cloud.compile.value import Value, side_by_side


@lowers(SimpleImputer)
def simple_imputer(estimator: Any, value: Value, context: Context) -> Outputs:
    """Each missing cell becomes its column's statistic; columns without one are dropped."""
    statistics = np.asarray(estimator.statistics_, dtype=object)
    kept = np.array([not is_missing(s) for s in statistics])
    columns = np.arange(value.width) if estimator.keep_empty_features else np.flatnonzero(kept)
    filled = value.take(columns)
    fill = np.array(
        [_fill(filled, place, statistics[c]) for place, c in enumerate(columns)], np.float32
    )
    g = context.graph
    missing = _missing(estimator, context)
    # Another marker than NaN moves a number, which is no rising function.
    rising = range(filled.width) if is_missing(estimator.missing_values) else None

    def build() -> Tensor:
        table = filled.tensor()
        return g.select(missing(table), fill, table)

    made = replace(filled.opaque(build, monotone=rising), vocabularies=filled.vocabularies)
    if estimator.indicator_ is None:
        return {"transformed": made}
    flags = _flags(estimator.indicator_, value, context)
    return {"transformed": side_by_side([made, flags])}


@lowers(MissingIndicator)
def missing_indicator(estimator: Any, value: Value, context: Context) -> Outputs:
    """1 where a cell is missing, else 0, for the columns that the indicator watches."""
    return {"transformed": _flags(estimator, value, context)}


def _flags(estimator: Any, value: Value, context: Context) -> Value:
    g = context.graph
    watched = value.take(np.asarray(estimator.features_))
    missing = _missing(estimator, context)
    return watched.opaque(lambda: g.cast(missing(watched.tensor()), "float32"))


def _missing(estimator: Any, context: Context) -> Callable[[Tensor], Tensor]:
    """Return the question whether a cell is missing."""
    g, marker = context.graph, estimator.missing_values
    if is_missing(marker):
        return lambda table: g.not_equal(table, table)
    if isinstance(marker, str):
        raise context.refuse(
            "a text stands for a missing value",
            parameter="missing_values",
            advice="Replace it by NaN or None before fitting.",
        )
    return lambda table: g.equal(table, np.float32(marker))


def _fill(value: Value, place: int, statistic: Any) -> float:
    vocabulary = value.vocabularies[place]
    if vocabulary is not None:
        return vocabulary.codes([statistic])[0]
    return float(statistic)
