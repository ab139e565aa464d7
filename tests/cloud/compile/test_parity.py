"""The comparison with the original: what it looks at, and that it refuses."""

import numpy as np
import pandas as pd
import pytest
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.cluster import KMeans
from sklearn.linear_model import (
    GammaRegressor,
    LinearRegression,
    LogisticRegression,
    RidgeClassifier,
)
from sklearn.neighbors import NearestCentroid
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, PolynomialFeatures, PowerTransformer, StandardScaler
from sklearn.tree import DecisionTreeClassifier

from fieldloop.errors import DataError, GateError, UnsupportedError
from fieldloop.signature import FeatureSpec
from fieldloop_cloud.compile.api import to_tflite
from fieldloop_cloud.compile.comparison import steepness
from fieldloop_cloud.compile.lowering import lowers

RNG = np.random.default_rng(0)
X = RNG.normal(size=(80, 3)).astype(np.float32).astype(float)
Y = (X @ [1.0, -2.0, 0.5] > 0).astype(int)


class Sum(RegressorMixin, BaseEstimator):
    def fit(self, rows, _=None):
        self.n_features_in_ = rows.shape[1]
        return self

    def predict(self, rows):
        return rows.sum(axis=1)


class Step(ClassifierMixin, BaseEstimator):
    def fit(self, rows, labels):
        self.n_features_in_ = rows.shape[1]
        self.classes_ = np.unique(labels)
        return self

    def predict(self, rows):
        return self.classes_[(rows[:, 0] > 0.5).astype(int)]


def test_evidence_counts_rows_and_probes():
    compiled = to_tflite(LogisticRegression().fit(X, Y), example=X, held_out=X[:20])
    evidence = compiled.evidence
    assert evidence.row_count == 20
    assert evidence.probe_count >= 3 * 4
    assert evidence.label_changes == 0
    assert evidence.deviation["probabilities"] <= evidence.limit["probabilities"] == 1e-5


def test_a_small_constant_error_is_refused():
    @lowers(Sum)
    def wrong(estimator, value, context):
        g = context.graph
        return {"value": g.add(g.sum(value.tensor(), 1), 1e-3)}

    with pytest.raises(GateError, match=r"'value' deviates by 0\.001"):
        to_tflite(Sum().fit(X), example=X)


def test_an_error_only_far_outside_the_rows_is_refused():
    @lowers(Sum)
    def wrong(estimator, value, context):
        g = context.graph
        return {"value": g.sum(g.minimum(value.tensor(), 10.0), 1)}

    assert X.max() < 10
    with pytest.raises(GateError, match="value"):
        to_tflite(Sum().fit(X), example=X)


def test_an_output_of_another_shape_is_refused():
    @lowers(Sum)
    def wrong(estimator, value, context):
        return {"value": value.tensor()}

    with pytest.raises(GateError, match="gives"):
        to_tflite(Sum().fit(X), example=X)


def test_a_threshold_that_is_one_float_off_is_refused():
    def step(moved):
        def lowering(estimator, value, context):
            table = context.thresholds(value)
            folded = table.fold([0], [0.5])
            g = context.graph
            above = g.greater(g.columns(table.tensor, 0, 1), np.float32(moved(0.5)))
            assert folded.thresholds.tolist() == [0.5]
            return {"label": g.reshape(g.cast(above, "int32"), (-1,))}

        return lowering

    model = Step().fit(X, Y)
    lowers(Step)(step(lambda t: t))
    assert to_tflite(model, example=X).evidence.label_changes == 0
    for side in (-np.inf, np.inf):
        lowers(Step)(step(lambda t, side=side: np.nextafter(np.float32(t), np.float32(side))))
        with pytest.raises(GateError, match="labels differ"):
            to_tflite(model, example=X)


def test_what_float32_cannot_hold_is_refused_and_the_feature_is_named():
    far = X + np.array([0.0, 1e6, 0.0])
    model = make_pipeline(PolynomialFeatures(3), StandardScaler(), LinearRegression())
    model.fit(far, X[:, 1] ** 3)
    features = [FeatureSpec(name=name) for name in ("heat", "pressure", "flow")]
    with pytest.raises(GateError, match="'pressure' lies"):
        to_tflite(model, example=far, features=features)


def test_rows_that_the_original_refuses_are_an_error():
    holes = X.copy()
    holes[3, 1] = np.nan
    with pytest.raises(DataError, match="itself refuses"):
        to_tflite(LogisticRegression().fit(X, Y), example=holes)


