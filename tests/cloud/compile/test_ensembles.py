"""Ensembles of any members, multiclass strategies and calibration."""

import numpy as np
import pytest
from sklearn.calibration import CalibratedClassifierCV
from sklearn.datasets import load_breast_cancer, load_digits, load_iris
from sklearn.ensemble import (
    BaggingClassifier,
    BaggingRegressor,
    ExtraTreesClassifier,
    RandomForestClassifier,
    StackingClassifier,
    StackingRegressor,
    VotingClassifier,
)
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.multiclass import OneVsOneClassifier, OneVsRestClassifier, OutputCodeClassifier
from sklearn.multioutput import (
    MultiOutputRegressor,
    RegressorChain,
)
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC, SVR, LinearSVC
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

from fieldloop.errors import UnsupportedError
from fieldloop_cloud.compile.api import to_tflite
from fieldloop_cloud.compile.inspect import inspect


@pytest.fixture(scope="module")
def iris():
    X, y = load_iris(return_X_y=True)
    return X.astype(np.float32).astype(float), np.array(["c", "b", "a"])[y]


def scaled(model):
    return make_pipeline(StandardScaler(), model)


def assert_same(model, X):
    got = to_tflite(model, example=X).run(X)
    assert got["label"].tolist() == model.predict(X).tolist()
    if hasattr(model, "predict_proba"):
        assert np.abs(got["probabilities"] - model.predict_proba(X)).max() < 1e-5
    if hasattr(model, "decision_function"):
        expected = model.decision_function(X)
        assert got["decision"].shape == expected.shape
        assert np.abs(got["decision"] - expected).max() < 2e-5 * max(1, np.abs(expected).max())


@pytest.mark.parametrize("member", [SVC(), LinearSVC(), LogisticRegression(), GaussianNB()])
def test_bagging_picks_rows_and_columns(iris, member):
    X, y = iris
    bag = BaggingClassifier(member, 5, max_features=0.5, random_state=0)
    assert_same(scaled(bag).fit(X, y), X)


@pytest.mark.parametrize(
    "member",
    [DecisionTreeClassifier(max_depth=4), ExtraTreesClassifier(3, max_depth=3)],
    ids=["trees", "forests"],
)
def test_bagged_trees_are_one_forest(iris, member):
    X, y = iris
    ops = []
    for count in (2, 9):
        bag = BaggingClassifier(member, count, max_features=0.5, random_state=0).fit(X, y)
        assert_same(bag, X)
        ops.append(sum(inspect(to_tflite(bag, example=X).tflite).op_counts.values()))
    assert ops[1] <= ops[0] + 4  # no walk for each member: at most another level or two


def test_bagged_regression_trees_are_one_forest(iris):
    X, _ = iris
    several = np.column_stack([1e5 * X[:, 0] + 7e5, 1e-4 * X[:, 1]])
    for target in (several, several[:, 0]):
        bag = BaggingRegressor(DecisionTreeRegressor(max_depth=5), 6, random_state=0)
        bag.fit(X[:, 1:], target)
        compiled = to_tflite(bag, example=X[:, 1:])
        expected = bag.predict(X[:, 1:])
        got = compiled.run(X[:, 1:])["value"]
        assert got.shape == expected.shape
        assert (np.abs(got - expected) <= 1e-6 * np.abs(expected).max(axis=0)).all()
        assert sum(inspect(compiled.tflite).op_counts.values()) < 60


def test_a_bagged_member_that_never_saw_a_class():
    X = np.array([[0.0], [1.0], [2.0], [3.0], [4.0], [20.0]])
    y = np.array(["p", "p", "q", "q", "q", "r"])
    # A member without sample weights is fitted on the drawn rows alone.
    model = BaggingClassifier(KNeighborsClassifier(1), 6, max_samples=3, random_state=3).fit(X, y)
    assert any(len(member.classes_) < 3 for member in model.estimators_)
    assert_same(model, X)


@pytest.mark.parametrize("weights", [None, [1, 1, 3]])
@pytest.mark.parametrize("voting", ["hard", "soft"])
def test_votes(iris, voting, weights):
    X, y = iris
    members = [
        ("forest", RandomForestClassifier(5, max_depth=3, random_state=0)),
        ("bayes", GaussianNB()),
        ("logistic", LogisticRegression()),
    ]
    assert_same(scaled(VotingClassifier(members, voting=voting, weights=weights)).fit(X, y), X)


def test_a_dropped_voter_and_a_tied_vote(iris):
    X, y = iris
    members = [("a", GaussianNB()), ("b", LogisticRegression()), ("c", "drop")]
    assert_same(scaled(VotingClassifier(members, weights=[1, 1, 9])).fit(X, y), X)


