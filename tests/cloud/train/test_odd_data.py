"""Odd data all the way through: a typed error that names the fault, or a run that says it."""

import numpy as np
import pytest

from fieldloop.errors import DataError
from fieldloop_cloud.data.checks import usable
from fieldloop_cloud.data.sources import from_arrays
from fieldloop_cloud.train.trainer import train


def noise(count, columns, seed=0):
    return np.random.default_rng(seed).normal(size=(count, columns))


def checked(X, y, **options):
    return usable(from_arrays(X, y, **options), where="odd.npz")


def test_twelve_rows_are_refused_with_what_it_takes():
    with pytest.raises(DataError, match=r"only 12 rows .*at least 20, and 5 of each class"):
        checked(noise(12, 3), np.arange(12) % 2)


def test_a_class_with_one_member_is_named():
    with pytest.raises(DataError, match=r"'rare' has 1.*merge or remove"):
        checked(noise(41, 3), np.asarray(["a", "b"] * 20 + ["rare"]))


@pytest.mark.parametrize(
    ("target", "task"),
    [
        (np.asarray([f"unit-{number}" for number in range(60)]), None),
        (np.random.default_rng(0).permutation(60) + 1, None),
        (np.arange(60), "classification"),
        (np.asarray([f"unit-{number // 2}" for number in range(60)] + ["x"]), "classification"),
    ],
)
def test_a_target_that_names_the_rows_is_refused(target, task):
    X = noise(len(target), 3)
    if len(np.unique(target)) * 2 <= len(target):
        X = X[: len(target)]
    with pytest.raises(DataError, match="looks like a name or a number of the rows"):
        checked(X, target, task=task)


def test_a_quantity_that_happens_to_be_whole_is_no_number_of_the_rows():
    y = np.random.default_rng(0).permutation(600)[:60] + 100
    assert checked(noise(60, 3), y).task == "regression"


@pytest.mark.slow
def test_ten_thousand_features_are_trained_on():
    X = noise(80, 10_000)
    y = np.arange(80) % 2
    X[:, :200] += 2 * y[:, np.newaxis]
    run = train(checked(X, y), candidates=["logistic"], budget_s=120)
    assert run.chosen.score > 0.9
    refused = {item.name: item for item in run.chosen.criteria}
    assert "too many" in refused["AIC"].reason


def test_a_thousand_classes_are_trained_on():
    centres = noise(1000, 8) * 10
    y = np.repeat(np.arange(1000), 5)
    X = centres[y] + noise(5000, 8, seed=1) * 0.5
    data = checked(X, y, task="classification")
    run = train(data, candidates=["naive-bayes"], budget_s=60)
    assert run.chosen.score > 0.9
    assert len(run.confusion) == 1000
    assert len(run.sealed.parts) <= 12


def test_a_leak_stops_training_and_a_reason_goes_into_the_run(tmp_path):
    X = noise(300, 4)
    y = (X[:, 0] + noise(300, 1, seed=1)[:, 0] > 0).astype(int)
    X[:, 3] = 5 * y + noise(300, 1, seed=2)[:, 0] * 0.1
    data = checked(X, y)
    with pytest.raises(DataError, match=r"leakage: column 'x3' alone tells the target"):
        train(data, candidates=["logistic"], out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    run = train(data, candidates=["logistic"], allow_leakage="x3 is a limit switch")
    assert run.leakage_allowed == "x3 is a limit switch"
    assert [leak.columns for leak in run.leaks] == [("x3",)]
