"""TFLite Micro: arenas, ops checked by type, integer ends, classical models in integers alone."""

import warnings

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_iris
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression, Ridge, RidgeClassifier
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler
from sklearn.svm import SVC, LinearSVC

from fieldloop.errors import ConfigError, UnsupportedError
from fieldloop_cloud.compile.api import to_tflite
from fieldloop_cloud.compile.flat_model import read_model
from fieldloop_cloud.compile.flatbuffer import Model
from fieldloop_cloud.compile.graph import Graph
from fieldloop_cloud.compile.inspect import inspect
from fieldloop_cloud.compile.micro.arena import estimate_arena
from fieldloop_cloud.compile.micro.integer import integer_model
from fieldloop_cloud.compile.micro.ops import micro_ops

DIGITS = load_digits(return_X_y=True)
CELLS = load_breast_cancer(return_X_y=True)
SUGAR = load_diabetes(return_X_y=True)
IRIS = load_iris(return_X_y=True)

MODELS = {
    "logistic": (make_pipeline(StandardScaler(), LogisticRegression(max_iter=100)), DIGITS),
    "logistic of two": (make_pipeline(StandardScaler(), LogisticRegression()), CELLS),
    "machine": (make_pipeline(MinMaxScaler(), LinearSVC()), DIGITS),
    "machine of two": (make_pipeline(MinMaxScaler(), LinearSVC()), CELLS),
    "ridge classifier": (make_pipeline(StandardScaler(), RidgeClassifier()), DIGITS),
    "projection": (make_pipeline(StandardScaler(), PCA(20), LogisticRegression()), DIGITS),
    "discriminant": (LinearDiscriminantAnalysis(), CELLS),
    "perceptron": (
        make_pipeline(StandardScaler(), MLPClassifier((32, 16), max_iter=60, random_state=0)),
        DIGITS,
    ),
    "tanh": (
        make_pipeline(
            StandardScaler(), MLPClassifier((16,), activation="tanh", max_iter=100, random_state=0)
        ),
        CELLS,
    ),
    "logistic perceptron": (
        make_pipeline(
            StandardScaler(),
            MLPClassifier((16,), activation="logistic", max_iter=200, random_state=0),
        ),
        IRIS,
    ),
    "ridge": (make_pipeline(StandardScaler(), Ridge()), SUGAR),
    "regressor": (
        make_pipeline(
            StandardScaler(), MLPRegressor(hidden_layer_sizes=(16,), max_iter=500, random_state=0)
        ),
        SUGAR,
    ),
}


def fitted(model, X, y):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # convergence does not matter here
        return model.fit(X, y)


def made(build):
    model = Model()
    graph = Graph(model)
    build(graph)
    return graph.finish()


@pytest.mark.parametrize("precision", [None, "float16"])
def test_a_precision_that_the_device_does_not_run_is_refused(precision):
    model = LogisticRegression(max_iter=500).fit(*IRIS)
    given = {} if precision is None else {"precision": precision}
    with pytest.raises(ConfigError, match=r"mcu does not run float.*, but int8.*Take .* int8"):
        to_tflite(model, example=IRIS[0], device="mcu", **given)


def test_the_arena_of_a_model_counts_what_is_computed_and_not_the_weights():
    def dense(width):
        def build(graph):
            x = graph.input("x", (-1, 64), "float32")
            weights = np.ones((width, 64), dtype=np.float32)
            graph.output("y", graph.fully_connected(x, weights, np.ones(width, np.float32)))

        return made(build)

    narrow, wide = estimate_arena(dense(32)), estimate_arena(dense(96))
    assert narrow.tensor_bytes == 64 * 4 + 32 * 4
    assert wide.tensor_bytes == 64 * 4 + 96 * 4
    assert narrow.total_bytes >= narrow.tensor_bytes + narrow.persistent_bytes


def test_ops_are_refused_by_type_and_counted():
    def build(graph):
        x = graph.input("x", (-1, 4), "float32")
        whole = graph.cast(x, "int32")
        graph.output("best", graph.arg_max(whole))
        graph.output("sum", graph.sum(whole, 1))
        graph.output("real", graph.arg_max(x))

    ops = micro_ops(read_model(made(build)))
    assert ops.lacking == ("ARG_MAX of int32 (once)", "SUM of int32 (once)")
    assert ops.floating == ("ARG_MAX of float32 (once)", "CAST of float32 (once)")
    assert ops.methods == ("AddArgMax", "AddCast", "AddSum")
    assert "tflite-micro" in ops.source


def test_what_is_no_model_is_refused():
    with pytest.raises(UnsupportedError, match="no TFLite model"):
        integer_model(b"nothing")
    with pytest.raises(UnsupportedError, match="no TFLite model"):
        estimate_arena(b"nothing")


