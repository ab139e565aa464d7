"""Boosted trees and isolation forests, with the mistakes that other compilers make in silence."""

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.ensemble import (
    AdaBoostRegressor,
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    IsolationForest,
)
from sklearn.linear_model import LogisticRegression
from sklearn.tree import DecisionTreeRegressor

from fieldloop.errors import UnsupportedError
from fieldloop_cloud.compile.api import to_tflite

RNG = np.random.default_rng(7)


def check(model, compiled, rows, *, worker=None):
    """Compare every output on rows, in both runtimes; labels exactly."""
    made = compiled.run(rows)
    for name, method in {
        "label": "predict",
        "probabilities": "predict_proba",
        "decision": "decision_function",
        "value": "predict",
        "score": "score_samples",
    }.items():
        if name in made and name == "label":
            assert np.array_equal(made[name], getattr(model, method)(rows))
        elif name in made:
            expected = getattr(model, method)(rows)
            assert np.abs(made[name] - expected).max() <= 1e-6 * max(1, np.abs(expected).max())
    if worker is not None:
        tensors = compiled.codec.tensors(compiled.codec.encode_rows(_raw(rows)))[0]
        there = worker.run(compiled.tflite, [tensors, tensors[:0], tensors[:1]])
        here = compiled.engine.run([tensors])
        for got, expected in zip(there[0], here, strict=True):
            np.testing.assert_allclose(got, expected, atol=2e-6)


def _raw(rows):
    return rows.to_numpy(dtype=object) if hasattr(rows, "to_numpy") else rows


def test_histogram_boosting_with_a_threshold_of_exactly_zero(tflite214):
    X = np.array([-0.0, 0.0, 1e-30, -1e-30, 1.0, -1.0], np.float32).repeat(50)[:, None]
    y = (X[:, 0] > 0).astype(int)
    model = HistGradientBoostingClassifier(max_iter=5, min_samples_leaf=2).fit(X, y)
    model._predictors[0][0].nodes["num_threshold"][0] = 0.0
    check(model, to_tflite(model, example=X), X, worker=tflite214)


@pytest.mark.parametrize("trained_with_missing", [False, True])
def test_histogram_boosting_with_missing_values(trained_with_missing, tflite214):
    X, y = load_breast_cancer(return_X_y=True)
    X = X.astype(np.float32)
    holes = np.where(RNG.random(X.shape) < 0.1, np.nan, X).astype(np.float32)
    model = HistGradientBoostingClassifier(max_iter=10).fit(holes if trained_with_missing else X, y)
    check(model, to_tflite(model, example=X), holes, worker=tflite214)


def test_histogram_boosting_that_splits_on_missing_values_alone(tflite214):
    X = np.zeros((100, 1), np.float32)
    X[::3] = np.nan
    model = HistGradientBoostingClassifier(max_iter=3).fit(X, np.isnan(X[:, 0]))
    compiled = to_tflite(model, example=X)
    check(model, compiled, X, worker=tflite214)
    assert np.array_equal(compiled.run(X)["label"], np.isnan(X[:, 0]))


def _categorical(count=600):
    X = np.stack(
        [RNG.integers(0, 40, count), RNG.integers(0, 5, count) * 3 + 2, RNG.normal(size=count)], 1
    ).astype(float)
    y = ((X[:, 0] * 7 % 5) + (X[:, 1] % 4) + X[:, 2] > 4).astype(int)
    X[:, 2] = X[:, 2].astype(np.float32)
    return X, y


def test_histogram_boosting_with_categories_known_unknown_and_missing(tflite214):
    X, y = _categorical()
    X[::17, 0] = np.nan
    model = HistGradientBoostingClassifier(max_iter=15, categorical_features=[0, 1]).fit(X, y)
    assert any(t.nodes["is_categorical"].any() for stage in model._predictors for t in stage)
    rows = X.copy()
    rows[::5, 0] = RNG.choice([-1, 99, 300, 2.5, np.nan], len(rows[::5]))
    rows[::7, 1] = RNG.choice([-1, 3, 1e6, np.nan], len(rows[::7]))
    rows = rows.astype(np.float32).astype(float)
    check(model, to_tflite(model, example=X), rows, worker=tflite214)


def test_histogram_boosting_with_nothing_but_categories():
    X, y = _categorical()
    model = HistGradientBoostingRegressor(max_iter=5, categorical_features=[0, 1])
    model.fit(X[:, :2], y.astype(float))
    check(model, to_tflite(model, example=X[:, :2]), X[:, :2])


def test_histogram_boosting_with_categories_in_a_data_frame(tflite214):
    X, y = _categorical()
    frame = pd.DataFrame(
        {
            "level": X[:, 2],
            "fuel": pd.Categorical(
                np.array(["diesel", "gas", "öl", "none"])[y * 2 + (X[:, 0] > 9)]
            ),
            "valve": pd.Categorical(X[:, 1] > 9),
        }
    )
    model = HistGradientBoostingClassifier(max_iter=5, categorical_features="from_dtype")
    model.fit(frame, y)
    compiled = to_tflite(model, example=frame)
    assert compiled.signature.features[1].categories == ("diesel", "gas", "none", "öl")
    check(model, compiled, frame, worker=tflite214)


