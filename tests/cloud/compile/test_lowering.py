import numpy as np
import pytest
from sklearn.base import BaseEstimator, ClassifierMixin, TransformerMixin
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.manifold import TSNE
from sklearn.model_selection import GridSearchCV, RandomizedSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from fieldloop.errors import DataError, GateError, UnsupportedError
from fieldloop_cloud.compile.api import to_tflite
from fieldloop_cloud.compile.lowering import lowers, supported

RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 3))
Y = (X[:, 0] > 0).astype(int)


def test_at_least_45_estimators_are_supported():
    assert len(supported()) >= 45


def test_a_subclass_is_refused_because_it_may_compute_anything():
    class Upside(LogisticRegression):
        def predict(self, rows):
            return 1 - super().predict(rows)

    with pytest.raises(UnsupportedError, match="subclass of LogisticRegression"):
        to_tflite(Upside().fit(X, Y), example=X)


def test_an_unknown_estimator_is_refused_with_its_place_in_the_pipeline():
    class Rotate(TransformerMixin, BaseEstimator):
        def fit(self, rows, _=None):
            self.n_features_in_ = rows.shape[1]
            return self

        def transform(self, rows):
            return rows[:, ::-1]

    model = make_pipeline(StandardScaler(), Rotate(), LogisticRegression()).fit(X, Y)
    with pytest.raises(UnsupportedError) as caught:
        to_tflite(model, example=X)
    assert "Pipeline > rotate: Rotate" in caught.value.where
    assert "lowers" in caught.value.advice


def test_an_estimator_that_is_not_fitted_is_refused():
    with pytest.raises(UnsupportedError, match="not fitted"):
        to_tflite(LogisticRegression(), example=X)


def test_an_estimator_that_cannot_predict_new_rows_is_refused():
    with pytest.raises(UnsupportedError):
        to_tflite(TSNE(perplexity=5).fit(X), example=X)


def test_an_example_with_other_columns_is_refused():
    with pytest.raises(UnsupportedError, match="fitted on 3 columns and gets 2"):
        to_tflite(Ridge().fit(X, Y), example=X[:, :2])


@pytest.mark.parametrize("example", [[], [1.0, 2.0], "text", None, np.zeros((2, 2, 2))])
def test_an_example_that_is_no_table_is_refused(example):
    with pytest.raises(DataError, match="table"):
        to_tflite(Ridge().fit(X, Y), example=example)


def test_an_unknown_function_is_refused_by_its_parameter():
    transformer = FunctionTransformer(lambda rows: rows + 1)
    with pytest.raises(UnsupportedError) as caught:
        to_tflite(make_pipeline(transformer, Ridge()).fit(X, Y), example=X)
    assert caught.value.where.endswith("FunctionTransformer.func")


def test_a_transformer_must_transform():
    model = make_pipeline(StandardScaler(), Ridge()).fit(X, Y)
    model.steps.append(("last", Ridge().fit(X, Y)))
    with pytest.raises(UnsupportedError, match="does not transform"):
        to_tflite(model, example=X)


@pytest.mark.parametrize(
    "make", [GridSearchCV, lambda *p: RandomizedSearchCV(*p, n_iter=2, random_state=0)]
)
def test_a_search_stands_for_its_best_estimator(make):
    search = make(make_pipeline(StandardScaler(), Ridge()), {"ridge__alpha": [0.1, 10]})
    search.fit(X, X[:, 1])
    compiled = to_tflite(search, example=X)
    np.testing.assert_allclose(compiled.run(X)["value"], search.predict(X), atol=1e-5)


def test_a_search_without_a_refit_is_refused():
    search = GridSearchCV(Ridge(), {"alpha": [0.1, 10]}, refit=False).fit(X, X[:, 1])
    with pytest.raises(UnsupportedError, match=r"refit|not fitted"):
        to_tflite(search, example=X)


class Threshold(ClassifierMixin, BaseEstimator):
    """A third party's estimator."""

    def fit(self, rows, labels):
        self.n_features_in_ = rows.shape[1]
        self.classes_ = np.unique(labels)
        return self

    def predict(self, rows):
        return self.classes_[(rows[:, 0] > 0).astype(int)]


def _threshold(estimator, value, context, *, flip=False):
    g = context.graph
    first = g.columns(value.tensor(), 0, 1)
    above = g.less(first, 0.0) if flip else g.greater(first, 0.0)
    return {"label": g.reshape(g.cast(above, "int32"), (-1,))}


def test_a_third_party_registers_its_own_lowering():
    lowers(Threshold)(_threshold)
    model = make_pipeline(StandardScaler(), Threshold()).fit(X, np.where(Y, "up", "down"))
    compiled = to_tflite(model, example=X)
    assert compiled.run(X)["label"].tolist() == model.predict(X).tolist()


def test_a_lowering_that_is_wrong_is_caught():
    lowers(Threshold)(lambda *parts: _threshold(*parts, flip=True))
    model = Threshold().fit(X, Y)
    with pytest.raises(GateError, match="labels differ"):
        to_tflite(model, example=X)


def test_a_lowering_by_name_needs_no_import():
    name = f"{Threshold.__module__}.{Threshold.__qualname__}"
    lowers(name)(_threshold)
    assert name in supported()


def test_compiling_twice_gives_the_same_bytes():
    model = make_pipeline(StandardScaler(), LogisticRegression()).fit(X, Y)
    assert to_tflite(model, example=X).tflite == to_tflite(model, example=X).tflite


def test_a_scaler_in_front_of_a_linear_model_costs_no_op():
    plain = to_tflite(LogisticRegression().fit(X, Y), example=X)
    scaled = to_tflite(make_pipeline(StandardScaler(), LogisticRegression()).fit(X, Y), example=X)
    assert len(scaled.tflite) == len(plain.tflite)


def test_labels_can_be_named():
    compiled = to_tflite(LogisticRegression().fit(X, Y), example=X, labels=["off", "on"])
    assert set(compiled.run(X)["label"]) == {"off", "on"}
    assert compiled.signature.labels == ("off", "on")


def test_names_for_classes_that_are_missing_from_the_training_rows():
    model = LogisticRegression().fit(X, Y * 2)
    compiled = to_tflite(model, example=X, labels=["a", "b", "c"])
    assert compiled.signature.labels == ("a", "c")