def test_missing_values_are_probed_where_the_original_answers():
    holes = X.copy()
    holes[::5, 1] = np.nan
    compiled = to_tflite(DecisionTreeClassifier(random_state=0).fit(holes, Y), example=holes)
    assert all(feature.missing_allowed for feature in compiled.signature.features)
    strict = to_tflite(LogisticRegression().fit(X, Y), example=X)
    assert not any(feature.missing_allowed for feature in strict.signature.features)


@pytest.mark.parametrize("make", [LogisticRegression, LinearRegression])
def test_numbers_that_float32_rounds_away_are_refused(make):
    times = 1.7e9 + np.arange(80.0)[:, None]  # seconds: float32 keeps every 128th
    y = (np.arange(80) % 80 >= 40).astype(int)
    model = make_pipeline(StandardScaler(), make()).fit(times, y)
    with pytest.raises(GateError, match="rounding the input to 32 bits"):
        to_tflite(model, example=times)


def test_an_example_without_rows_is_refused():
    with pytest.raises(DataError, match="no rows"):
        to_tflite(LogisticRegression().fit(X, Y), example=X[:0])


def test_a_probe_beyond_float32_is_no_reason_to_refuse_but_a_row_is():
    model = make_pipeline(StandardScaler(), GammaRegressor(alpha=0)).fit(X, np.exp(3 * X[:, 0]))
    compiled = to_tflite(model, example=X)
    assert compiled.evidence.probe_count > 0
    assert not np.isfinite(compiled.run([[100.0, 0.0, 0.0]])["value"]).all()
    far = np.vstack([X, [[45.0, 0.0, 0.0]]])
    assert np.isfinite(model.predict(far)).all()
    with pytest.raises(GateError, match="value"):
        to_tflite(model, example=far)


def test_the_rounding_of_scikit_learn_in_float32_is_not_held_against_us():
    far = (X + np.array([3e4, 0.0, 0.0])).astype(np.float32)
    model = make_pipeline(MinMaxScaler(), RidgeClassifier()).fit(far, Y)
    there = np.abs(model.decision_function(far) - model.decision_function(far.astype(float)))
    assert there.max() > 2e-5  # its own two answers are further apart than our limit
    compiled = to_tflite(model, example=far)
    wanted = model.decision_function(far.astype(float))
    np.testing.assert_allclose(compiled.run(far)["decision"], wanted, atol=2e-5)


def test_numbers_that_overflow_on_the_way_to_a_threshold_do_not_stop_the_search():
    model = make_pipeline(PowerTransformer(), DecisionTreeClassifier(random_state=0)).fit(X, Y)
    assert to_tflite(model, example=X).evidence.label_changes == 0


@pytest.mark.parametrize("make", [lambda: KMeans(3, n_init=1, random_state=0), NearestCentroid])
def test_float32_frames_far_from_zero_are_compared_in_float64(make):
    names = ["a", "b", "c"]
    frame = pd.DataFrame((RNG.normal(size=(90, 3)) + 1e4).astype(np.float32), columns=names)
    model = make().fit(frame, frame["a"] > 1e4)
    compiled = to_tflite(model, example=frame)
    assert compiled.evidence.label_changes == 0
    if "distances" in compiled.run(frame):
        assert compiled.evidence.original.endswith("asked in float64")
        exact = np.linalg.norm(frame.to_numpy(float)[:, None] - model.cluster_centers_, axis=2)
        assert np.abs(compiled.run(frame)["distances"] - exact).max() <= 1e-5


def test_one_row_of_giants_is_no_excuse_for_the_other_rows():
    decision = np.array([[1.0, -2.0], [3.0, 0.5], [1e6, 0.0]])
    assert steepness({"decision": decision}, 3)[:2].tolist() == [1, 1]
    assert steepness({"decision": decision}, 3)[2] > 1e4
    assert (steepness({"decision": decision * 1000}, 3) > 1).all()
    assert steepness({"probabilities": decision}, 3).tolist() == [1, 1, 1]


@pytest.mark.filterwarnings("ignore:The optimal lambda:UserWarning")
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("method", ["box-cox", "yeo-johnson"])
def test_an_extreme_exponent_is_refused_by_column_and_number_but_not_before_a_tree(method):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"mild": rng.lognormal(size=100), "tight": 1000 + rng.random(100)})
    power = PowerTransformer(method=method)
    with pytest.raises(UnsupportedError, match=r"exponent -?\d.*column 'tight'.*lambdas_"):
        to_tflite(power.fit(frame), example=frame)
    tree = DecisionTreeClassifier(max_depth=2, random_state=0)
    model = make_pipeline(PowerTransformer("yeo-johnson"), tree).fit(frame, frame["mild"] > 1)
    labels = to_tflite(model, example=frame).run(frame)["label"]
    assert np.array_equal(labels, model.predict(frame.astype(np.float32).astype(float)))