def test_int8_histogram_boosting_over_categories_changes_no_label():
    X, y = _categorical()
    model = HistGradientBoostingClassifier(max_iter=10, categorical_features=[0, 1]).fit(X, y)
    compiled = to_tflite(model, example=X, precision="int8")
    assert compiled.evidence.label_changes == 0
    spec = compiled.signature.inputs[0]
    codes = np.clip(np.rint(X / spec.scale) + spec.zero_point, -128, 127)
    real = (codes - spec.zero_point) * np.array(spec.scale)
    assert np.array_equal(compiled.run(X)["label"], model.predict(real))


@pytest.mark.parametrize("loss", ["squared_error", "poisson", "gamma", "quantile"])
def test_histogram_regressors_of_every_loss(loss):
    X, y = _categorical()
    more = {"quantile": 0.3} if loss == "quantile" else {}
    model = HistGradientBoostingRegressor(loss=loss, max_iter=8, **more).fit(X, y + 0.5)
    check(model, to_tflite(model, example=X), X)


def test_targets_far_from_zero_keep_float32_precision():
    X, y = load_breast_cancer(return_X_y=True)
    model = GradientBoostingRegressor(n_estimators=20).fit(X, 1e6 + y + X[:, 0] * 1e-2)
    made = to_tflite(model, example=X, precision="float16").run(X)["value"]
    assert np.abs(made - model.predict(X.astype(np.float32))).max() <= 0.1


@pytest.mark.parametrize("kind", [GradientBoostingClassifier, HistGradientBoostingClassifier])
def test_int8_boosting_changes_no_label(kind):
    X, y = load_digits(return_X_y=True)
    model = kind(
        max_depth=3, **({"n_estimators": 8} if "Hist" not in kind.__name__ else {"max_iter": 8})
    )
    model.fit(X[:500], y[:500])
    compiled = to_tflite(model, example=X[:500], precision="int8", held_out=X[500:900])
    assert compiled.evidence.label_changes == 0
    assert np.array_equal(compiled.run(X)["label"], model.predict(X))  # 0 … 16 are exact in int8


def test_a_boosting_init_that_depends_on_the_row_is_refused_for_classes():
    X, y = load_breast_cancer(return_X_y=True)
    model = GradientBoostingClassifier(
        n_estimators=2, init=LogisticRegression(C=1e-4, max_iter=5000)
    )
    with pytest.raises(UnsupportedError, match=r"GradientBoostingClassifier\.init"):
        to_tflite(model.fit(X, y), example=X)


def test_the_weighted_median_of_equal_weights_is_the_lower_one():
    X = np.arange(12.0)[:, None]
    model = AdaBoostRegressor(DecisionTreeRegressor(max_depth=1), n_estimators=4, random_state=0)
    model.fit(X, X[:, 0] ** 2)
    count = len(model.estimators_)
    model.estimator_weights_ = np.ones(count)
    check(model, to_tflite(model, example=X), X)


@pytest.mark.parametrize("contamination", ["auto", 0.1, 0.5])
def test_isolation_forests_count_a_row_on_the_threshold_as_an_inlier(contamination, tflite214):
    X = RNG.normal(size=(101, 4)).astype(np.float32)
    model = IsolationForest(n_estimators=30, contamination=contamination, random_state=0).fit(X)
    model.offset_ = np.sort(model.score_samples(X))[20]
    compiled = to_tflite(model, example=X)
    check(model, compiled, X, worker=tflite214)
    assert compiled.signature.labels == (-1, 1)
    assert (compiled.run(X)["label"] == -1).sum() == 20


def test_int8_isolation_forests_change_no_label_on_the_dequantized_input():
    X = RNG.normal(size=(300, 5)) * [1, 10, 1e3, 1e-3, 1]
    model = IsolationForest(n_estimators=50, contamination=0.2, random_state=0).fit(X)
    compiled = to_tflite(model, example=X, precision="int8")
    spec = compiled.signature.inputs[0]
    codes = RNG.integers(-128, 128, (1000, 5)).astype(np.int8)
    real = (codes.astype(float) - spec.zero_point) * np.array(spec.scale)
    label = compiled.engine.run([codes])[0]
    assert np.array_equal(np.array([-1, 1])[label], model.predict(real))


def test_isolation_forests_take_missing_values():
    X = RNG.normal(size=(100, 4)).astype(np.float32)
    X[RNG.random(X.shape) < 0.2] = np.nan
    model = IsolationForest(n_estimators=20, random_state=0).fit(X)
    check(model, to_tflite(model, example=X), X)
