"""Splits: stratified, reproducible, and no copy of a row on two sides."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fieldloop.errors import DataError, GateError
from fieldloop_cloud.data.dataset import Dataset
from fieldloop_cloud.data.sources import from_arrays
from fieldloop_cloud.data.split import SealedTest, duplicate_groups, three_way


@st.composite
def labelled_rows(draw):
    classes = draw(st.integers(2, 4))
    counts = draw(st.lists(st.integers(8, 40), min_size=classes, max_size=classes))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    y = random.permutation(np.repeat(np.arange(classes), counts))
    X = random.normal(size=(len(y), 2))
    copies = draw(st.integers(0, 6))
    X[random.integers(0, len(y), copies)] = X[random.integers(0, len(y), copies)]
    return from_arrays(X, y, task="classification")


@settings(max_examples=60, deadline=None)
@given(labelled_rows(), st.integers(0, 5))
def test_a_split_is_a_partition_that_keeps_copies_together(data, seed):
    split = three_way(data, seed=seed)
    parts = (split.train, split.validation, split.test)
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(data)))
    groups = duplicate_groups(data.X)
    owners = [set(groups[part].tolist()) for part in parts]
    assert sum(len(owner) for owner in owners) == len(set().union(*owners))
    assert three_way(data, seed=seed).sha256 == split.sha256


@settings(max_examples=40, deadline=None)
@given(labelled_rows(), st.integers(0, 5))
def test_each_class_keeps_its_share(data, seed):
    split = three_way(data, seed=seed)
    copies = len(data) - len(np.unique(duplicate_groups(data.X)))
    for index, count in enumerate(data.class_counts):
        shares = [int((data.y[part] == index).sum()) for part in (split.train, split.test)]
        for share, fraction in zip(shares, (0.6, 0.2), strict=True):
            assert abs(share - fraction * count) <= 1 + copies


def test_another_seed_is_another_split():
    data = Dataset.load("sklearn:iris")
    assert three_way(data, seed=0).sha256 != three_way(data, seed=1).sha256


def test_the_smallest_class_is_in_every_part():
    y = np.asarray([0] * 40 + [1] * 5)
    data = from_arrays(np.random.default_rng(0).normal(size=(45, 2)), y)
    split = three_way(data)
    assert all((data.y[part] == 1).any() for part in (split.train, split.validation, split.test))


def test_a_regression_keeps_the_targets_range_in_every_part():
    data = Dataset.load("sklearn:diabetes")
    split = three_way(data)
    means = [data.y[part].mean() for part in (split.train, split.validation, split.test)]
    assert max(means) - min(means) < 0.05 * np.ptp(data.y)


def test_zero_and_minus_zero_are_the_same_row():
    X = np.asarray([[0.0, 1.0], [-0.0, 1.0], [0.0, 2.0]], dtype=np.float32)
    first, second, third = duplicate_groups(X)
    assert first == second != third


def test_too_many_copies_are_refused():
    X = np.repeat(np.asarray([[0.0], [1.0]]), 20, axis=0)
    with pytest.raises(DataError, match="copies of a row must stay together"):
        three_way(from_arrays(X, np.repeat([0, 1], 20)))


def test_fractions_must_add_up():
    with pytest.raises(DataError, match="add up to 1"):
        three_way(Dataset.load("sklearn:iris"), fractions=(0.6, 0.2, 0.1))


def test_the_test_set_opens_once_and_every_opening_is_logged():
    sealed = SealedTest(Dataset.load("sklearn:iris"))
    assert len(sealed.open("the final evaluation")) == 150
    with pytest.raises(GateError, match=r"opened already.*the final evaluation"):
        sealed.open("one more look")
    sealed.open("one more look", force=True)
    assert [(item.purpose, item.forced) for item in sealed.openings] == [
        ("the final evaluation", False),
        ("one more look", True),
    ]


def test_an_opened_set_stays_opened_after_a_restart():
    data = Dataset.load("sklearn:iris")
    first = SealedTest(data)
    first.open("the final evaluation")
    with pytest.raises(GateError):
        SealedTest(data, openings=first.openings).open("again")
