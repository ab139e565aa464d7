"""Scores equal scikit-learn's; intervals cover as they say."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics

from fieldloop_cloud.train.metrics import METRICS, confusion, estimate, estimates, wilson

THEIRS = {
    "accuracy": metrics.accuracy_score,
    "balanced_accuracy": metrics.balanced_accuracy_score,
    "f1_macro": lambda t, p: metrics.f1_score(t, p, average="macro"),
    "f1_weighted": lambda truth, said: metrics.f1_score(
        truth, said, average="weighted", zero_division=0
    ),
    "r2": metrics.r2_score,
    "root_mean_squared_error": metrics.root_mean_squared_error,
    "mean_absolute_error": metrics.mean_absolute_error,
}


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 6), st.integers(2, 80))
def test_classification_scores_equal_scikit_learns(seed, classes, rows):
    random = np.random.default_rng(seed)
    truth = random.integers(0, classes, rows)
    truth[:2] = [0, 1]  # scikit-learn warns of a single class
    said = np.where(random.random(rows) < 0.7, truth, truth[::-1])
    for found in estimates("classification", truth, said):
        assert found.value == pytest.approx(THEIRS[found.metric](truth, said))
        assert found.low <= found.value <= found.high


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_regression_scores_equal_scikit_learns(seed):
    random = np.random.default_rng(seed)
    truth = random.normal(size=50)
    said = truth + random.normal(size=50)
    for found in estimates("regression", truth, said):
        assert found.value == pytest.approx(THEIRS[found.metric](truth, said))
        assert found.low < found.value < found.high


@given(st.integers(1, 1000), st.data())
def test_wilsons_interval_holds_the_share_and_stays_in_bounds(count, data):
    hits = data.draw(st.integers(0, count))
    low, high = wilson(hits, count)
    assert 0.0 <= low <= hits / count <= high <= 1.0


def test_more_rows_make_a_narrower_interval():
    random = np.random.default_rng(0)
    truth = random.integers(0, 3, 2000)
    said = np.where(random.random(2000) < 0.8, truth, (truth + 1) % 3)
    for metric in METRICS["classification"]:
        few, many = (estimate(metric, truth[:n], said[:n]) for n in (100, 2000))
        assert many.high - many.low < 0.5 * (few.high - few.low)


@pytest.mark.parametrize("metric", ["balanced_accuracy", "f1_macro"])
def test_the_bootstrap_covers_the_true_score(metric):
    random = np.random.default_rng(7)
    covered = 0
    for _ in range(400):
        truth = np.arange(200) % 2
        said = np.where(random.random(200) < 0.8, truth, 1 - truth)
        found = estimate(metric, truth, said, seed=1)
        covered += found.low <= 0.8 <= found.high
    # The percentile bootstrap covers a little less than 95 % on 200 rows; 0.94 over many runs.
    assert 0.91 <= covered / 400 <= 0.98


def test_a_confusion_matrix_has_true_classes_as_rows():
    table = confusion(np.asarray([0, 0, 2]), np.asarray([0, 1, 2]), 3)
    assert table.tolist() == [[1, 1, 0], [0, 0, 0], [0, 0, 1]]