def test_a_dimension_of_unknown_size_is_refused_and_the_batch_is_not():
    def build(shape):
        return lambda graph: graph.output("y", graph.mul(graph.input("x", shape, "float32"), 2.0))

    fixed = read_model(integer_model(made(build((-1, 3)))))
    assert [tensor.shape for tensor in fixed.graphs[0].tensors][:1] == [(1, 3)]
    with pytest.raises(UnsupportedError, match="dimension of unknown size"):
        integer_model(made(build((1, -1))))


@pytest.mark.parametrize("name", MODELS)
def test_linear_models_and_mlps_compute_in_integers_alone_on_both_runtimes(name, tflite214):
    build, (X, y) = MODELS[name]
    model = fitted(build, X[::2], y[::2])
    compiled = to_tflite(model, example=X[::2], held_out=X[1::2], precision="int8", device="mcu")
    ops = micro_ops(read_model(compiled.tflite))
    assert not ops.lacking
    assert not ops.floating
    facts = inspect(compiled.tflite)
    assert facts.min_runtime <= "2.14.0"
    assert {spec.dtype for spec in facts.inputs} == {"int8"}
    for here, there in zip(compiled.signature.outputs, facts.outputs, strict=True):
        assert (here.dtype, here.zero_point) == (there.dtype, there.zero_point)
        assert np.allclose(here.scale, there.scale)
        assert here.dtype == "int8" or here.role == "label"
    assert model_score(compiled, X[1::2], y[1::2]) >= model.score(X[1::2], y[1::2]) - 0.01
    codes = compiled.codec.tensors(compiled.codec.encode_rows(X[1:100:2]))[0]
    (there,) = tflite214.run(compiled.tflite, [codes])
    for old, new in zip(there, compiled.engine.run([codes]), strict=True):
        # Kernels round a sum up or down by themselves; a function behind it passes that on.
        apart = np.abs(old.astype(int) - new.astype(int))
        assert apart.max() <= 4
        assert (apart == 0).mean() > 0.9


def model_score(compiled, X, y):
    said = compiled.run(X)
    if "label" in said:
        return float((said["label"] == y).mean())
    return 1 - float(((said["value"] - y) ** 2).sum() / ((y - y.mean()) ** 2).sum())


def test_of_two_classes_the_label_is_the_sign_of_the_sum_to_its_last_digit():
    # All rows lie within a thousandth of the boundary: int8 decisions could not tell them apart.
    X, y = CELLS
    model = fitted(LogisticRegression(max_iter=500), StandardScaler().fit_transform(X), y)
    table = StandardScaler().fit_transform(X)
    along = model.coef_[0] / np.linalg.norm(model.coef_[0]) ** 2
    away = np.random.default_rng(0).choice([-1e-1, 1e-1], len(X))
    near = table - np.outer(model.decision_function(table) - away, along)
    compiled = to_tflite(model, example=table, precision="int8", device="mcu")
    codes = compiled.codec.tensors(near.astype(np.float32))[0].astype(np.float64)
    spec = compiled.signature.inputs[0]
    seen = (codes - np.array(spec.zero_point)) * np.array(spec.scale)
    decision = model.decision_function(seen)
    said = compiled.run(near)
    clear = np.abs(decision) > 0.1
    right = said["label"] == (decision > 0)
    step = compiled.signature.output("decision").scale[0]
    assert step > 0.1
    assert right[clear].mean() > 0.97


@pytest.mark.parametrize(
    ("build", "what"),
    [
        (RandomForestClassifier(3, random_state=0), "no form in integers alone"),
        (SVC(kernel="linear"), "votes"),
        (SVC(), "no form in integers alone"),
    ],
)
def test_what_has_no_integer_form_is_refused_with_what_would(build, what):
    with pytest.raises(UnsupportedError, match=what) as caught:
        to_tflite(build.fit(*IRIS), example=IRIS[0], precision="int8", device="mcu")
    assert caught.value.where == type(build).__name__
    assert "Distill" in caught.value.advice


def test_features_of_very_different_size_keep_their_say():
    X, y = IRIS
    sizes = np.array([1e-6, 1.0, 1e4, 1e8])
    model = fitted(make_pipeline(StandardScaler(), LogisticRegression()), X * sizes + sizes, y)
    compiled = to_tflite(model, example=X * sizes + sizes, precision="int8", device="mcu")
    assert np.mean(compiled.run(X * sizes + sizes)["label"] == y) > 0.93


def test_auto_for_a_microcontroller_takes_the_integers():
    X, y = DIGITS
    model = fitted(make_pipeline(StandardScaler(), LogisticRegression(max_iter=100)), X, y)
    compiled = to_tflite(model, example=X, precision="auto", device="mcu", truth=y)
    assert compiled.precision == "int8"
    assert not micro_ops(read_model(compiled.tflite)).floating
    assert {rung.precision for rung in compiled.evidence.rungs} == {"float32", "int8"}
