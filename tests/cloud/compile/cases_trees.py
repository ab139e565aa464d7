"""Rows of the battery's table: trees, forests, boosting, isolation."""

from hypothesis import strategies as st
from sklearn.ensemble import (
    AdaBoostClassifier,
    AdaBoostRegressor,
    ExtraTreesClassifier,
    ExtraTreesRegressor,
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    IsolationForest,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import (
    DecisionTreeClassifier,
    DecisionTreeRegressor,
    ExtraTreeClassifier,
    ExtraTreeRegressor,
)
from tests.support.compile_cases import Case

SEEDS = st.integers(0, 999)
DEPTHS = st.one_of(st.none(), st.integers(1, 6))
WEIGHTS = st.sampled_from([None, "balanced"])
TREES = {"probabilities": 1e-6}
SOME = ("binary", "multiclass", "strings", "offset-1e4", "scales")
FEW = ("multiclass", "constant-feature", "scales")


def _tree(**more):
    return st.fixed_dictionaries({"max_depth": DEPTHS, "random_state": SEEDS, **more})


def _forest(**more):
    return _tree(n_estimators=st.integers(1, 12), **more)


CASES = [
    Case(
        "decision-tree-classifier",
        DecisionTreeClassifier,
        _tree(class_weight=WEIGHTS, max_leaf_nodes=st.sampled_from([None, 2, 5])),
        tolerance=TREES,
    ),
    Case("extra-tree-classifier", ExtraTreeClassifier, _tree(), tolerance=TREES, data_sets=SOME),
    Case("decision-tree-regressor", DecisionTreeRegressor, _tree(), target="number"),
    Case("extra-tree-regressor", ExtraTreeRegressor, _tree(), target="number", data_sets=FEW),
    Case(
        "random-forest-classifier",
        RandomForestClassifier,
        _forest(class_weight=WEIGHTS),
        tolerance=TREES,
    ),
    Case(
        "scaler-random-forest-classifier",
        lambda **p: make_pipeline(StandardScaler(), RandomForestClassifier(**p)),
        _forest(),
        tolerance=TREES,
        data_sets=SOME,
    ),
    Case(
        "extra-trees-classifier",
        ExtraTreesClassifier,
        _forest(bootstrap=st.booleans()),
        tolerance=TREES,
        data_sets=SOME,
    ),
    Case("random-forest-regressor", RandomForestRegressor, _forest(), target="number"),
    Case("extra-trees-regressor", ExtraTreesRegressor, _forest(), target="number", data_sets=FEW),
    Case(
        "gradient-boosting-classifier",
        GradientBoostingClassifier,
        st.fixed_dictionaries(
            {
                "n_estimators": st.integers(1, 6),
                "learning_rate": st.floats(0.01, 1.0),
                "max_depth": st.integers(1, 4),
                "subsample": st.sampled_from([0.7, 1.0]),
                "init": st.sampled_from([None, "zero"]),
            }
        ),
        tolerance={"probabilities": 1e-6},
    ),
    Case(
        "exponential-gradient-boosting-classifier",
        lambda **p: GradientBoostingClassifier(loss="exponential", n_estimators=5, **p),
        tolerance={"probabilities": 1e-6},
        data_sets=("binary", "booleans"),
    ),
    Case(
        "gradient-boosting-regressor",
        GradientBoostingRegressor,
        st.fixed_dictionaries(
            {
                "n_estimators": st.integers(1, 8),
                "loss": st.sampled_from(["squared_error", "absolute_error", "huber", "quantile"]),
                "init": st.sampled_from([None, "zero", LinearRegression()]),
            }
        ),
        target="number",
        data_sets=("multiclass", "one-feature", "scales"),
    ),
    Case(
        "histogram-classifier",
        HistGradientBoostingClassifier,
        st.fixed_dictionaries(
            {
                "max_iter": st.integers(1, 6),
                "min_samples_leaf": st.integers(2, 10),
                "l2_regularization": st.floats(0, 1),
                "class_weight": WEIGHTS,
            }
        ),
        tolerance={"probabilities": 1e-6},
    ),
    Case(
        "histogram-regressor",
        HistGradientBoostingRegressor,
        st.fixed_dictionaries(
            {
                "max_iter": st.integers(1, 6),
                "min_samples_leaf": st.integers(2, 10),
                "loss": st.sampled_from(["squared_error", "absolute_error"]),
            }
        ),
        target="number",
        data_sets=("multiclass", "one-feature", "scales"),
    ),
    Case(
        "adaboost-classifier",
        AdaBoostClassifier,
        st.fixed_dictionaries(
            {
                "n_estimators": st.integers(1, 10),
                "learning_rate": st.floats(0.1, 2.0),
                "random_state": SEEDS,
            }
        ),
        data_sets=("binary", "multiclass", "strings", "booleans", "one-feature", "scales"),
    ),
    Case(
        "adaboost-classifier-over-logistic",
        lambda **p: AdaBoostClassifier(LogisticRegression(), n_estimators=3, **p),
        data_sets=("binary", "multiclass", "strings"),
    ),
    Case(
        "adaboost-regressor",
        AdaBoostRegressor,
        st.fixed_dictionaries(
            {
                "n_estimators": st.integers(1, 10),
                "loss": st.sampled_from(["linear", "square", "exponential"]),
                "random_state": SEEDS,
            }
        ),
        target="number",
        data_sets=("multiclass", "one-feature", "scales"),
    ),
    Case(
        "adaboost-regressor-over-linear",
        lambda **p: AdaBoostRegressor(LinearRegression(), n_estimators=4, random_state=0, **p),
        target="number",
        data_sets=("multiclass",),
    ),
    Case(
        "isolation-forest",
        IsolationForest,
        st.fixed_dictionaries(
            {
                "n_estimators": st.integers(1, 12),
                "max_features": st.sampled_from([0.5, 1.0]),
                "contamination": st.sampled_from(["auto", 0.1, 0.4]),
                "random_state": SEEDS,
            }
        ),
        target="none",
    ),
]
