"""Scores equal scikit-learn's; intervals cover as they say."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics

from fieldloop_cloud.train.metrics import (
    METRICS,
    class_f1,
    confusion,
    estimate,
    estimates,
    is_better,
    wilson,
)

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


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 5), st.integers(8, 60))
def test_scores_of_probabilities_equal_scikit_learns(seed, classes, rows):
    random = np.random.default_rng(seed)
    truth = np.concatenate([np.arange(classes), random.integers(0, classes, rows)])
    table = np.round(random.dirichlet(np.ones(classes), len(truth)), 2) + 1e-3  # with ties
    table /= table.sum(axis=1, keepdims=True)
    found = {e.metric: e for e in estimates("classification", truth, truth, probabilities=table)}
    theirs = metrics.roc_auc_score(
        truth, table[:, 1] if classes == 2 else table, multi_class="ovr", average="macro"
    )
    assert found["roc_auc"].value == pytest.approx(theirs)
    assert found["log_loss"].value == pytest.approx(
        metrics.log_loss(truth, table, labels=range(classes))
    )
    for estimated in found.values():
        assert estimated.low <= estimated.value <= estimated.high
    assert found["roc_auc"].high <= 1.0


def test_the_areas_interval_covers_the_true_area():
    """Two normal classes one deviation apart have an area of 0.7602."""
    random = np.random.default_rng(0)
    covered = 0
    for _ in range(300):
        truth = np.repeat([0, 1], [60, 40])
        score = random.normal(truth, 1.0)
        found = estimate("roc_auc", truth, truth, probabilities=np.stack([-score, score], axis=1))
        covered += found.low <= 0.7602 <= found.high
    assert 0.92 <= covered / 300 <= 0.98


def test_an_area_without_fault_or_without_classes_still_has_an_interval():
    truth = np.array([0, 0, 0, 1, 1])
    perfect = np.stack([1.0 - truth, truth], axis=1)
    found = estimate("roc_auc", truth, truth, probabilities=perfect)
    assert found.value == found.high == 1.0
    assert found.low == pytest.approx(wilson(2, 2)[0])
    alone = estimate("roc_auc", truth * 0, truth, probabilities=perfect)
    assert (alone.value, alone.low, alone.high) == (0.5, 0.0, 1.0)


def test_each_class_has_an_f1_of_its_own():
    random = np.random.default_rng(0)
    truth = random.integers(0, 4, 300)
    said = np.where(random.random(300) < 0.7, truth, 0)
    found = class_f1(truth, said, 5)
    theirs = metrics.f1_score(truth, said, labels=range(5), average=None, zero_division=0)
    assert [one.value for one in found] == pytest.approx(theirs.tolist())
    assert all(one.low <= one.value <= one.high for one in found)
    assert found[4].value == 0.0


def test_less_is_better_only_for_errors():
    assert is_better("accuracy", 0.9, 0.8)
    assert not is_better("roc_auc", 0.7, 0.8)
    for metric in ("log_loss", "root_mean_squared_error", "mean_absolute_error"):
        assert is_better(metric, 0.1, 0.2)
