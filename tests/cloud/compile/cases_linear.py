"""Rows of the battery's table: linear models and discriminant analysis."""

from hypothesis import strategies as st
from sklearn import linear_model as lm
from sklearn.cross_decomposition import PLSRegression
from sklearn.discriminant_analysis import (
    LinearDiscriminantAnalysis,
    QuadraticDiscriminantAnalysis,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC, LinearSVR
from tests.support.compile_cases import Case

SEEDED = {"random_state": st.just(0)}


def _strengths(name, **more):
    return st.fixed_dictionaries({name: st.floats(1e-3, 10.0), **more})


def scaled(make):
    """Behind a scaler, which gradient descent needs on features of different size."""
    return lambda **p: make_pipeline(StandardScaler(), make(**p))


REGRESSORS = [
    Case(name, make, parameters, target="number")
    for name, make, parameters in (
        (
            "linear-regression",
            lm.LinearRegression,
            st.fixed_dictionaries({"fit_intercept": st.booleans()}),
        ),
        ("ridge", lm.Ridge, _strengths("alpha", fit_intercept=st.booleans())),
        ("lasso", lm.Lasso, _strengths("alpha")),
        ("elastic-net", lm.ElasticNet, _strengths("alpha", l1_ratio=st.floats(0.1, 1.0))),
        ("huber", lm.HuberRegressor, _strengths("alpha", epsilon=st.floats(1.1, 3.0))),
        ("bayesian-ridge", lm.BayesianRidge, _strengths("alpha_1")),
        ("sgd-regressor", scaled(lm.SGDRegressor), _strengths("alpha", **SEEDED)),
        ("linear-svr", scaled(LinearSVR), _strengths("C", **SEEDED)),
    )
] + [
    Case(
        "poisson",
        scaled(lm.PoissonRegressor),
        _strengths("alpha"),
        target="number",
        skip=frozenset({"many-features"}),  # its target has negative numbers there
    ),
    Case(
        "pls",
        PLSRegression,
        st.fixed_dictionaries({"n_components": st.just(1), "scale": st.booleans()}),
        target="number",
    ),
]

CLASSIFIERS = [
    Case(
        "logistic-regression",
        lm.LogisticRegression,
        st.fixed_dictionaries(
            {"C": st.floats(1e-3, 1e3), "fit_intercept": st.booleans(), "max_iter": st.just(50)}
        ),
    ),
    Case("scaled-logistic-regression", scaled(lm.LogisticRegression), _strengths("C")),
    Case(
        "sgd-classifier",
        scaled(lm.SGDClassifier),
        _strengths(
            "alpha",
            loss=st.sampled_from(["hinge", "log_loss", "modified_huber", "perceptron"]),
            **SEEDED,
        ),
    ),
    Case("perceptron", scaled(lm.Perceptron), _strengths("alpha", **SEEDED)),
    Case("ridge-classifier", lm.RidgeClassifier, _strengths("alpha")),
    Case("linear-svc", scaled(LinearSVC), _strengths("C", **SEEDED)),
    Case(
        "linear-discriminant",
        LinearDiscriminantAnalysis,
        st.fixed_dictionaries({"solver": st.sampled_from(["svd", "lsqr", "eigen"])}),
        skip=frozenset({"constant-feature", "many-features"}),
    ),
    Case(
        "quadratic-discriminant",
        QuadraticDiscriminantAnalysis,
        st.fixed_dictionaries({"reg_param": st.floats(0.05, 1.0)}),
        skip=frozenset({"constant-feature", "many-features"}),
    ),
]

CASES = REGRESSORS + CLASSIFIERS
