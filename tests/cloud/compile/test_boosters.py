"""XGBoost, LightGBM and CatBoost models; each where its library is installed."""

import importlib
import warnings

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits
from tests.support.parts import missing

from fieldloop.errors import UnsupportedError
from fieldloop_cloud.compile.api import to_tflite

RNG = np.random.default_rng(5)
LIBRARIES = {
    "xgboost": ("XGBClassifier", "XGBRegressor"),
    "lightgbm": ("LGBMClassifier", "LGBMRegressor"),
    "catboost": ("CatBoostClassifier", "CatBoostRegressor"),
}
QUIET = {
    "xgboost": {"n_estimators": 8, "max_depth": 4},
    "lightgbm": {"n_estimators": 8, "verbose": -1, "min_child_samples": 5},
    "catboost": {"iterations": 8, "depth": 4, "verbose": 0, "allow_writing_files": False},
}


@pytest.fixture(autouse=True)
def _other_peoples_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def make(library, kind, **parameters):
    reason = f"the extra [boosters] is not installed: {library}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            module = importlib.import_module(library)
        except ImportError:
            missing(reason)
    return getattr(module, LIBRARIES[library][kind])(**{**QUIET[library], **parameters})


def digits():
    X, y = load_digits(return_X_y=True)
    return X[:600].astype(np.float32), y[:600]


def holes():
    X, y = load_breast_cancer(return_X_y=True)
    X = X.astype(np.float32)
    return np.where(RNG.random(X.shape) < 0.1, np.nan, X).astype(np.float32), y


def check(model, X, rows, worker=None, **how):
    compiled = to_tflite(model, example=X, **how)
    made = compiled.run(rows)
    expected = np.asarray(model.predict(rows)).reshape(len(rows))
    if "label" in made:
        assert np.array_equal(made["label"], expected)
        assert np.abs(made["probabilities"] - model.predict_proba(rows)).max() <= 2e-6
    else:
        assert np.abs(made["value"] - expected).max() <= 1e-6 * np.abs(expected).max()
    if worker is not None:
        there = worker.run(compiled.tflite, [rows])[0][0]
        assert np.array_equal(there, compiled.engine.run([rows])[0])
    return compiled


@pytest.mark.parametrize("library", LIBRARIES)
def test_several_classes(library, tflite214):
    X, y = digits()
    check(make(library, 0).fit(X, y), X, X, tflite214)


@pytest.mark.parametrize("library", LIBRARIES)
def test_two_classes_with_missing_values(library, tflite214):
    X, y = holes()
    check(make(library, 0).fit(X, y), X, X, tflite214)


@pytest.mark.parametrize("library", LIBRARIES)
def test_numbers(library):
    X, y = load_diabetes(return_X_y=True)
    X = X.astype(np.float32)
    check(make(library, 1).fit(X, y), X, X)


@pytest.mark.parametrize("library", LIBRARIES)
def test_rows_on_thresholds(library):
    cells = np.array([0.0, 1.0, np.float32(0.1), np.nextafter(np.float32(0.1), 1), -2.5, 1e10])
    X = np.repeat(cells, 40).astype(np.float32)[:, None]
    y = np.repeat([0, 1, 0, 1, 1, 0], 40)
    model = make(library, 0).fit(X, y)
    rows = np.concatenate([X, np.nextafter(X, -np.inf), np.nextafter(X, np.inf)])
    check(model, X, rows.astype(np.float32))


@pytest.mark.parametrize("library", LIBRARIES)
def test_int8_changes_no_label(library):
    X, y = digits()
    compiled = to_tflite(make(library, 0).fit(X, y), example=X, precision="int8")
    assert compiled.evidence.label_changes == 0


@pytest.mark.parametrize("objective", ["count:poisson", "reg:gamma", "reg:absoluteerror"])
def test_xgboost_objectives_with_their_link(objective):
    X, y = load_diabetes(return_X_y=True)
    X = X.astype(np.float32)
    check(make("xgboost", 1, objective=objective).fit(X, y), X, X)


def test_xgboost_stops_at_its_best_iteration():
    X, y = digits()
    model = make("xgboost", 0, n_estimators=60, early_stopping_rounds=2, learning_rate=1.0)
    model.fit(X[:300], y[:300], eval_set=[(X[300:], RNG.permutation(y[300:]))], verbose=False)
    assert model.best_iteration < 59
    check(model, X, X)


def test_lightgbm_categories():
    X = np.stack([RNG.integers(0, 12, 500), RNG.normal(size=500)], 1).astype(np.float32)
    y = (X[:, 0] * 7 % 5 + X[:, 1] > 2).astype(int)
    model = make("lightgbm", 0).fit(X, y, categorical_feature=[0])
    rows = X.copy()
    rows[::5, 0] = RNG.choice([-1, 77, np.nan], 100)
    check(model, X, rows)


def test_lightgbm_averages_a_random_forest():
    X, y = load_diabetes(return_X_y=True)
    X = X.astype(np.float32)
    forest = make("lightgbm", 1, boosting_type="rf", bagging_freq=1, bagging_fraction=0.6)
    check(forest.fit(X, y), X, X)


@pytest.mark.parametrize(
    ("library", "kind", "parameters", "named"),
    [
        ("xgboost", 1, {"booster": "dart"}, "booster"),
        ("xgboost", 1, {"missing": -1.0}, "missing"),
        ("xgboost", 1, {"objective": "reg:quantileerror", "quantile_alpha": 0.3}, "objective"),
        ("lightgbm", 1, {"linear_tree": True}, "linear_tree"),
        ("lightgbm", 1, {"zero_as_missing": True}, "zero_as_missing"),
        ("lightgbm", 0, {"objective": "multiclassova"}, "objective"),
        ("catboost", 1, {"grow_policy": "Lossguide"}, "grow_policy"),
        ("catboost", 1, {"loss_function": "Poisson"}, "loss_function"),
    ],
)
def test_what_is_not_supported_is_refused(library, kind, parameters, named):
    X, y = digits() if kind == 0 else load_diabetes(return_X_y=True)
    model = make(library, kind, **parameters).fit(X, y)
    with pytest.raises(UnsupportedError, match=rf"{LIBRARIES[library][kind]}\.{named}"):
        to_tflite(model, example=X)


@pytest.mark.parametrize(
    ("library", "kind", "parameters"),
    [
        ("xgboost", 0, {}),
        ("xgboost", 1, {}),
        ("catboost", 0, {"loss_function": "MultiLogloss"}),
        ("catboost", 1, {"loss_function": "MultiRMSE"}),
    ],
)
def test_several_targets(library, kind, parameters, tflite214):
    X, y = digits()
    labels = np.column_stack([y > 4, y % 2, X[:, 20] > 7]).astype(int)
    targets = np.column_stack([1e5 * y + 3e6, X[:, 20] * 1e-3]) if kind else labels
    model = make(library, kind, **parameters).fit(X[:400], targets[:400])
    compiled = to_tflite(model, example=X[:400])
    rows = X[400:]
    made, expected = compiled.run(rows), np.asarray(model.predict(rows))
    if kind:
        assert (np.abs(made["value"] - expected) <= 1e-6 * np.abs(expected).max(axis=0)).all()
    else:
        assert np.array_equal(made["label"], expected)
        assert np.abs(made["probabilities"] - model.predict_proba(rows)).max() <= 2e-6
    assert len(compiled.signature.targets) == targets.shape[1]
    there = tflite214.run(compiled.tflite, [rows])[0][0]
    assert np.array_equal(there, compiled.engine.run([rows])[0])