@pytest.mark.parametrize(
    "final", [LogisticRegression(), DecisionTreeClassifier(max_depth=3), SVC()]
)
@pytest.mark.parametrize("passthrough", [False, True])
def test_stacks(iris, final, passthrough):
    X, y = iris
    members = [("a", scaled(LogisticRegression())), ("b", SVC()), ("c", GaussianNB())]
    model = StackingClassifier(members, final, passthrough=passthrough, cv=2).fit(X, y)
    assert_same(model, X)


def test_a_stack_of_two_classes_passes_one_probability_on(iris):
    X, y = iris
    members = [("a", LogisticRegression()), ("b", GaussianNB()), ("c", LinearSVC())]
    assert_same(scaled(StackingClassifier(members, cv=2)).fit(X, y == "a"), X)


def test_a_stack_of_regressors(iris):
    X, _ = iris
    target = X[:, 0] * X[:, 1]
    members = [("a", Ridge()), ("b", SVR())]
    model = StackingRegressor(members, Ridge(), passthrough=True, cv=2).fit(X, target)
    got = to_tflite(model, example=X).run(X)["value"]
    assert np.abs(got - model.predict(X)).max() < 2e-5 * np.abs(target).max()


@pytest.mark.parametrize("strategy", [OneVsRestClassifier, OneVsOneClassifier])
@pytest.mark.parametrize("member", [SVC(), LogisticRegression(), GaussianNB()])
@pytest.mark.parametrize("classes", [2, 3])
def test_strategies(iris, strategy, member, classes):
    X, y = iris
    X, y = X[-50 * classes :], y[-50 * classes :]
    assert_same(scaled(strategy(member)).fit(X, y), X)


def test_codes(iris):
    X, y = iris
    model = OutputCodeClassifier(LogisticRegression(), code_size=4, random_state=0)
    assert_same(scaled(model).fit(X, y), X)


@pytest.mark.parametrize(
    "model", [MultiOutputRegressor(SVR()), RegressorChain(Ridge(), order=[2, 0, 1])], ids=str
)
def test_several_numbers(iris, model):
    X, _ = iris
    target = np.column_stack([X[:, 0] ** 2, X[:, 1] * 7, X[:, 2] - X[:, 3]])
    fitted = scaled(model).fit(X, target)
    got = to_tflite(fitted, example=X).run(X)["value"]
    assert np.abs(got - fitted.predict(X)).max() < 2e-5 * np.abs(target).max()


@pytest.mark.parametrize("method", ["sigmoid", "isotonic", "temperature"])
@pytest.mark.parametrize("member", [SVC(), GaussianNB()])
@pytest.mark.parametrize("classes", [2, 3])
def test_calibration_of_decisions_and_of_probabilities(iris, method, member, classes):
    X, y = iris
    X, y = X[-50 * classes :], y[-50 * classes :]
    model = CalibratedClassifierCV(scaled(member), method=method, cv=3).fit(X, y)
    unseen = X + np.random.default_rng(0).normal(scale=0.01, size=X.shape)
    unseen = unseen.astype(np.float32).astype(float)
    got = to_tflite(model, example=X).run(unseen)
    deviation = np.abs(got["probabilities"] - model.predict_proba(unseen)).max(axis=1)
    # An isotonic step may be steeper than float32 can follow: either side of it is right.
    assert (deviation < 1e-5).mean() >= (0.97 if method == "isotonic" else 1.0)
    assert (got["label"] == model.predict(unseen)).mean() > 0.99


def test_isotonic_steps_between_neighbouring_floats_are_compiled():
    X, y = load_digits(return_X_y=True)
    model = CalibratedClassifierCV(SVC(), method="isotonic", cv=2).fit(X[:500], y[:500])
    compiled = to_tflite(model, example=X[:500])
    assert (compiled.run(X[500:])["label"] == model.predict(X[500:])).mean() > 0.995


def test_calibrating_a_frozen_estimator():
    X, y = load_breast_cancer(return_X_y=True)
    X = X.astype(np.float32).astype(float)
    frozen = FrozenEstimator(scaled(SVC()).fit(X[:300], y[:300]))
    assert_same(CalibratedClassifierCV(frozen).fit(X[300:], y[300:]), X)


def test_a_member_that_cannot_be_compiled_is_named_with_its_place(iris):
    X, y = iris
    model = VotingClassifier([("a", GaussianNB()), ("k", SVC(kernel=lambda a, b: a @ b.T))])
    with pytest.raises(UnsupportedError, match=r"VotingClassifier > member 1: SVC\.kernel"):
        to_tflite(model.fit(X, y), example=X)
