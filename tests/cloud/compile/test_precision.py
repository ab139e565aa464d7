"""float16 and int8: smaller, and never worse than stated."""

import warnings

import numpy as np
import pytest
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.svm import SVC
from sklearn.tree import DecisionTreeClassifier

from fieldloop.errors import ConfigError, GateError, SignatureError, UnsupportedError
from fieldloop_cloud.compile.api import to_tflite
from fieldloop_cloud.compile.inspect import inspect

DIGITS, DIGIT = load_digits(return_X_y=True)
CELLS, CELL = load_breast_cancer(return_X_y=True)

MODELS = {
    "logistic": lambda: make_pipeline(StandardScaler(), LogisticRegression(max_iter=30)),
    "svm": lambda: make_pipeline(StandardScaler(), SVC()),
    "neighbors": lambda: make_pipeline(StandardScaler(), KNeighborsClassifier()),
    "forest": lambda: make_pipeline(StandardScaler(), RandomForestClassifier(20, random_state=0)),
}


def fitted(name, X, y):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # convergence does not matter here
        return MODELS[name]().fit(X, y)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("precision", ["float16", "int8"])
@pytest.mark.parametrize("data", ["digits", "breast-cancer"])
def test_reduced_precision_keeps_the_labels(name, precision, data, tflite214):
    X, y = (DIGITS, DIGIT) if data == "digits" else (CELLS, CELL)
    model = fitted(name, X[::2], y[::2])
    compiled = to_tflite(model, example=X[::2], held_out=X[1::2], precision=precision)
    agreement = np.mean(compiled.run(X[1::2])["label"] == model.predict(X[1::2]))
    assert agreement >= 0.98
    facts = inspect(compiled.tflite)
    assert not facts.custom_ops
    assert facts.min_runtime <= "2.14.0"
    tensors = compiled.codec.tensors(compiled.codec.encode_rows(X[1:60:2]))[0]
    (outputs,) = tflite214.run(compiled.tflite, [tensors])
    here = compiled.engine.run([tensors])
    for a, b in zip(outputs, here, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["svm", "neighbors"])
def test_large_tables_shrink(name):
    table = DIGITS[::2] + 0.3  # whole numbers are stored small in any precision
    model = MODELS[name]().fit(table, DIGIT[::2])
    sizes = [
        len(to_tflite(model, example=table, precision=precision).tflite)
        for precision in ("float32", "float16", "int8")
    ]
    assert sizes[1] < 0.6 * sizes[0]
    assert sizes[2] < 0.45 * sizes[0]


def test_each_feature_of_an_int8_input_has_its_own_scale():
    model = fitted("logistic", CELLS, CELL)
    spec = to_tflite(model, example=CELLS, precision="int8").signature.inputs[0]
    assert spec.dtype == "int8"
    assert len(spec.scale) == len(spec.zero_point) == CELLS.shape[1]
    assert max(spec.scale) / min(spec.scale) > 100


def test_whole_numbers_in_a_short_range_are_exact_in_int8():
    model = Ridge().fit(DIGITS, DIGIT)
    compiled = to_tflite(model, example=DIGITS, precision="int8")
    assert set(compiled.signature.inputs[0].scale) == {1.0}
    assert compiled.evidence.input_label_changes == 0


def test_forests_are_exact_relative_to_the_quantized_input():
    model = MODELS["forest"]().fit(CELLS, CELL)
    compiled = to_tflite(model, example=CELLS, precision="int8")
    spec = compiled.signature.inputs[0]
    codes = compiled.codec.tensors(compiled.codec.encode_rows(CELLS))[0].astype(float)
    seen = ((codes - spec.zero_point) * np.array(spec.scale)).astype(np.float32).astype(float)
    assert compiled.run(CELLS)["label"].tolist() == model.predict(seen).tolist()
    assert compiled.evidence.label_changes == 0


def test_an_int8_input_has_no_code_for_a_missing_value():
    X = CELLS.copy()
    X[0, 0] = np.nan
    model = make_pipeline(RandomForestClassifier(3, random_state=0)).fit(X, CELL)
    with pytest.raises(UnsupportedError, match="missing"):
        to_tflite(model, example=X, precision="int8")
    compiled = to_tflite(model, example=CELLS, precision="int8")
    with pytest.raises(SignatureError, match="missing"):
        compiled.run(X[:1])


def test_categories_are_exact_in_int8():
    rng = np.random.default_rng(0)
    X = np.column_stack([rng.choice(["a", "b", "c"], 60), rng.normal(size=60)]).astype(object)
    X[:, 1] = X[:, 1].astype(float)
    y = X[:, 0] == "a"
    columns = ColumnTransformer([("text", OneHotEncoder(), [0])], remainder=StandardScaler())
    model = make_pipeline(columns, LogisticRegression()).fit(X, y)
    compiled = to_tflite(model, example=X, precision="int8")
    assert compiled.run(X)["label"].tolist() == model.predict(X).tolist()


def test_more_categories_than_codes_are_refused():
    X = np.array([[f"part {i}"] for i in range(300)], dtype=object)
    model = OneHotEncoder().fit(X)
    with pytest.raises(UnsupportedError, match="300 categories"):
        to_tflite(model, example=X, precision="int8")


def test_an_outlier_that_ruins_the_input_range_is_refused_with_the_cause():
    X = np.random.default_rng(0).normal(size=(200, 2))
    y = (X[:, 0] > 0).astype(int)
    X[0, 0] = 1e6
    model = DecisionTreeClassifier(random_state=0).fit(X, y)
    with pytest.raises(GateError, match="rounding the input to 8 bits"):
        to_tflite(model, example=X, precision="int8")
    assert to_tflite(model, example=X).evidence.label_changes == 0


def test_weights_that_do_not_survive_are_refused_with_the_cause():
    X = np.random.default_rng(0).normal(size=(200, 150))
    y = (X[:, 1:].sum(axis=1) > 0).astype(int)
    X[:, 0] = 0.0
    X[-1, 0] = 1.0
    model = LogisticRegression().fit(X, y)
    model.coef_[0, 0] = 1e6  # one weight takes the whole range of the codes
    with pytest.raises(GateError, match="labels differ from the original in int8"):
        to_tflite(model, example=X, precision="int8")


@pytest.mark.parametrize("precision", ["int16x8", "dynamic", "float64"])
def test_precisions_of_nets_are_refused(precision):
    model = Ridge().fit(DIGITS, DIGIT)
    with pytest.raises(ConfigError, match=precision):
        to_tflite(model, example=DIGITS, precision=precision)
