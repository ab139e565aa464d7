"""Many classes from binary classifiers: one against the rest, one against one, codes."""

from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.multiclass import (
    OneVsOneClassifier,
    OneVsRestClassifier,
    OutputCodeClassifier,
    _ConstantPredictor,
    _predict_binary,
    _threshold_for_binary_predict,
)

from fieldloop_cloud.compile.classical.several import above
from fieldloop_cloud.compile.classical.svm import pair_decision
from fieldloop_cloud.compile.lowering import Context, Outputs, lowers
from fieldloop_cloud.compile.tensor import Tensor
from fieldloop_cloud.compile.value import Value

TWO = 2

RESOLUTION = 1e-6
"""Probabilities that differ by less are the same in float32."""


@lowers(_ConstantPredictor)
def constant(estimator: Any, value: Value, context: Context) -> Outputs:
    """What scikit-learn puts where training rows had a single class: a constant answer."""
    g = context.graph
    answer = float(np.ravel(estimator.y_)[0])
    zero = g.mul(g.sum(value.tensor(), 1, keepdims=True), 0.0)
    decision = g.reshape(g.add(zero, answer), (-1,))
    return {
        "label": g.cast(decision, "int32"),
        "decision": decision,
        "probabilities": g.add(zero, np.array([[1 - answer, answer]])),
    }


@lowers(OneVsRestClassifier)
def one_vs_rest(estimator: Any, value: Value, context: Context) -> Outputs:
    """The class whose own classifier is surest."""
    g = context.graph
    members = [
        context.lower(member, value, step=f"class {number}")
        for number, member in enumerate(estimator.estimators_)
    ]
    if estimator.multilabel_:
        threshold = _threshold_for_binary_predict(estimator.estimators_[0])
        context.ties.append(lambda rows: _near(estimator, value.reference(rows), threshold))
        return _several_labels(members, threshold, context)
    if len(members) == 1:
        return _two_classes(members[0], context)
    scores = g.concat([_score(member, context) for member in members], axis=1)
    outputs = {"label": g.arg_max(scores)}
    if all("decision" in member for member in members):
        outputs["decision"] = g.concat([_score(member, context) for member in members], axis=1)
    if not all("decision" in member or "value" in member for member in members):
        context.ties.append(lambda rows: _unresolved(estimator, value.reference(rows)))
    if all("probabilities" in member for member in members):
        share = g.concat([_second(member, context) for member in members], axis=1)
        total = g.sum(share, 1, keepdims=True)
        nothing = g.equal(total, 0.0)
        outputs["probabilities"] = g.div(share, g.select(nothing, np.ones((1, 1)), total))
    return outputs


def _several_labels(members: list[Outputs], threshold: float, context: Context) -> Outputs:
    """Any number of labels for one row: each where its own classifier says so."""
    g = context.graph
    scores = g.concat([_score(member, context) for member in members], axis=1)
    outputs: dict[str, Tensor] = {**above(scores, threshold, context)}
    if all("decision" in member for member in members):
        outputs["decision"] = scores
    if all("probabilities" in member for member in members):
        shares = [_second(member, context) for member in members]
        outputs["probabilities"] = g.concat(shares, axis=1)
    return outputs


def _near(estimator: Any, rows: Any, threshold: float) -> NDArray[np.bool_]:
    """Whether some score is the threshold in float32."""
    scores = np.stack([_predict_binary(one, rows) for one in estimator.estimators_], axis=1)
    size = np.maximum(np.abs(scores).max(initial=0.0), 1.0)
    return np.asarray((np.abs(scores - threshold) <= RESOLUTION * size).any(axis=1))


def _unresolved(estimator: Any, rows: Any) -> NDArray[np.bool_]:
    """Whether the two surest classes are alike in float32: both certain, or both impossible."""
    sure = [_predict_binary(member, rows) for member in estimator.estimators_]
    ordered = np.sort(np.stack(sure, axis=1), axis=1)
    return np.asarray(ordered[:, -1] - ordered[:, -2] <= RESOLUTION)


def _two_classes(member: Outputs, context: Context) -> Outputs:
    """One classifier for two classes: as it is, but the decision is compared with its threshold."""
    g = context.graph
    kept = {role: member[role] for role in ("decision", "probabilities") if role in member}
    score = g.reshape(_score(member, context), (-1,))
    threshold = 0.0 if "decision" in member else 0.5
    return {"label": g.cast(g.greater(score, threshold), "int32"), **kept}


def _score(member: Outputs, context: Context) -> Tensor:
    """Return how sure a binary classifier is: decision, value or the second class's probability."""
    made = member.get("decision", member.get("value"))
    if isinstance(made, Tensor):
        return context.graph.reshape(made, (-1, 1))
    return _second(member, context)


def _second(member: Outputs, context: Context) -> Tensor:
    shares = member.get("probabilities")
    if not isinstance(shares, Tensor):
        raise context.refuse(
            "a member has neither a decision nor probabilities",
            parameter="estimator",
            advice="Use classifiers with decision_function or predict_proba.",
        )
    return context.graph.columns(shares, 1, 2)


@lowers(OneVsOneClassifier)
def one_vs_one(estimator: Any, value: Value, context: Context) -> Outputs:
    """Votes of all pairs, ties decided by how sure they are."""
    if estimator.pairwise_indices_ is not None:
        raise context.refuse(
            "members on a precomputed kernel are not supported",
            parameter="estimator",
            advice="Use a kernel that is a formula, for example 'rbf'.",
        )
    g = context.graph
    count = len(estimator.classes_)
    members = [
        context.lower(member, value, step=f"pair {i} and {j}")
        for member, (i, j) in zip(estimator.estimators_, combinations(range(count), 2), strict=True)
    ]
    scores = g.concat([_score(member, context) for member in members], axis=1)
    votes = g.concat([_vote(member, context) for member in members], axis=1)
    decision = pair_decision(g, g.sub(1.0, votes), g.neg(scores), count)
    if count > TWO:
        return {"label": g.arg_max(decision), "decision": decision}
    second = g.reshape(g.columns(decision, 1, 2), (-1,))
    threshold = 0.0 if "decision" in members[0] or "value" in members[0] else 0.5
    return {"label": g.cast(g.greater(second, threshold), "int32"), "decision": second}


def _vote(member: Outputs, context: Context) -> Tensor:
    """Return the class that a member predicts, 0 or 1, as a float column."""
    g = context.graph
    label = member.get("label")
    if not isinstance(label, Tensor):
        raise context.refuse(
            "a member is no classifier", parameter="estimator", advice="Use binary classifiers."
        )
    return g.reshape(g.cast(label, "float32"), (-1, 1))


@lowers(OutputCodeClassifier)
def output_code(estimator: Any, value: Value, context: Context) -> Outputs:
    """The class whose code is nearest to the members' answers."""
    g = context.graph
    context.unsteady = True
    members = [
        context.lower(member, value, step=f"bit {number}")
        for number, member in enumerate(estimator.estimators_)
    ]
    scores = g.concat([_score(member, context) for member in members], axis=1)
    codes = np.asarray(estimator.code_book_, np.float64)
    apart = g.sub(g.expand_dims(scores, 1), codes)
    return {"label": g.arg_min(g.sum(g.square(apart), 2))}
