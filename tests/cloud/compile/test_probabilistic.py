"""Naive Bayes, clusters, Gaussian mixtures and perceptrons."""

import warnings

import numpy as np
import pytest
from sklearn.cluster import KMeans, MiniBatchKMeans
from sklearn.datasets import load_digits, load_iris, load_wine
from sklearn.linear_model import LogisticRegression
from sklearn.mixture import GaussianMixture
from sklearn.naive_bayes import BernoulliNB, ComplementNB, GaussianNB, MultinomialNB
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from fieldloop_cloud.compile.api import to_tflite


@pytest.fixture(scope="module")
def digits():
    X, y = load_digits(return_X_y=True)
    return X[:1000], y[:1000], X[1000:]


def trained(model, X, y):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Stochastic Optimizer")
        return model.fit(X, y)


def assert_same(model, X, unseen, *, probability=1e-5):
    got = to_tflite(model, example=X).run(unseen)
    assert got["label"].tolist() == model.predict(unseen).tolist()
    assert np.abs(got["probabilities"] - model.predict_proba(unseen)).max() <= probability
    return got


@pytest.mark.parametrize(
    "model",
    [GaussianNB(), BernoulliNB(), BernoulliNB(binarize=4.0), ComplementNB(norm=True)],
    ids=str,
)
def test_naive_bayes_on_ten_classes(digits, model):
    """Pixels that never vary within a class make log likelihoods of billions."""
    X, y, unseen = digits
    assert_same(model.fit(X, y), X, unseen)


def test_counts_of_hundreds(digits):
    X, y, unseen = digits
    assert_same(MultinomialNB().fit(X, y), X, unseen, probability=5e-5)


def test_gaussian_bayes_far_from_zero():
    X, y = load_iris(return_X_y=True)
    X = (X + 1e4).astype(np.float32).astype(float)
    names = np.array(["ä", "b", "c"])[y]
    assert_same(GaussianNB().fit(X, names), X, X)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rows_on_the_binarizing_threshold_fall_where_scikit_learn_puts_them(dtype):
    step = np.float32(0.1)
    around = [np.nextafter(step, np.float32(0)), step, np.nextafter(step, np.float32(1))]
    X = np.array([[a, b] for a in around for b in around], dtype)
    y = np.arange(9) % 2
    assert_same(BernoulliNB(binarize=0.1).fit(X, y), X, X)


def test_a_threshold_moves_through_the_scaler_in_front(digits):
    X, y, unseen = digits
    assert_same(make_pipeline(StandardScaler(), BernoulliNB()).fit(X, y), X, unseen)


@pytest.mark.parametrize("kind", [KMeans, MiniBatchKMeans])
def test_clusters(digits, kind):
    X, _, unseen = digits
    model = kind(12, n_init=1, random_state=0).fit(X)
    compiled = to_tflite(model, example=X)
    got = compiled.run(unseen)
    assert compiled.signature.task == "clustering"
    assert got["label"].tolist() == model.predict(unseen).tolist()
    assert np.abs(got["distances"] - model.transform(unseen)).max() < 1e-4


def test_distances_to_centres_as_features(digits):
    X, y, unseen = digits
    steps = KMeans(20, n_init=1, random_state=0), StandardScaler(), LogisticRegression(max_iter=30)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="lbfgs failed")
        model = make_pipeline(*steps).fit(X, y)
    assert_same(model, X, unseen)


@pytest.mark.parametrize("kind", ["full", "tied", "diag", "spherical"])
def test_mixtures(kind):
    X, _ = load_wine(return_X_y=True)
    model = make_pipeline(
        StandardScaler(), GaussianMixture(3, covariance_type=kind, random_state=0)
    ).fit(X)
    X = X.astype(np.float32).astype(float)
    got = assert_same(model, X, X)
    assert np.abs(got["score"] - model.score_samples(X)).max() < 1e-4


@pytest.mark.parametrize("activation", ["relu", "tanh", "logistic", "identity"])
@pytest.mark.parametrize("classes", [2, 10])
def test_perceptrons(digits, activation, classes):
    X, y, unseen = digits
    X, y = X[y < classes], y[y < classes]
    net = MLPClassifier((12, 7), activation=activation, max_iter=15, random_state=0)
    assert_same(trained(make_pipeline(StandardScaler(), net), X, y), X, unseen)


@pytest.mark.parametrize("targets", [1, 2])
def test_perceptron_regression(targets):
    X, y = load_iris(return_X_y=True)
    target = np.column_stack([y + 1.0, X[:, 0]])[:, :targets].squeeze()
    model = trained(MLPRegressor(hidden_layer_sizes=(6,), max_iter=30, random_state=0), X, target)
    got = to_tflite(model, example=X).run(X)["value"]
    expected = model.predict(X)
    assert got.shape == expected.shape
    assert np.abs(got - expected).max() < 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("precision", ["float16", "int8"])
def test_a_perceptron_in_reduced_precision(digits, precision):
    X, y, unseen = digits
    net = MLPClassifier((30,), max_iter=30, random_state=0)
    model = trained(make_pipeline(StandardScaler(), net), X, y)
    small = to_tflite(model, example=X, precision=precision)
    assert (small.run(unseen)["label"] == model.predict(unseen)).mean() > 0.98
    assert len(small.tflite) < 0.75 * len(to_tflite(model, example=X).tflite)
