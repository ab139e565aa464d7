"""Boosted trees: a baseline plus the trees' leaves, and what turns the sums into answers.

Covers GradientBoosting* and AdaBoost* (HistGradientBoosting* is in `histogram`). AdaBoost adds up
votes: over trees as one forest, over any other estimator as their labels.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.ensemble import (
    AdaBoostClassifier,
    AdaBoostRegressor,
    GradientBoostingClassifier,
    GradientBoostingRegressor,
)
from sklearn.tree import (
    DecisionTreeClassifier,
    DecisionTreeRegressor,
    ExtraTreeClassifier,
    ExtraTreeRegressor,
)

from fieldloop_cloud.compile.classical.trees import tree_of
from fieldloop_cloud.compile.forest import Forest, Sums, Tree
from fieldloop_cloud.compile.graph import Graph
from fieldloop_cloud.compile.lowering import Context, Outputs, lowers
from fieldloop_cloud.compile.tensor import Tensor
from fieldloop_cloud.compile.value import Value

SINGLE_TREES = (
    DecisionTreeClassifier,
    DecisionTreeRegressor,
    ExtraTreeClassifier,
    ExtraTreeRegressor,
)


@lowers(GradientBoostingClassifier)
def gradient_boosting_classifier(estimator: Any, value: Value, context: Context) -> Outputs:
    """Logistic function or softmax of the sums; at exactly zero the second class wins."""
    baseline = _constant_baseline(estimator)
    if baseline is None:
        raise context.refuse(
            "its init estimator's probabilities cannot be added in float32 without loss",
            parameter="init",
            advice="Use init=None or init='zero'.",
        )
    g = context.graph
    sums = _boosted(estimator, baseline).sums(context, value)
    if sums.tensor.shape[1] > 1:
        return several_classes(sums)
    doubled = 2.0 if estimator.loss == "exponential" else 1.0
    return {
        "label": sums.at_least(0.0),
        "probabilities": two_columns(g, sums.real(doubled)),
        "decision": sums.column(),
    }


@lowers(GradientBoostingRegressor)
def gradient_boosting_regressor(estimator: Any, value: Value, context: Context) -> Outputs:
    """Baseline plus the learning rate times the trees' values."""
    baseline = _constant_baseline(estimator)
    forest = _boosted(estimator, 0.0 if baseline is None else baseline, centred=True)
    summed = forest.sums(context, value).column()
    if baseline is None:
        first = context.lower(estimator.init_, value, step="init")["value"]
        assert isinstance(first, Tensor)
        summed = context.graph.add(summed, first)
    return {"value": summed}


@lowers(AdaBoostClassifier)
def adaboost_classifier(estimator: Any, value: Value, context: Context) -> Outputs:
    """Weighted votes: for a class the weight, against it a share of the weight (SAMME)."""
    g, count = context.graph, estimator.n_classes_
    if count < 2:  # noqa: PLR2004 - a vote needs an alternative
        raise context.refuse("it saw a single class", parameter="classes_", advice="Fit on two.")
    members = estimator.estimators_
    weights = np.asarray(estimator.estimator_weights_[: len(members)], np.float64)
    votes = (1 + 1 / (count - 1)) * np.eye(count) - 1 / (count - 1)
    if count == 2:  # noqa: PLR2004 - scikit-learn's decision is the difference then
        votes = np.array([[-2.0], [2.0]])
    shares = weights / weights.sum()
    if all(type(member) in SINGLE_TREES for member in members):
        trees = [
            _voting_tree(member, share * votes, estimator.classes_)
            for member, share in zip(members, shares, strict=True)
        ]
        sums = Forest(trees).sums(context, value)
    else:
        sums = _voting_sums(estimator, value, context, shares[:, None, None] * votes)
    if count > 2:  # noqa: PLR2004 - as above
        made = several_classes(sums)
        return {**made, "probabilities": g.softmax(sums.real(1 / (count - 1)))}
    return {**two_classes(sums), "decision": sums.column()}


