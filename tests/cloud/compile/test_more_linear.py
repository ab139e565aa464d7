"""Relatives of the battery's linear models, several targets, and what wraps a regressor."""

import warnings

import numpy as np
import pytest
from sklearn import decomposition as dc
from sklearn import feature_selection as fs
from sklearn import linear_model as lm
from sklearn.compose import TransformedTargetRegressor
from sklearn.cross_decomposition import CCA, PLSCanonical, PLSRegression
from sklearn.exceptions import ConvergenceWarning
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, MinMaxScaler, StandardScaler
from tests.support.compile_cases import check_outputs

from fieldloop.errors import UnsupportedError
from fieldloop_cloud.compile.api import to_tflite

RNG = np.random.default_rng(3)
X = RNG.normal(size=(80, 4)) * [1, 10, 0.1, 1] + [0, 5, 0, 1e3]
X = X.astype(np.float32).astype(float)
SPREAD = (X - X.mean(axis=0)) / X.std(axis=0)
NUMBER = SPREAD @ [1.0, -2.0, 0.5, 0.1] + 3
NUMBERS = np.column_stack([NUMBER, SPREAD[:, 0] ** 2, SPREAD[:, 1]])
POSITIVE = np.exp(NUMBER / 4)
CLASS = np.digitize(NUMBER, [1.0, 4.0])


def compared(model, y, worker, **tolerance):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.simplefilter("ignore", UserWarning)
        warnings.simplefilter("ignore", FutureWarning)
        model.fit(X, y)
    compiled = to_tflite(model, example=X)
    check_outputs(compiled, model, X, worker, tolerance=tolerance)


@pytest.mark.parametrize(
    "make",
    [
        lm.RidgeCV,
        lm.LassoCV,
        lm.LassoLars,
        lm.LassoLarsCV,
        lm.LassoLarsIC,
        lm.Lars,
        lm.LarsCV,
        lm.ElasticNetCV,
        lm.OrthogonalMatchingPursuit,
        lm.OrthogonalMatchingPursuitCV,
        lm.TheilSenRegressor,
        lm.ARDRegression,
        lm.QuantileRegressor,
        lm.RANSACRegressor,
    ],
)
def test_relatives_of_linear_regression(make, tflite214):
    compared(make_pipeline(StandardScaler(), make()), NUMBER, tflite214)


@pytest.mark.parametrize(
    "model",
    [
        lm.PoissonRegressor(),
        lm.GammaRegressor(),
        lm.TweedieRegressor(power=1.5),
        lm.TweedieRegressor(power=0),
        lm.TweedieRegressor(power=0, link="log"),
    ],
    ids=str,
)
def test_generalized_models(model, tflite214):
    compared(make_pipeline(StandardScaler(), model), POSITIVE, tflite214)


@pytest.mark.parametrize(
    "model",
    [
        lm.LinearRegression(),
        lm.Ridge(),
        lm.MultiTaskLasso(alpha=0.1),
        lm.MultiTaskElasticNet(alpha=0.1),
        PLSRegression(2),
        PLSCanonical(2),
        CCA(2),
    ],
    ids=lambda model: type(model).__name__,
)
def test_several_targets(model, tflite214):
    compared(model, NUMBERS, tflite214)


def test_one_target_in_a_column_stays_a_column(tflite214):
    compared(lm.LinearRegression(), NUMBER[:, None], tflite214)


@pytest.mark.parametrize("make", [lm.LogisticRegressionCV, lm.RidgeClassifierCV])
def test_classifiers_with_cross_validation(make, tflite214):
    compared(make_pipeline(StandardScaler(), make()), CLASS, tflite214)


@pytest.mark.parametrize("solver", ["lbfgs", "liblinear", "newton-cholesky", "saga"])
def test_every_solver_of_logistic_regression(solver, tflite214):
    binary = (CLASS > 1).astype(int)
    compared(make_pipeline(StandardScaler(), lm.LogisticRegression(solver=solver)), binary, None)


@pytest.mark.parametrize(
    "model", [dc.PCA(2, whiten=True), dc.IncrementalPCA(2), dc.FactorAnalysis(2)], ids=str
)
def test_projections(model, tflite214):
    compared(model, None, tflite214)


@pytest.mark.parametrize("whiten", ["unit-variance", False])
def test_independent_components(whiten, tflite214):
    count = 2 if whiten else None
    model = dc.FastICA(count, whiten=whiten, random_state=0, max_iter=50)
    compared(make_pipeline(StandardScaler(), model), None, tflite214)


@pytest.mark.parametrize(
    "selector",
    [
        fs.SelectPercentile(percentile=60),
        fs.SelectFpr(alpha=0.9),
        fs.SelectFdr(alpha=0.9),
        fs.SelectFwe(alpha=0.9),
        fs.GenericUnivariateSelect(mode="k_best", param=2),
        fs.RFE(lm.LogisticRegression(max_iter=50), n_features_to_select=2),
        fs.RFECV(lm.LogisticRegression(max_iter=50), cv=2),
        fs.SequentialFeatureSelector(lm.LogisticRegression(max_iter=50), cv=2),
    ],
    ids=lambda selector: type(selector).__name__,
)
def test_selectors(selector, tflite214):
    compared(make_pipeline(StandardScaler(), selector), CLASS, tflite214)


def test_a_selector_that_keeps_nothing_is_refused():
    model = fs.SelectFpr(alpha=1e-300)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(RNG.normal(size=(80, 4)), CLASS)
        with pytest.raises(UnsupportedError, match="no feature"):
            to_tflite(model, example=X)


@pytest.mark.parametrize(
    "target",
    [
        {"transformer": StandardScaler()},
        {"transformer": MinMaxScaler()},
        {"func": np.log, "inverse_func": np.exp},
        {"func": np.log1p, "inverse_func": np.expm1},
        {"func": np.sqrt, "inverse_func": np.square},
        {},
    ],
)
def test_transformed_targets(target, tflite214):
    inner = make_pipeline(StandardScaler(), lm.Ridge())
    compared(TransformedTargetRegressor(inner, **target), POSITIVE, tflite214)


def test_an_unknown_inverse_is_refused_by_its_parameter():
    model = TransformedTargetRegressor(lm.Ridge(), func=np.cbrt, inverse_func=lambda y: y**3)
    with pytest.raises(UnsupportedError) as caught:
        to_tflite(model.fit(X, POSITIVE), example=X)
    assert caught.value.where.endswith("inverse_func")


@pytest.mark.parametrize("function", [None, np.abs, np.square, np.tanh, np.sin, np.cos, np.exp])
def test_functions(function, tflite214):
    compared(make_pipeline(StandardScaler(), FunctionTransformer(function)), None, tflite214)
