"""Decision trees and forests of them: averages over the leaves reached.

The leaf that a float32 row reaches is scikit-learn's, rows on a threshold and missing values
included (`compile.forest`). Covers DecisionTree*, ExtraTree*, RandomForest* and ExtraTrees*.
"""

from dataclasses import replace
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

from fieldloop_cloud.compile.classical.several import (
    labels_of,
    probabilities_of,
    several_places,
)
from fieldloop_cloud.compile.forest import Forest, Tree
from fieldloop_cloud.compile.lowering import Context, Outputs, lowers
from fieldloop_cloud.compile.value import Value

TREES = frozenset(
    {
        DecisionTreeClassifier,
        DecisionTreeRegressor,
        ExtraTreeClassifier,
        ExtraTreeRegressor,
        ExtraTreesClassifier,
        ExtraTreesRegressor,
        RandomForestClassifier,
        RandomForestRegressor,
    }
)
"""Trees, and forests of them."""


@lowers(DecisionTreeClassifier, ExtraTreeClassifier, RandomForestClassifier, ExtraTreesClassifier)
def tree_classifier(estimator: Any, value: Value, context: Context) -> Outputs:
    """Mean of the trees' class probabilities; the label is the first largest."""
    trees = [tree_of(fitted) for fitted in members(estimator)]
    if estimator.n_outputs_ != 1:
        return _several_targets(estimator, trees, value, context)
    sums = Forest(trees).sums(context, value)
    return {
        "label": context.graph.arg_max(sums.tensor),
        "probabilities": sums.real(1 / len(trees)),
    }


def _several_targets(estimator: Any, trees: list[Tree], value: Value, context: Context) -> Outputs:
    """One walk for all targets: a leaf holds the probabilities of each, side by side."""
    g = context.graph
    counts = [int(count) for count in np.ravel(estimator.n_classes_)]
    # scikit-learn gives every target as many columns as the one with the most classes needs.
    kept = [max(counts) * target + k for target, n in enumerate(counts) for k in range(n)]
    trees = [replace(tree, values=tree.values[:, kept]) for tree in trees]
    places = several_places(counts)
    sums = Forest(trees, targets=tuple(slice(*place) for place in places)).sums(context, value)
    shares = sums.real(1 / len(trees))
    return {
        "label": labels_of([g.columns(sums.tensor, *place) for place in places], context),
        **probabilities_of([g.columns(shares, *place) for place in places]),
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
