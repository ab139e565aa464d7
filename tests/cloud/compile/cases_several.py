"""Rows of the battery's table: models of several targets."""

from hypothesis import strategies as st
from sklearn.ensemble import (
    ExtraTreesClassifier,
    ExtraTreesRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.linear_model import LogisticRegression, Ridge, RidgeClassifier
from sklearn.multiclass import OneVsRestClassifier
from sklearn.multioutput import (
    ClassifierChain,
    MultiOutputClassifier,
    MultiOutputRegressor,
    RegressorChain,
)
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC, LinearSVC
from sklearn.tree import (
    DecisionTreeClassifier,
    DecisionTreeRegressor,
    ExtraTreeClassifier,
    ExtraTreeRegressor,
)
from tests.support.compile_cases import Case


def plain(**members):
    return st.fixed_dictionaries(members)


def scaled(make):
    return lambda **parameters: make_pipeline(StandardScaler(), make(**parameters))


def several(name, make, parameters, targets):
    """Return a case for each kind of target."""
    return [Case(f"{name}-{target}", make, parameters, target=target) for target in targets]


LABELS = ("table", "indicators")
TREE = {"max_depth": st.integers(1, 6), "random_state": st.integers(0, 5)}
FOREST = {**TREE, "n_estimators": st.integers(2, 8)}
MEMBERS = st.sampled_from(
    [LogisticRegression(max_iter=50), GaussianNB(), LinearSVC(), SVC(), RandomForestClassifier(4)]
)
ORDERS = st.sampled_from([None, "random", [2, 0, 1]])

CASES = [
    *several("multi-output", MultiOutputClassifier, plain(estimator=MEMBERS), LABELS),
    *several("one-vs-rest", OneVsRestClassifier, plain(estimator=MEMBERS), ["indicators"]),
    *several(
        "classifier-chain",
        scaled(ClassifierChain),
        plain(
            estimator=st.just(LogisticRegression(max_iter=50)),
            order=ORDERS,
            random_state=st.integers(0, 9),
            chain_method=st.sampled_from(["predict", "predict_proba", "decision_function"]),
        ),
        ["indicators"],
    ),
    Case(
        "classifier-chain-of-trees",
        ClassifierChain,
        plain(
            estimator=st.just(DecisionTreeClassifier(max_depth=4, random_state=0)),
            order=st.just([1, 0]),
        ),
        target="table",
        data_sets=("two-targets",),
    ),
    *several(
        "multi-output-regressor",
        MultiOutputRegressor,
        plain(estimator=st.sampled_from([Ridge(), DecisionTreeRegressor(max_depth=4)])),
        ["numbers"],
    ),
    *several(
        "regressor-chain",
        RegressorChain,
        plain(estimator=st.just(Ridge()), order=ORDERS),
        ["numbers"],
    ),
    *several("tree", DecisionTreeClassifier, plain(**TREE), LABELS),
    *several("extra-tree", ExtraTreeClassifier, plain(**TREE), ["table"]),
    *several("forest", RandomForestClassifier, plain(**FOREST), LABELS),
    *several("extra-trees", ExtraTreesClassifier, plain(**FOREST), ["table"]),
    *several(
        "regression-tree",
        lambda kind, **rest: kind(**rest),
        plain(kind=st.sampled_from([DecisionTreeRegressor, ExtraTreeRegressor]), **TREE),
        ["numbers"],
    ),
    *several(
        "regression-forest",
        lambda kind, **rest: kind(**rest),
        plain(kind=st.sampled_from([RandomForestRegressor, ExtraTreesRegressor]), **FOREST),
        ["numbers"],
    ),
    *several(
        "neighbours",
        KNeighborsClassifier,
        plain(n_neighbors=st.integers(1, 7), weights=st.sampled_from(["uniform", "distance"])),
        LABELS,
    ),
    *several(
        "neighbours-regressor",
        KNeighborsRegressor,
        plain(n_neighbors=st.integers(1, 7)),
        ["numbers"],
    ),
    *several(
        "perceptron",
        scaled(MLPClassifier),
        plain(
            hidden_layer_sizes=st.sampled_from([(4,), (5, 3)]),
            max_iter=st.just(30),
            random_state=st.integers(0, 9),
        ),
        ["indicators"],
    ),
    *several("ridge", RidgeClassifier, plain(alpha=st.floats(0.1, 10)), ["indicators"]),
]
