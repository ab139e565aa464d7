"""Candidates: what suits which data, and what they are made of."""

import time

import numpy as np
import pandas as pd
import pytest

from fieldloop.errors import ConfigError
from fieldloop_cloud.compile.api import to_tflite
from fieldloop_cloud.data.dataset import Dataset
from fieldloop_cloud.data.tables import dataset_from_frame
from fieldloop_cloud.select.candidates import CANDIDATES, portfolio
from fieldloop_cloud.train.classical import features, fit


def suited(data):
    return [candidate.name for candidate in CANDIDATES if not candidate.why_not(data)]


def test_data_decide_which_candidates_run():
    assert suited(Dataset.load("sklearn:iris")) == ["logistic", "random-forest", "svm-rbf"]
    assert suited(Dataset.load("sklearn:diabetes")) == ["ridge", "random-forest"]
    assert suited(Dataset.load("sklearn:digits"))[-1] == "cnn"


def test_without_tensorflow_the_net_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    cnn = portfolio(("cnn",))[0]
    assert "pip install 'fieldloop-cloud[deep]'" in cnn.why_not(Dataset.load("sklearn:digits"))


@pytest.mark.parametrize("names", [("xgboost",), ()])
def test_unknown_names_list_the_known(names):
    with pytest.raises(ConfigError, match=r"logistic, ridge, random-forest, svm-rbf, cnn"):
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


@pytest.mark.parametrize("name", ["logistic", "random-forest", "svm-rbf"])
def test_missing_values_and_unseen_categories_have_an_answer(name):
    data = mixed()
    candidate = portfolio((name,))[0]
    model = candidate.build(data, candidate.portfolio[0], 0)
    model.fit(data.X.astype(np.float64), data.y)
    assert model.score(data.X.astype(np.float64), data.y) > 0.9
    odd = np.asarray([[np.nan, -1.0], [0.0, np.nan]])
    assert model.predict_proba(odd).shape == (2, 2)


@pytest.mark.parametrize("max_model_bytes", [60_000, 12_000])
def test_a_forest_shrinks_until_the_device_holds_it(max_model_bytes):
    data = Dataset.load("sklearn:diabetes")
    candidate = portfolio(("random-forest",))[0]
    fitted = fit(
        candidate,
        data,
        data,
        metric="r2",
        seed=0,
        max_model_bytes=max_model_bytes,
        deadline=time.monotonic() + 60,
    )
    tflite = to_tflite(fitted.model, example=features(data)).tflite
    assert 0.3 * max_model_bytes < len(tflite) <= max_model_bytes
    assert int(fitted.parameters["n_estimators"]) < 100


def test_a_forest_that_fits_is_left_as_it_is():
    data = Dataset.load("sklearn:iris")
    candidate = portfolio(("random-forest",))[0]
    deadline = time.monotonic() + 60
    fitted = fit(
        candidate,
        data,
        data,
        metric="accuracy",
        seed=0,
        max_model_bytes=10_000_000,
        deadline=deadline,
    )
    assert fitted.parameters in (
        {key: str(value) for key, value in entry.items()} for entry in candidate.portfolio
    )
