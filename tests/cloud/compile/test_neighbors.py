"""Nearest neighbours and centroids."""

import numpy as np
import pytest
from sklearn.datasets import load_digits, load_iris
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor, NearestCentroid
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from fieldloop.errors import UnsupportedError
from fieldloop_cloud.compile.api import to_tflite


@pytest.fixture(scope="module")
def cloud():
    """Rows without ties, so that every label is decided."""
    random = np.random.default_rng(0)
    X = random.normal(size=(500, 6)).astype(np.float32)
    return X[:400], np.digitize(X[:400].sum(axis=1), [-1, 1]), X[400:]


@pytest.mark.parametrize("weights", ["uniform", "distance"])
@pytest.mark.parametrize(
    "metric",
    [{"p": 2}, {"p": 1}, {"p": 3}, {"p": 1.5}, {"metric": "chebyshev"}, {"metric": "l1"}],
    ids=str,
)
def test_metrics_and_weights(cloud, weights, metric):
    X, y, unseen = cloud
    model = KNeighborsClassifier(7, weights=weights, **metric).fit(X, y)
    got = to_tflite(model, example=X[:50]).run(unseen)
    assert got["label"].tolist() == model.predict(unseen).tolist()
    assert np.abs(got["probabilities"] - model.predict_proba(unseen)).max() < 1e-5


def test_a_training_row_gets_its_own_target_when_weighted_by_distance(cloud):
    """At distance zero the weight is infinite, and nothing else counts."""
    X, _, _ = cloud
    target = X[:, 0] * 100
    model = KNeighborsRegressor(5, weights="distance").fit(X, target)
    got = to_tflite(model, example=X).run(X)["value"]
    assert np.abs(got - target).max() < 1e-3


def test_close_neighbours_far_from_zero_keep_their_order():
    """The expanded norm alone has no digits left for them."""
    random = np.random.default_rng(1)
    X = (random.uniform(size=(600, 2)) + 1e4).astype(np.float32)
    y = random.integers(0, 5, 600)
    model = KNeighborsClassifier(1).fit(X[:500].astype(float), y[:500])
    unseen = X[500:].astype(float)
    got = to_tflite(model, example=X[:500].astype(float)).run(unseen)
    assert got["label"].tolist() == model.predict(unseen).tolist()


def test_digits_with_a_tie_at_the_last_neighbour_are_compiled():
    X, y = load_digits(return_X_y=True)
    model = KNeighborsClassifier(5, p=1).fit(X[:600], y[:600])
    compiled = to_tflite(model, example=X[:600])
    agreement = (compiled.run(X[600:])["label"] == model.predict(X[600:])).mean()
    assert agreement > 0.99  # of equally far neighbours either is right


@pytest.mark.parametrize("shape", ["one", "two"])
def test_regression_targets_far_from_zero(cloud, shape):
    X, _, unseen = cloud
    target = X.sum(axis=1) + 1e6
    if shape == "two":
        target = np.column_stack([target, X[:, 0]])
    model = KNeighborsRegressor(4).fit(X, target)
    got = to_tflite(model, example=X).run(unseen)["value"]
    expected = model.predict(unseen)
    assert got.shape == expected.shape
    assert np.abs(got - expected).max() < 0.1


@pytest.mark.parametrize("rows", [0, 1, 7])
def test_any_number_of_rows(cloud, rows):
    X, y, unseen = cloud
    model = KNeighborsClassifier(3).fit(X, y)
    got = to_tflite(model, example=X).run(unseen[:rows])
    assert got["label"].tolist() == (model.predict(unseen[:rows]).tolist() if rows else [])
    assert got["probabilities"].shape == (rows, 3)


def test_int8_stores_the_training_rows_after_scaling(cloud):
    X, y, unseen = cloud
    random = np.random.default_rng(0)
    X, unseen = (np.tile(rows, 8) + random.normal(size=(len(rows), 48)) for rows in (X, unseen))
    scales = np.tile([1, 100, 1e-3, 1, 1e4, 1], 8)
    model = make_pipeline(StandardScaler(), KNeighborsClassifier(9)).fit(X * scales, y)
    small = to_tflite(model, example=X * scales, precision="int8", held_out=unseen * scales)
    assert (small.run(unseen * scales)["label"] == model.predict(unseen * scales)).mean() > 0.95
    assert len(small.tflite) < len(to_tflite(model, example=X * scales).tflite) * 0.6


@pytest.mark.parametrize(
    ("parameters", "name"),
    [
        ({"metric": "cosine"}, "metric"),
        ({"metric": lambda a, b: float(np.abs(a - b).sum())}, "metric"),
        ({"weights": np.exp}, "weights"),
        ({"metric": "minkowski", "metric_params": {"w": np.ones(6)}}, "metric_params"),
    ],
)
def test_what_is_not_supported_is_refused(cloud, parameters, name):
    X, y, _ = cloud
    model = KNeighborsClassifier(**parameters).fit(X, y)
    with pytest.raises(UnsupportedError, match=rf"KNeighborsClassifier\.{name}"):
        to_tflite(model, example=X)


@pytest.mark.parametrize("metric", ["euclidean", "manhattan"])
@pytest.mark.parametrize("priors", ["uniform", "empirical"])
@pytest.mark.parametrize("classes", [2, 3])
def test_nearest_centroid(metric, priors, classes):
    X, y = load_iris(return_X_y=True)
    X, y = X[y < classes][20:], np.array(["a", "b", "c"])[y[y < classes]][20:]
    model = NearestCentroid(metric=metric, priors=priors, shrink_threshold=0.1).fit(X, y)
    got = to_tflite(model, example=X).run(X)
    assert got["label"].tolist() == model.predict(X.astype(np.float32).astype(float)).tolist()
    if metric == "euclidean":
        expected = model.decision_function(X)
        assert np.abs(got["decision"] - expected).max() < 2e-5 * np.abs(expected).max()
