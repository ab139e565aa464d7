"""Two flatbuffers joined answer as the two in a row."""

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.ensemble import GradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from fieldloop.errors import UnsupportedError
from fieldloop.interpreter import open_engine
from fieldloop_cloud.compile.api import to_tflite
from fieldloop_cloud.compile.flatbuffer import Model
from fieldloop_cloud.compile.graph import Graph
from fieldloop_cloud.compile.inspect import inspect
from fieldloop_cloud.compile.joining import join

HEADS = {
    "logistic": LogisticRegression(max_iter=500),
    "scaled RBF": make_pipeline(StandardScaler(), SVC()),
    "forest with loops": RandomForestClassifier(n_estimators=30, max_depth=9, random_state=0),
    "boosting": GradientBoostingClassifier(n_estimators=5, random_state=0),
    "neighbours": KNeighborsClassifier(3),
}


@pytest.fixture(scope="module")
def digits():
    X, y = load_digits(return_X_y=True)
    return X[:400].astype(np.float32), y[:400]


@pytest.fixture(scope="module")
def front(digits):
    return to_tflite(PCA(12, random_state=0).fit(digits[0]), example=digits[0])


def run(model, rows):
    engine = open_engine(model)
    try:
        return engine.run([rows])
    finally:
        engine.close()


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_the_joined_model_answers_as_the_two_in_a_row(name, precision, digits, front, tflite214):
    X, y = digits
    features = run(front.tflite, X)[0]
    head = to_tflite(HEADS[name].fit(features, y), example=features, precision=precision)
    joined = join(front.tflite, head.tflite)
    expected = run(head.tflite, features)
    for made in (run(joined, X), tflite214.run(joined, [X])[0]):
        assert len(made) == len(expected)
        for one, other in zip(made, expected, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_the_joined_model_states_the_runtime_that_both_need(digits, front):
    features = run(front.tflite, digits[0])[0]
    head = to_tflite(LogisticRegression(max_iter=500).fit(features, digits[1]), example=features)
    joined, parts = inspect(join(front.tflite, head.tflite)), (front.tflite, head.tflite)
    wanted = [inspect(part) for part in parts]
    assert joined.inputs == wanted[0].inputs
    assert joined.outputs == wanted[1].outputs
    for facts in wanted:
        assert all(joined.op_versions[op] >= v for op, v in facts.op_versions.items())
    assert joined.size_bytes < sum(len(part) for part in parts) + 1000


def test_a_joined_model_can_be_joined_again(digits, front):
    features = run(front.tflite, digits[0])[0]
    half = to_tflite(StandardScaler().fit(features), example=features)
    middle = join(front.tflite, half.tflite)
    head = to_tflite(
        LogisticRegression(max_iter=500).fit(run(middle, digits[0])[0], digits[1]),
        example=run(middle, digits[0])[0],
    )
    made = run(join(middle, head.tflite), digits[0])[0]
    np.testing.assert_array_equal(made, run(head.tflite, run(middle, digits[0])[0])[0])


def test_models_that_do_not_fit_are_refused(digits, front):
    X, y = digits
    wide = to_tflite(LogisticRegression(max_iter=500).fit(X, y), example=X)
    with pytest.raises(UnsupportedError, match=r"\(-1, 12\) does not go into .*\(-1, 64\)"):
        join(front.tflite, wide.tflite)
    features = run(front.tflite, X)[0]
    coded = to_tflite(
        LogisticRegression(max_iter=500).fit(features, y), example=features, precision="int8"
    )
    with pytest.raises(UnsupportedError, match="does not go into int8"):
        join(front.tflite, coded.tflite)
    with pytest.raises(UnsupportedError, match="3 outputs"):
        join(wide.tflite, wide.tflite)
    with pytest.raises(UnsupportedError, match="no TFLite model"):
        join(b"no model at all", wide.tflite)


def test_an_input_that_is_an_output_too_survives(front):
    graph = Graph(Model())
    x = graph.input("x", (-1, 12), "float32")
    graph.output("transformed", x)
    graph.output("value", graph.sum(x, 1))
    rows = np.ones((3, 64), np.float32)
    plain = run(front.tflite, rows)[0]
    made = run(join(front.tflite, graph.finish()), rows)
    np.testing.assert_array_equal(made[0], plain)
    np.testing.assert_allclose(made[1], plain.sum(axis=1), rtol=1e-5)
