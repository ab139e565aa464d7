"""Fitting: time is estimated where it may hurt, and the deadline is kept between settings."""

import dataclasses
import time

import numpy as np
import pytest

from fieldloop_cloud.data.dataset import Dataset
from fieldloop_cloud.data.sources import from_arrays
from fieldloop_cloud.select.candidates import portfolio
from fieldloop_cloud.train.classical import estimated_seconds, fit


def test_only_large_data_are_piloted():
    random = np.random.default_rng(0)
    large = from_arrays(random.normal(size=(40_000, 4)), np.arange(40_000) % 2)
    forest = portfolio(("random-forest",))[0]
    assert estimated_seconds(forest, Dataset.load("sklearn:iris"), seed=0) == 0.0
    assert estimated_seconds(forest, large, seed=0) > 0.0


@pytest.mark.parametrize("late", [False, True])
def test_one_setting_is_fitted_whatever_the_deadline(late):
    data = Dataset.load("sklearn:iris")
    candidate = portfolio(("logistic",))[0]
    built = []

    def build(*given):
        built.append(given)
        return candidate.build(*given)

    deadline = time.monotonic() + (-1 if late else 600)
    fitted = fit(
        dataclasses.replace(candidate, build=build),
        data,
        data,
        metric="accuracy",
        seed=0,
        max_model_bytes=1_000_000,
        deadline=deadline,
    )
    assert len(built) == (1 if late else len(candidate.portfolio))
    assert fitted.parameters["C"] in {"1.0", "0.03"}
