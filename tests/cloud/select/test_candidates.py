"""Candidates: what suits which data, and what they are made of."""

import numpy as np
import pandas as pd
import pytest

from fieldloop.errors import ConfigError
from fieldloop_cloud.compile.api import to_tflite
from fieldloop_cloud.data.dataset import Dataset
from fieldloop_cloud.data.tables import dataset_from_frame
from fieldloop_cloud.select.candidates import CANDIDATES, portfolio
from fieldloop_cloud.select.candidates.space import Among, holds
from fieldloop_cloud.train.classical import features, fit, fit_quietly


def suited(data):
    return [candidate.name for candidate in CANDIDATES if not candidate.why_not(data)]


def test_data_decide_which_candidates_run():
    iris, diabetes = suited(Dataset.load("sklearn:iris")), suited(Dataset.load("sklearn:diabetes"))
    assert {"logistic", "naive-bayes", "svm-rbf"} <= set(iris)
    assert {"ridge", "elastic-net", "svm-rbf"} <= set(diabetes)
    assert not {"ridge", "cnn"} & set(iris)
    assert not {"logistic", "naive-bayes", "svm-linear"} & set(diabetes)
    assert {"k-nearest", "tree", "random-forest", "boosting", "mlp"} <= {*iris} & {*diabetes}
    assert suited(Dataset.load("sklearn:digits"))[-1] == "cnn"


@pytest.mark.parametrize("candidate", CANDIDATES, ids=lambda item: item.name)
def test_a_portfolio_lies_in_the_space_that_a_search_draws_from(candidate):
    assert candidate.portfolio
    assert all(holds(candidate.space, settings) for settings in candidate.portfolio)


def corner(space, *, high):
    """The settings at one end of every dimension; forests of 200 trees take too long here."""
    ends = {}
    for name, dimension in space.items():
        if isinstance(dimension, Among):
            ends[name] = dimension.choices[-1 if high else 0]
        else:
            ends[name] = min(dimension.high, 40) if high else dimension.low
    return ends


CLASSICAL = [candidate for candidate in CANDIDATES if not candidate.is_deep]


@pytest.mark.parametrize("high", [False, True])
@pytest.mark.parametrize("candidate", CLASSICAL, ids=lambda item: item.name)
def test_every_corner_of_a_space_compiles_and_holds_what_was_foretold(candidate, high):
    name = "sklearn:iris" if "classification" in candidate.tasks else "sklearn:diabetes"
    data = Dataset.load(name)
    settings = corner(candidate.space, high=high)
    fitted = fit(candidate, settings, data, seed=0, max_model_bytes=10_000_000)
    tflite = to_tflite(fitted.model, example=features(data)).tflite
    if candidate.least_values is not None:
        assert 2 * candidate.least_values(data, fitted.settings) < len(tflite)


def test_without_tensorflow_the_net_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    cnn = portfolio(("cnn",))[0]
    assert "pip install 'fieldloop-cloud[deep]'" in cnn.why_not(Dataset.load("sklearn:digits"))


@pytest.mark.parametrize("names", [("xgboost",), ()])
def test_unknown_names_list_the_known(names):
    with pytest.raises(ConfigError, match=r"logistic, discriminant, .*svm-rbf, .*cnn"):
        portfolio(names)


def mixed(rows=60):
    random = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "speed": random.normal(size=rows),
            "fuel": random.choice(["diesel", "petrol", "gas"], rows),
        }
    )
    frame.loc[3, "speed"] = None
    frame.loc[5, "fuel"] = None
    frame["fault"] = (frame["fuel"] == "gas").map({True: "yes", False: "no"})
    return dataset_from_frame(frame, "fault", name="mixed", where="mixed")


@pytest.mark.parametrize(
    "name",
    ["logistic", "discriminant", "naive-bayes", "random-forest", "svm-rbf", "boosting", "mlp"],
)
def test_missing_values_and_unseen_categories_have_an_answer(name):
    data = mixed()
    candidate = portfolio((name,))[0]
    model = candidate.build(data, candidate.portfolio[0], 0)
    fit_quietly(model, data)
    assert model.score(data.X.astype(np.float64), data.y) > 0.9
    odd = np.asarray([[np.nan, -1.0], [0.0, np.nan]])
    assert model.predict_proba(odd).shape == (2, 2)


@pytest.mark.parametrize("name", ["random-forest", "boosting"])
@pytest.mark.parametrize("max_model_bytes", [60_000, 12_000])
def test_a_forest_shrinks_until_the_device_holds_it(name, max_model_bytes):
    data = Dataset.load("sklearn:diabetes")
    candidate = portfolio((name,))[0]
    settings = {
        "random-forest": candidate.portfolio[0],
        "boosting": {**candidate.portfolio[0], "max_iter": 200, "max_leaf_nodes": 31},
    }[name]
    fitted = fit(candidate, settings, data, seed=0, max_model_bytes=max_model_bytes)
    tflite = to_tflite(fitted.model, example=features(data)).tflite
    assert 0.3 * max_model_bytes < len(tflite) <= max_model_bytes
    assert fitted.settings != settings


def test_a_forest_that_fits_is_left_as_it_is():
    data = Dataset.load("sklearn:iris")
    candidate = portfolio(("random-forest",))[0]
    fitted = fit(candidate, candidate.portfolio[0], data, seed=0, max_model_bytes=10_000_000)
    assert fitted.settings == candidate.portfolio[0]
