"""Support vector machines: the same answers as libsvm's."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from sklearn.calibration import CalibratedClassifierCV
from sklearn.datasets import load_breast_cancer, load_digits, load_iris, make_blobs
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC, SVR, NuSVC, NuSVR, OneClassSVM

from fieldloop.errors import GateError, UnsupportedError
from fieldloop_cloud.compile.api import to_tflite

FAR = 1e4


@pytest.fixture(scope="module")
def digits():
    X, y = load_digits(return_X_y=True)
    return X[:700].astype(np.float32), y[:700], X[700:].astype(np.float32)


@pytest.fixture(scope="module")
def iris():
    X, y = load_iris(return_X_y=True)
    return X.astype(np.float32), y


def with_probabilities(kind=SVC, **parameters):
    """Make a machine with probabilities, which scikit-learn 1.9 warns about when it is fitted."""
    return kind(probability=True, random_state=0, **parameters)


def fitted(model, X, y):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r".*`probability`", category=FutureWarning)
        return model.fit(X, y)


def assert_same(model, X, *, example=None, decision=2e-5, probability=1e-5):
    compiled = to_tflite(model, example=X if example is None else example)
    got = compiled.run(X)
    assert got["label"].tolist() == model.predict(X).tolist()
    if "decision" in got:
        expected = model.decision_function(X)
        assert got["decision"].shape == expected.shape
        assert np.abs(got["decision"] - expected).max() <= decision * max(1, np.abs(expected).max())
    if "probabilities" in got:
        assert np.abs(got["probabilities"] - model.predict_proba(X)).max() <= probability
    return got


@pytest.mark.parametrize("kernel", ["linear", "rbf", "poly", "sigmoid"])
@pytest.mark.parametrize("shape", ["ovr", "ovo"])
def test_ten_classes_behind_a_scaler(digits, kernel, shape):
    X, y, unseen = digits
    svc = SVC(kernel=kernel, decision_function_shape=shape)
    assert_same(make_pipeline(StandardScaler(), svc).fit(X, y), unseen, example=X)


@pytest.mark.parametrize("kernel", ["linear", "rbf", "poly", "sigmoid"])
def test_two_classes_and_probabilities(kernel):
    X, y = load_breast_cancer(return_X_y=True)
    X, names = X.astype(np.float32), np.array(["benign", "malignant"])[y]
    model = make_pipeline(StandardScaler(), with_probabilities(kernel=kernel))
    assert_same(fitted(model, X, names), X)


def test_coupled_probabilities_of_ten_classes(digits):
    X, y, unseen = digits
    model = fitted(with_probabilities(gamma="scale"), X, y)
    got = assert_same(model, unseen, example=X)
    assert np.abs(got["probabilities"].sum(axis=1) - 1).max() < 1e-5


@pytest.mark.parametrize("kind", [SVC, NuSVC])
@pytest.mark.parametrize("labels", [[-7, 3, 40], ["no", "maybe", "yes"]])
def test_labels_of_any_kind(iris, kind, labels):
    X, y = iris
    assert_same(fitted(with_probabilities(kind), X, np.array(labels)[y]), X)


def test_boolean_labels(iris):
    X, y = iris
    assert assert_same(SVC().fit(X, y > 0), X)["label"].dtype == np.bool_


def test_features_far_from_zero_are_centred_before_the_norm_is_expanded(digits):
    X, y, unseen = digits
    model = fitted(with_probabilities(), X + np.float32(FAR), y)
    got = assert_same(model, unseen + np.float32(FAR), example=X + np.float32(FAR))
    # The offset changes nothing about a centred machine but its last digits.
    near = fitted(with_probabilities(), X, y)
    assert (got["label"] == near.predict(unseen)).mean() > 0.99


def test_features_of_very_different_scale():
    X, y = load_breast_cancer(return_X_y=True)
    assert_same(fitted(with_probabilities(), X, y), X.astype(np.float32))


@pytest.mark.parametrize("gamma", [0.3, 3.0])
def test_narrow_kernels_square_the_differences_themselves(gamma):
    X, y = load_breast_cancer(return_X_y=True)
    model = make_pipeline(StandardScaler(), SVC(gamma=gamma)).fit(X, y)
    assert_same(model, X.astype(np.float32), decision=5e-6)


@pytest.mark.parametrize("rows", [0, 1, 2, 7])
def test_a_row_gets_the_same_answer_alone_and_in_a_batch(digits, rows):
    """Peers that trace one row give its label to every row."""
    X, y, unseen = digits
    model = fitted(with_probabilities(), X, y)
    compiled = to_tflite(model, example=X)
    whole, part = compiled.run(unseen), compiled.run(unseen[5 : 5 + rows])
    again = compiled.run(unseen)
    for name, array in part.items():
        assert len(array) == rows
        if name == "label":
            assert array.tolist() == whole[name][5 : 5 + rows].tolist()
        else:
            assert np.allclose(array, whole[name][5 : 5 + rows], atol=2e-6)
        assert np.array_equal(again[name], whole[name])
    assert len(set(whole["label"].tolist())) == 10


def test_the_sigmoid_kernel_is_really_a_hyperbolic_tangent(digits):
    """A peer gets 83 of 360 labels wrong here."""
    X, y, unseen = digits
    model = make_pipeline(StandardScaler(), SVC(kernel="sigmoid", coef0=0.7, gamma=0.02))
    assert_same(model.fit(X, y), unseen, example=X)


def test_a_vote_that_ends_in_a_tie_goes_to_the_first_class():
    # Three classes that beat each other in a circle: one vote each at the centre.
    corners = np.array([[0.0, 1.0], [0.866, -0.5], [-0.866, -0.5]])
    model = SVC(kernel="linear", C=1.0).fit(corners, ["a", "b", "c"])
    model._dual_coef_ = np.array([[1.0, -1.0, 1.0], [-1.0, 1.0, -1.0]])
    model._intercept_ = np.array([0.5, -0.5, 0.5])
    rows = np.zeros((1, 2), np.float32)
    assert model.predict(rows).tolist() == ["a"]
    assert to_tflite(model, example=corners).run(rows)["label"].tolist() == ["a"]


def test_break_ties_decides_by_the_decision_not_by_the_first_class():
    X, y = make_blobs(400, 2, centers=5, cluster_std=4.0, random_state=1)
    X = X.astype(np.float32)
    first, decided = (SVC(break_ties=ties).fit(X, y) for ties in (False, True))
    grid = np.random.default_rng(0).uniform(-15, 15, (3000, 2)).astype(np.float32)
    assert (first.predict(grid) != decided.predict(grid)).any()
    for model in (first, decided):
        assert (
            to_tflite(model, example=X).run(grid)["label"].tolist() == model.predict(grid).tolist()
        )


@pytest.mark.parametrize("kind", [SVR, NuSVR])
@pytest.mark.parametrize("kernel", ["linear", "rbf", "poly", "sigmoid"])
def test_regression(iris, kind, kernel):
    X, _ = iris
    target = X[:, 0] * 2 + np.sin(X[:, 1])
    model = make_pipeline(StandardScaler(), kind(kernel=kernel)).fit(X, target)
    got = to_tflite(model, example=X).run(X)["value"]
    assert np.abs(got - model.predict(X)).max() < 1e-4 * np.abs(target).max()


def test_a_regression_without_support_vectors_is_its_intercept(iris):
    X, y = iris
    model = SVR(epsilon=100.0).fit(X, y)
    assert not len(model.support_)
    assert np.allclose(to_tflite(model, example=X).run(X)["value"], model.predict(X))


def test_anything_to_the_power_zero_is_one(iris):
    X, y = iris
    model = SVR(kernel="poly", degree=0).fit(X, y)
    assert np.allclose(to_tflite(model, example=X).run(X)["value"], model.predict(X), atol=1e-5)


def test_one_class(iris):
    X, _ = iris
    model = OneClassSVM(nu=0.2).fit(X)
    compiled = to_tflite(model, example=X)
    got = compiled.run(X)
    assert compiled.signature.task == "anomaly"
    assert got["label"].tolist() == model.predict(X).tolist()
    assert np.abs(got["decision"] - model.decision_function(X)).max() < 2e-5
    assert np.abs(got["score"] - model.score_samples(X)).max() < 2e-5


@pytest.mark.parametrize("kernel", [lambda a, b: a @ b.T, "precomputed"])
def test_a_kernel_that_is_no_formula_is_refused(iris, kernel):
    X, y = iris
    gram = X @ X.T
    model = SVC(kernel=kernel).fit(gram if kernel == "precomputed" else X, y)
    with pytest.raises(UnsupportedError, match=r"SVC\.kernel.*rbf"):
        to_tflite(model, example=gram if kernel == "precomputed" else X)


def test_a_subclass_is_refused(iris):
    class MySVC(SVC):
        def predict(self, X):
            return super().predict(X)[::-1]

    with pytest.raises(UnsupportedError, match="subclass of SVC"):
        to_tflite(MySVC().fit(*iris), example=iris[0])


def test_a_machine_fitted_on_sparse_rows():
    X, y = load_iris(return_X_y=True)
    model = SVC().fit(sparse.csr_matrix(X), y)
    got = to_tflite(model, example=X).run(X)["label"]
    assert got.tolist() == model.predict(sparse.csr_matrix(X.astype(np.float32))).tolist()


@pytest.mark.parametrize("precision", ["float16", "int8"])
def test_reduced_precision_rounds_after_the_scaler(digits, precision):
    """Rounding raw features in front of the scaler lets accuracy collapse (97.8 to 60.5 %)."""
    X, y, unseen = digits
    X, unseen = X * np.float32(37.0) + 5, unseen * np.float32(37.0) + 5
    X[:, ::2] *= 1e-3
    unseen[:, ::2] *= np.float32(1e-3)
    model = make_pipeline(StandardScaler(), SVC()).fit(X, y)
    small = to_tflite(model, example=X, precision=precision)
    agreement = (small.run(unseen)["label"] == model.predict(unseen)).mean()
    assert agreement > 0.99
    assert len(small.tflite) < 0.6 * len(to_tflite(model, example=X).tflite)


def test_reduced_precision_that_loses_labels_is_refused():
    random = np.random.default_rng(0)
    X = random.normal(size=(300, 2)) * [1.0, 1e-3]
    X[:, 0] = np.rint(X[:, 0] * 200)  # one feature spans far more than 256 steps of the other
    y = (np.sin(X[:, 0]) > 0).astype(int)
    model = SVC(gamma=5.0, C=100.0).fit(X, y)
    with pytest.raises(GateError, match="float32"):
        to_tflite(model, example=X, precision="int8")


@settings(max_examples=15, deadline=None, derandomize=True)
@given(
    kernel=st.sampled_from(["linear", "rbf", "poly", "sigmoid"]),
    classes=st.integers(2, 5),
    features=st.integers(1, 12),
    C=st.floats(0.05, 50),
    gamma=st.sampled_from(["scale", "auto"]),
    coef0=st.floats(-1, 1),
    degree=st.integers(1, 4),
    seed=st.integers(0, 1000),
)
def test_any_parameters(*, kernel, classes, features, C, gamma, coef0, degree, seed):
    X, y = make_blobs(80, features, centers=classes, random_state=seed)
    X = X.astype(np.float32)
    svc = SVC(kernel=kernel, C=C, gamma=gamma, coef0=coef0, degree=degree)
    model = make_pipeline(StandardScaler(), svc).fit(X, y)
    got = to_tflite(model, example=X).run(X)
    decision = model.decision_function(X)
    assert np.abs(got["decision"] - decision).max() < 2e-5 * max(1.0, np.abs(decision).max())


@pytest.mark.parametrize("method", ["sigmoid", "temperature"])
@pytest.mark.parametrize("ensemble", [True, False])
def test_calibrated_machines(digits, method, ensemble):
    X, y, unseen = digits
    inner = make_pipeline(StandardScaler(), SVC())
    model = CalibratedClassifierCV(inner, method=method, ensemble=ensemble, cv=2).fit(X, y)
    assert_same(model, unseen, example=X)