@lowers(AdaBoostRegressor)
def adaboost_regressor(estimator: Any, value: Value, context: Context) -> Outputs:
    """Weighted median of the members' values."""
    g, members = context.graph, estimator.estimators_
    weights = np.asarray(estimator.estimator_weights_[: len(members)], np.float64)
    table = _member_values(members, value, context)
    if len(members) == 1:
        return {"value": g.reshape(table, (-1,))}
    # Fixed point again: the sums are exact, so that half of the weight is exactly half.
    whole = np.rint(weights / weights.sum() * 2.0**30).astype(np.int32)
    falling, order = g.topk(g.neg(table), len(members))
    running = g.cumsum(g.gather(whole, order))
    half = np.int32((int(whole.sum()) + 1) // 2)
    # The first place where the running weight reaches half: so many places lie before it.
    before = g.sum(g.cast(g.less(running, half), "int32"), 1, keepdims=True)
    chosen = g.gather(g.neg(falling), before, axis=1, batch_dims=1)
    return {"value": g.reshape(chosen, (-1,))}


def several_classes(sums: Sums) -> dict[str, Tensor]:
    """Return label, softmax probabilities and decision of one sum a class."""
    decision = sums.real()
    return {
        "label": sums.largest(),
        "probabilities": sums.graph.softmax(decision),
        "decision": decision,
    }


def two_classes(sums: Sums, *, factor: float = 1.0) -> dict[str, Tensor]:
    """Return label and probabilities of one sum; sums · factor are the second class's log-odds."""
    probabilities = two_columns(sums.graph, sums.real(factor))
    return {"label": sums.above_zero(), "probabilities": probabilities}


def several_labels(sums: Sums) -> dict[str, Tensor]:
    """Return any number of labels for one row; the sums are each label's log-odds."""
    g = sums.graph
    label = g.cast(g.greater(sums.tensor, np.int32(0)), "int32")
    return {"label": label, "probabilities": g.logistic(sums.real())}


def two_columns(g: Graph, decision: Tensor) -> Tensor:
    """Return the probabilities of two classes from the log-odds of the second, float32 (-1, 2).

    Each column is a logistic function of its own: 1 - p would lose small numbers.
    """
    column = g.reshape(decision, (-1, 1))
    return g.logistic(g.mul(column, np.array([-1.0, 1.0], np.float32)))


def _constant_baseline(estimator: Any) -> NDArray[np.float64] | None:
    """Return what boosting starts from for every row; None if it depends on the row."""
    init = estimator.init_
    constant = type(init) is DummyClassifier and init.strategy in ("prior", "most_frequent")
    if not (constant or type(init) is DummyRegressor or isinstance(init, str)):
        return None
    blank = np.zeros((1, estimator.n_features_in_), np.float32)
    return np.asarray(estimator._raw_predict_init(blank)[0])  # noqa: SLF001 - has no public name


def _boosted(estimator: Any, baseline: Any, *, centred: bool = False) -> Forest:
    stages = estimator.estimators_
    trees = [tree_of(tree, factor=estimator.learning_rate) for tree in stages.ravel()]
    return Forest(trees, groups=stages.shape[1], baseline=baseline, centred=centred)


def _voting_tree(member: Any, votes: NDArray[np.float64], classes: Any) -> Tree:
    """Return the tree with its label's votes as leaf values."""
    tree = tree_of(member)
    place = np.searchsorted(classes, member.classes_)
    label = place[tree.values[:, : len(place)].argmax(axis=1)]
    return Tree(tree.column, tree.threshold, tree.left, tree.right, tree.missing_left, votes[label])


def _voting_sums(estimator: Any, value: Value, context: Context, votes: Any) -> Sums:
    """Add up the votes of members that are no trees; votes (members, classes, sums)."""
    g = context.graph
    step = 2.0**30 / np.abs(votes).max(axis=(1, 2)).sum()
    tables = np.rint(votes * step).astype(np.int32)
    parts = []
    for i, (member, table) in enumerate(zip(estimator.estimators_, tables, strict=True)):
        label = context.lower(member, value, step=f"estimator {i}")["label"]
        assert isinstance(label, Tensor)
        parts.append(g.gather(table[np.searchsorted(estimator.classes_, member.classes_)], label))
    total = g.sum(g.pack(parts, axis=1), 1)
    return Sums(g, total, np.full(votes.shape[2], 1 / step), np.zeros(votes.shape[2]))


def _member_values(members: Sequence[Any], value: Value, context: Context) -> Tensor:
    """Return the value of each regressor in a column of its own, float32 (-1, members)."""
    if all(type(member) in SINGLE_TREES for member in members):
        values = Forest([tree_of(member) for member in members]).values(context, value)
        return context.graph.reshape(values, (-1, len(members)))
    g = context.graph
    columns = []
    for i, member in enumerate(members):
        made = context.lower(member, value, step=f"estimator {i}")["value"]
        assert isinstance(made, Tensor)
        columns.append(g.reshape(made, (-1, 1)))
    return g.concat(columns, axis=1)
