"""Fitting one setting: time is foreseen, what cannot be fitted says so."""

import dataclasses

import numpy as np
import pytest

from fieldloop.errors import DataError, GateError
from fieldloop_cloud.data.dataset import Dataset
from fieldloop_cloud.data.sources import from_arrays
from fieldloop_cloud.select.candidates import portfolio
from fieldloop_cloud.train.classical import check_time, estimated_seconds, fit, some_rows


def large(rows=6000):
    random = np.random.default_rng(0)
    return from_arrays(random.normal(size=(rows, 4)), random.integers(0, 2, rows))


def test_time_is_estimated_from_some_rows_where_there_are_many():
    forest = portfolio(("random-forest",))[0]
    settings = forest.portfolio[0]
    assert estimated_seconds(forest, settings, Dataset.load("sklearn:iris"), seed=0) == 0.0
    assert estimated_seconds(forest, settings, large(), seed=0) > 0.0
    with pytest.raises(GateError, match=r"it would take about .* s, and 0 s were left"):
        check_time(forest, settings, large(), seed=0, left_s=0.0)


def test_some_rows_keep_every_class():
    data = from_arrays(np.arange(3000.0)[:, None], np.repeat([0, 1, 2], [2990, 5, 5]))
    few = some_rows(data, 10, seed=0)
    assert len(few) == 10
    assert set(few.y) == {0, 1, 2}


def test_an_estimator_that_refuses_the_rows_is_named():
    data = Dataset.load("sklearn:iris")
    broken = dataclasses.replace(data, X=np.full_like(data.X, np.inf))
    logistic = portfolio(("logistic",))[0]
    with pytest.raises(DataError, match=r"cannot be fitted.*LogisticRegression"):
        fit(logistic, {"C": 1.0}, broken, seed=0, max_model_bytes=1_000_000)
