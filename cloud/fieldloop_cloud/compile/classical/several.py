"""Several targets: an estimator for each, chains of them, and what all such models share.

The labels of all targets are one output with a column for each, as scikit-learn's `predict` has
them. Probabilities are one output a target (`probabilities_0`, …) where scikit-learn has a list of
them, and one column a target where it has a table.
"""

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.multioutput import (
    ClassifierChain,
    MultiOutputClassifier,
    MultiOutputRegressor,
    RegressorChain,
)

from fieldloop_cloud.compile.lowering import Context, Outputs, lowers
from fieldloop_cloud.compile.tensor import Tensor
from fieldloop_cloud.compile.value import Reference, Value, host_array, side_by_side

TWO = 2


def several_places(counts: Sequence[int]) -> list[tuple[int, int]]:
    """Return first column and end of each target, all side by side.

    >>> several_places([2, 3])
    [(0, 2), (2, 5)]
    """
    return list(pairwise(accumulate(counts, initial=0)))


def labels_of(scores: Sequence[Tensor], context: Context) -> Tensor:
    """Emit the label of each target, the first largest of its scores; int32 (-1, targets)."""
    g = context.graph
    return g.concat([g.reshape(g.arg_max(score), (-1, 1)) for score in scores], axis=1)


def probabilities_of(parts: Sequence[Tensor]) -> dict[str, Tensor]:
    """Name the probabilities of each target."""
    return {f"probabilities_{number}": part for number, part in enumerate(parts)}


def above(scores: Tensor, threshold: float, context: Context) -> dict[str, Tensor]:
    """Emit label 1 where a score is above the threshold, else 0; int32 (-1, targets)."""
    g = context.graph
    return {"label": g.cast(g.greater(scores, threshold), "int32")}


@lowers(MultiOutputRegressor)
def multi_output_regressor(estimator: Any, value: Value, context: Context) -> Outputs:
    """One regressor a target."""
    columns = [
        _column(context.lower(member, value, step=f"target {number}"), "value", context)
        for number, member in enumerate(estimator.estimators_)
    ]
    return {"value": context.graph.concat(columns, axis=1)}


@lowers(MultiOutputClassifier)
def multi_output_classifier(estimator: Any, value: Value, context: Context) -> Outputs:
    """One classifier a target."""
    members = [
        context.lower(member, value, step=f"target {number}")
        for number, member in enumerate(estimator.estimators_)
    ]
    labels = [_column(member, "label", context) for member in members]
    shares = [member.get("probabilities") for member in members]
    tables = [share for share in shares if isinstance(share, Tensor)]
    return {
        "label": context.graph.concat(labels, axis=1),
        **(probabilities_of(tables) if len(tables) == len(members) else {}),
    }


@lowers(RegressorChain)
def regressor_chain(estimator: Any, value: Value, context: Context) -> Outputs:
    """One regressor a target; each sees the values of those before it."""
    columns = []
    table = value
    for number, member in enumerate(estimator.estimators_):
        made = context.lower(member, table, step=f"target {number}")
        columns.append(_column(made, "value", context))
        table = _extended(member, table, columns[-1], "predict")
    return {"value": _in_order(columns, estimator, context)}


@lowers(ClassifierChain)
def classifier_chain(estimator: Any, value: Value, context: Context) -> Outputs:
    """One classifier a target; each sees what those before it answer."""
    members: list[Outputs] = []
    table = value
    for number, member in enumerate(estimator.estimators_):
        members.append(context.lower(member, table, step=f"target {number}"))
        said = _said(members[-1], member, estimator.chain_method_, context)
        table = _extended(member, table, said, estimator.chain_method_)
    classes = [np.asarray(member.classes_).tolist() for member in estimator.estimators_]
    order = np.argsort(np.asarray(estimator.order_))
    context.classes = [classes[place] for place in order]  # classes_ is in the chain's order
    labels = [_column(member, "label", context) for member in members]
    outputs = {"label": _in_order(labels, estimator, context)}
    # scikit-learn's chains give no probabilities or decisions for more than two classes.
    if all(len(known) == TWO for known in classes):
        for role in ("probabilities", "decision"):
            if all(role in member for member in members):
                columns = [_column(member, role, context) for member in members]
                outputs[role] = _in_order(columns, estimator, context)
    return outputs


def _said(outputs: Outputs, member: Any, method: str, context: Context) -> Tensor:
    """Return what the next members see, (-1, 1)."""
    g = context.graph
    if method == "predict":
        codes = np.asarray(member.classes_, np.float64)[:, None]
        label = outputs["label"]
        assert isinstance(label, Tensor)
        return g.gather(np.float32(codes), label)
    if method == "predict_proba" and "probabilities" in outputs:
        return _column(outputs, "probabilities", context)
    if method == "decision_function" and "decision" in outputs:
        return _column(outputs, "decision", context)
    raise context.refuse(
        f"answers of {method} cannot be handed on",
        parameter="chain_method",
        advice="Use 'predict', 'predict_proba' or 'decision_function'.",
    )


def _column(outputs: Outputs, role: str, context: Context) -> Tensor:
    """Return one output of a member as a column, (-1, 1); of probabilities the second class's."""
    g = context.graph
    made = outputs.get(role)
    if isinstance(made, Tensor) and role == "probabilities" and made.shape[1] == TWO:
        return g.columns(made, 1, TWO)
    if not isinstance(made, Tensor) or (made.rank > 1 and made.shape[1] != 1):
        raise context.refuse(
            f"a member does not give one {role} a row",
            parameter="estimator",
            advice="Use an estimator for one target.",
        )
    return g.reshape(made, (-1, 1))


def _in_order(columns: Sequence[Tensor], estimator: Any, context: Context) -> Tensor:
    """Put the columns of a chain in the targets' order."""
    order = np.argsort(np.asarray(estimator.order_))
    return context.graph.concat([columns[place] for place in order], axis=1)


def _extended(member: Any, table: Value, column: Tensor, method: str) -> Value:
    """Return the table with a member's answer as one more column."""
    longer = side_by_side([table, table.opaque(column)])
    before: Reference = table.reference

    def reference(rows: NDArray[Any]) -> Any:
        known = host_array(before(rows))
        said = np.asarray(getattr(member, method)(known))
        return np.column_stack([known, said[:, 1] if method == "predict_proba" else said])

    return longer.with_reference(reference)
