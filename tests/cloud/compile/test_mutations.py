"""A lowering that is wrong by a little in one number is refused, whatever may excuse a tie."""

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from sklearn.calibration import CalibratedClassifierCV
from sklearn.cluster import KMeans
from sklearn.datasets import load_iris
from sklearn.decomposition import PCA
from sklearn.ensemble import GradientBoostingRegressor, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.mixture import GaussianMixture
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsRegressor, NearestCentroid
from sklearn.neural_network import MLPRegressor
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from sklearn.tree import DecisionTreeRegressor

from fieldloop.errors import GateError
from fieldloop_cloud.compile.api import to_tflite
from fieldloop_cloud.compile.graph import Graph
from fieldloop_cloud.compile.thresholds import floor32

X, Y = load_iris(return_X_y=True)
VALUE = X @ [1.0, -2.0, 0.5, 3.0]
KINDS = {"float32": schema.TensorType.FLOAT32, "int32": schema.TensorType.INT32}

CLASSIFIERS = {
    "linear weights": (LogisticRegression(max_iter=2000), "float32"),
    "support vectors": (SVC(), "float32"),
    "centroids": (NearestCentroid(), "float32"),
    "means": (GaussianNB(), "float32"),
    "isotonic steps": (
        CalibratedClassifierCV(LogisticRegression(max_iter=2000), method="isotonic"),
        "float32",
    ),
    "leaves of a forest": (RandomForestClassifier(5, max_depth=3, random_state=0), "int32"),
}
OTHERS = {
    "scaler": (StandardScaler(), "float32"),
    "components": (PCA(2), "float32"),
    "layer": (
        MLPRegressor(
            hidden_layer_sizes=(8,),
            activation="tanh",
            max_iter=5000,
            solver="lbfgs",
            random_state=0,
        ),
        "float32",
    ),
    "neighbours": (KNeighborsRegressor(weights="distance"), "float32"),
    "centres": (KMeans(3, n_init=1, random_state=0), "float32"),
    "mixture": (GaussianMixture(2, random_state=0), "float32"),
    "leaves of boosting": (GradientBoostingRegressor(n_estimators=5, random_state=0), "int32"),
}
MODELS = {name: (*entry, Y) for name, entry in CLASSIFIERS.items()} | {
    name: (*entry, VALUE) for name, entry in OTHERS.items()
}


def constants(data, dtype):
    """All constants of a type; int32 that are no places in a table: fixed-point numbers."""
    model = schema.ModelT.InitFromPackedBuf(data, 0)
    found = [
        np.asarray(model.buffers[tensor.buffer].data, np.uint8).view(dtype)
        for graph in model.subgraphs
        for tensor in graph.tensors
        if tensor.type == KINDS[dtype] and model.buffers[tensor.buffer].data is not None
    ]
    return [array for array in found if dtype == "float32" or np.abs(array).max() > 1e6]


def damaged(data, array, place, number):
    """The file with one number of a constant changed."""
    start, changed = data.index(array.tobytes()), array.copy()
    changed[place] = number
    return data[:start] + changed.tobytes() + data[start + array.nbytes :]


def is_refused(model, monkeypatch, damage):
    finish = Graph.finish
    with monkeypatch.context() as patch:
        patch.setattr(Graph, "finish", lambda graph: damage(finish(graph)))
        try:
            to_tflite(model, example=X)
        except GateError:
            return True
    return False


@pytest.mark.parametrize("name", MODELS)
def test_one_number_that_is_a_little_wrong_is_refused(name, monkeypatch):
    model, dtype, target = MODELS[name]
    model.fit(X, target)
    array = max(constants(to_tflite(model, example=X).tflite, dtype), key=len)
    places = np.flatnonzero(np.abs(array) > 0.1 * np.abs(array).max())
    if name == "isotonic steps":  # rows of break point, slope and height; most slopes are zero
        places = np.flatnonzero((array > 0) & (np.arange(len(array)) % 3 == 2))
    places = places[np.linspace(0, len(places) - 1, 8).astype(int)]
    refused = [
        is_refused(
            model, monkeypatch, lambda data, at=at: damaged(data, array, at, array[at] * 1.02)
        )
        for at in places
    ]
    # Some numbers hardly matter: a class that is certain stays so.
    assert sum(refused) >= 4, refused


def test_a_threshold_that_is_one_float_too_high_is_refused(monkeypatch):
    model = DecisionTreeRegressor(max_depth=3, random_state=0).fit(X, VALUE)
    (first,) = floor32(model.tree_.threshold[:1])
    arrays = constants(to_tflite(model, example=X).tflite, "float32")
    array, place = next((a, np.flatnonzero(a == first)[0]) for a in arrays if (a == first).any())
    higher = np.nextafter(array[place], np.float32(np.inf))
    assert is_refused(model, monkeypatch, lambda data: damaged(data, array, place, higher))
