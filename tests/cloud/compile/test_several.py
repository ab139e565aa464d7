"""Several targets: what is refused, what each target is judged by, chains in any order."""

import warnings

import numpy as np
import pytest
from sklearn.datasets import load_iris
from sklearn.ensemble import RandomForestClassifier, StackingClassifier
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.multiclass import OneVsRestClassifier
from sklearn.multioutput import ClassifierChain, MultiOutputClassifier, MultiOutputRegressor
from sklearn.neighbors import KNeighborsClassifier
from sklearn.tree import DecisionTreeClassifier

from fieldloop.errors import GateError, UnsupportedError
from fieldloop_cloud.compile import parity
from fieldloop_cloud.compile.api import to_tflite
from fieldloop_cloud.compile.rows import Rows

X, Y = load_iris(return_X_y=True)
X = X.astype(np.float32).astype(float)
SEVERAL = np.column_stack([np.array([7, -2, 30])[Y], np.array([9, 5])[(X[:, 0] > 5.8).astype(int)]])


@pytest.mark.parametrize("order", [[1, 0], [0, 1]])
def test_a_chain_in_any_order_has_the_labels_of_its_columns(order):
    model = ClassifierChain(DecisionTreeClassifier(max_depth=4), order=order).fit(X, SEVERAL)
    compiled = to_tflite(model, example=X)
    assert [target.labels for target in compiled.signature.targets] == [(-2, 7, 30), (5, 9)]
    assert compiled.run(X)["label"].tolist() == model.predict(X).tolist()
    # scikit-learn has no probabilities for more than two classes in a chain.
    assert "probabilities" not in compiled.run(X)


def test_what_a_chain_cannot_hand_on_is_refused():
    labels = np.column_stack([Y > 0, Y > 1]).astype(int)
    member = LogisticRegression(max_iter=300)
    model = ClassifierChain(member, chain_method="predict_log_proba").fit(X, labels)
    with pytest.raises(UnsupportedError, match="chain_method"):
        to_tflite(model, example=X)


def test_stacking_of_several_labels_is_refused():
    labels = np.column_stack([Y > 0, Y > 1]).astype(int)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = StackingClassifier([("a", KNeighborsClassifier())], RandomForestClassifier(3))
        model.fit(X, labels)
    with pytest.raises(UnsupportedError, match="several labels"):
        to_tflite(model, example=X)


def test_probabilities_are_named_by_target_where_all_members_have_them():
    with_them = MultiOutputClassifier(LogisticRegression(max_iter=300)).fit(X, SEVERAL)
    outputs = to_tflite(with_them, example=X).signature.outputs
    assert [(spec.name, spec.target) for spec in outputs] == [
        ("label", None),
        ("probabilities_0", 0),
        ("probabilities_1", 1),
    ]


def test_labels_of_many_kinds_keep_them():
    model = MultiOutputClassifier(DecisionTreeClassifier(max_depth=3)).fit(X, SEVERAL)
    labels = {"kind": ["a", "b", "c"], "is_long": [False, True]}
    compiled = to_tflite(model, example=X, labels=labels)
    row = compiled.run(X[:1])["label"][0]
    assert [type(label) for label in row.tolist()] == [str, bool]
    only = to_tflite(
        DecisionTreeClassifier(max_depth=3).fit(X, Y), example=X, labels={"kind": ["a", "b", "c"]}
    )
    assert (only.signature.targets[0].name, only.signature.labels) == ("kind", ("a", "b", "c"))


@pytest.mark.parametrize("changed", [0, 1])
def test_one_wrong_target_has_the_model_refused(changed):
    model = MultiOutputClassifier(LogisticRegression(max_iter=300)).fit(X, SEVERAL)
    compiled = to_tflite(model, example=X)
    member = LogisticRegression(C=0.001).fit(X, SEVERAL[:, changed])
    model.estimators_[changed] = member
    with pytest.raises(GateError, match=r"labels differ|probabilities"):
        parity.check(compiled, model, Rows.of(X), name="another")


def test_a_label_near_its_own_boundary_is_the_only_tie():
    """Two labels that are alike are no tie: each is decided by itself."""
    model = OneVsRestClassifier(Ridge(alpha=1e-3)).fit(X, np.column_stack([Y > 0] * 2).astype(int))
    compiled = to_tflite(model, example=X)
    for member in model.estimators_:
        member.intercept_ -= 0.4
    with pytest.raises(GateError):
        parity.check(compiled, model, Rows.of(X), name="another")


def test_a_small_target_beside_a_large_one_is_judged_by_its_own_size():
    targets = np.column_stack([1e6 * X[:, 0], 1e-3 * X[:, 1]])
    model = MultiOutputRegressor(LinearRegression()).fit(X, targets)
    compiled = to_tflite(model, example=X)
    model.estimators_[1].intercept_ += 1e-6  # nothing beside the first, much for the second
    with pytest.raises(GateError, match="value"):
        parity.check(compiled, model, Rows.of(X), name="another")


@pytest.mark.parametrize(
    "member",
    [Ridge(), LogisticRegression(max_iter=300), RandomForestClassifier(6, random_state=0)],
    ids=["ridge", "logistic", "forest"],
)
def test_a_label_that_every_row_has_sets_the_threshold_of_the_others(member):
    """scikit-learn takes the first member's threshold for all, and a constant's is a half."""
    labels = np.column_stack([np.ones(150), Y > 0, Y > 1]).astype(int)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = OneVsRestClassifier(member).fit(X, labels)
    assert to_tflite(model, example=X).run(X)["label"].tolist() == model.predict(X).tolist()


def test_auto_judges_every_target():
    rows = np.repeat(X, 4, axis=0)
    model = MultiOutputClassifier(LogisticRegression(max_iter=300)).fit(X, SEVERAL)
    compiled = to_tflite(model, example=rows, precision="auto", epsilon=0.05)
    share = (compiled.run(X)["label"] == model.predict(X)).mean(axis=0)
    assert (share > 0.95).all()
    assert len(compiled.evidence.rungs) == 3
