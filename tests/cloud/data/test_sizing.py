"""Sizes of the parts: the published rules, and a floor from the interval."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fieldloop.errors import ConfigError
from fieldloop_cloud.data.dataset import Dataset
from fieldloop_cloud.data.sizing import (
    adequate_parameters,
    guyon_share,
    interval_width,
    joseph_share,
    recommend,
    rows_for_width,
)
from fieldloop_cloud.data.sources import from_arrays
from fieldloop_cloud.data.split import split


def made(count, columns, seed=0):
    random = np.random.default_rng(seed)
    return from_arrays(random.normal(size=(count, columns)), random.integers(0, 2, count))


@given(
    st.floats(0.01, 0.5),
    st.floats(0.3, 0.99),
    st.sampled_from(["classification", "regression"]),
)
def test_the_smallest_test_set_that_gives_the_interval(width, score, task):
    count = rows_for_width(width, task=task, score=score)
    assert interval_width(count, task=task, score=score) <= width
    assert count == 1 or interval_width(count - 1, task=task, score=score) > width


def test_the_interval_of_r_squared_is_as_wide_as_simulated():
    random = np.random.default_rng(0)
    count, trials = 400, 2000
    signal = random.normal(size=(trials, count))
    truth = signal + random.normal(size=(trials, count))  # R² of `signal` as prediction: 0.5
    residual = ((truth - signal) ** 2).sum(axis=1)
    scores = 1 - residual / ((truth - truth.mean(axis=1, keepdims=True)) ** 2).sum(axis=1)
    low, high = np.quantile(scores, [0.025, 0.975])
    expected = interval_width(count, task="regression", score=0.5)
    assert high - low == pytest.approx(expected, rel=0.1)


def test_the_published_rules():
    assert joseph_share(16) == pytest.approx(0.2)  # 80/20 is optimal for 16 parameters
    assert joseph_share(1) == pytest.approx(0.5)
    assert guyon_share(4) > guyon_share(64) > guyon_share(1024)
    assert guyon_share(64, model_count=1000) > guyon_share(64, model_count=3)


def test_parameters_are_counted_by_what_varies():
    random = np.random.default_rng(0)
    factors = random.normal(size=(300, 3))
    X = factors @ random.normal(size=(3, 40))
    data = from_arrays(np.hstack([X, np.ones((300, 2))]), np.arange(300) % 2)
    assert adequate_parameters(data) <= 3
    assert adequate_parameters(made(2000, 20)) >= 18


def test_large_data_get_a_part_and_small_data_get_folds():
    large = recommend(made(20_000, 16))
    assert large.fold_count == 0
    assert large.validation_count > large.wanted_test_count
    assert large.test_count == pytest.approx(0.2 * 20_000, rel=0.05)
    small = recommend(made(300, 16))
    assert small.fold_count == 5
    assert small.test_count == 90  # the cap; the wish would take nearly half
    assert any("would need 141 test rows" in reason for reason in small.reasons)
    assert small.width > small.wanted_width


def test_the_floor_raises_the_test_part_above_josephs_share():
    data = made(3000, 150)
    sizing = recommend(data, width=0.06)
    assert sizing.test_count >= rows_for_width(0.06, task="classification")
    assert sizing.test_count > joseph_share(sizing.parameter_count) * 3000
    assert sizing.width <= 0.06


def test_auto_splits_as_recommended():
    for data in (made(20_000, 16), Dataset.load("sklearn:wine")):
        sizing, parts = recommend(data), split(data, strategy="auto")
        assert abs(len(parts.test) - sizing.test_count) <= 2
        assert len(parts.folds) == sizing.fold_count
        assert parts.notes == sizing.reasons
        if not parts.folds:
            assert abs(len(parts.validation) - sizing.validation_count) <= 2


def test_an_interval_that_cannot_be():
    for width, score in ((0.0, 0.9), (1.0, 0.9), (0.1, 1.5)):
        with pytest.raises(ConfigError, match="does not exist"):
            rows_for_width(width, task="classification", score=score)
