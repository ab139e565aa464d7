"""Decision trees and forests of them: averages over the leaves reached.

The leaf that a float32 row reaches is scikit-learn's, rows on a threshold and missing values
included (`compile.forest`). Covers DecisionTree*, ExtraTree*, RandomForest* and ExtraTrees*.
"""

from typing import Any

import numpy as np
from sklearn.ensemble import (
    ExtraTreesClassifier,
    ExtraTreesRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.tree import (
    DecisionTreeClassifier,
    DecisionTreeRegressor,
    ExtraTreeClassifier,
    ExtraTreeRegressor,
)

from fieldloop_cloud.compile.forest import Forest, Tree
from fieldloop_cloud.compile.lowering import Context, Outputs, lowers
from fieldloop_cloud.compile.value import Value


@lowers(DecisionTreeClassifier, ExtraTreeClassifier, RandomForestClassifier, ExtraTreesClassifier)
def tree_classifier(estimator: Any, value: Value, context: Context) -> Outputs:
    """Mean of the trees' class probabilities; the label is the first largest."""
    if estimator.n_outputs_ != 1:
        raise context.refuse(
            f"it was fitted on {estimator.n_outputs_} targets",
            parameter="n_outputs_",
            advice="Fit one classifier for each target.",
        )
    trees = [tree_of(fitted) for fitted in members(estimator)]
    sums = Forest(trees).sums(context, value)
    return {
        "label": context.graph.arg_max(sums.tensor),
        "probabilities": sums.real(1 / len(trees)),
    }


@lowers(DecisionTreeRegressor, ExtraTreeRegressor, RandomForestRegressor, ExtraTreesRegressor)
def tree_regressor(estimator: Any, value: Value, context: Context) -> Outputs:
    """Mean of the trees' values."""
    forest = Forest([tree_of(fitted) for fitted in members(estimator)], centred=True)
    targets = (-1, estimator.n_outputs_) if estimator.n_outputs_ > 1 else (-1,)
    if len(forest.trees) == 1 and context.precision == "float32":
        return {"value": context.graph.reshape(forest.values(context, value), targets)}
    mean = forest.sums(context, value).real(1 / len(forest.trees))
    return {"value": context.graph.reshape(mean, targets)}


def members(estimator: Any) -> list[Any]:
    """Return the trees of a forest, or the tree itself."""
    return list(getattr(estimator, "estimators_", [estimator]))


def tree_of(fitted: Any, *, columns: Any = None, factor: float = 1.0) -> Tree:
    """Return a fitted scikit-learn tree as tables.

    Args:
        fitted: A DecisionTree* or ExtraTree*.
        columns: For a tree on some of the columns: which ones, (n_features,).
        factor: What its values are multiplied by.
    """
    nodes = fitted.tree_
    column = np.maximum(nodes.feature, 0)  # -2 at a leaf
    values = np.asarray(nodes.value, np.float64)
    return Tree(
        column=column if columns is None else np.asarray(columns)[column],
        threshold=nodes.threshold,
        left=nodes.children_left,
        right=nodes.children_right,
        missing_left=nodes.missing_go_to_left.astype(np.bool_),
        values=values.reshape(len(values), -1) * factor,
    )
