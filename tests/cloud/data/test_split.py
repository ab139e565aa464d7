"""Splits: a partition that keeps copies, groups, order and shares, reproducibly."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from fieldloop.errors import ConfigError, DataError
from fieldloop_cloud.data.dataset import Dataset
from fieldloop_cloud.data.relations import related
from fieldloop_cloud.data.sources import from_arrays
from fieldloop_cloud.data.split import STRATEGIES, folds, split
from fieldloop_cloud.data.units import duplicate_groups, units

strategies = st.sampled_from(STRATEGIES)


@st.composite
def labelled_rows(draw):
    classes = draw(st.integers(2, 4))
    counts = draw(st.lists(st.integers(12, 40), min_size=classes, max_size=classes))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    y = random.permutation(np.repeat(np.arange(classes), counts))
    X = random.normal(size=(len(y), 2))
    copies = draw(st.integers(0, 4))
    X[random.integers(0, len(y), copies)] = X[random.integers(0, len(y), copies)]
    return from_arrays(X, y, task="classification")


@st.composite
def grouped_rows(draw):
    data = draw(labelled_rows())
    count = draw(st.integers(12, 30))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return related(data, groups=random.integers(0, count, len(data)))


@st.composite
def timed_rows(draw):
    data = draw(labelled_rows())
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    # With equal times, which must stay together.
    return related(data, times=random.integers(0, draw(st.integers(20, 200)), len(data)))


def parts_of(made):
    return (made.train, made.validation, made.test)


def assert_partition(made, data):
    every = np.concatenate([*parts_of(made), made.left_out])
    assert sorted(every.tolist()) == list(range(len(data)))
    assert all(len(part) and (np.diff(part) > 0).all() for part in parts_of(made))
    for fold in made.folds:
        assert not set(fold.train.tolist()) & set(fold.validation.tolist())
        assert set(fold.train.tolist()) | set(fold.validation.tolist()) <= set(
            made.development.tolist()
        )


def never_shared(labels, parts):
    owners = [set(labels[part].tolist()) for part in parts]
    return sum(len(owner) for owner in owners) == len(set().union(*owners))


def split_or_reject(data, **options):
    """Split, or draw again where the rows really cannot be split."""
    try:
        return split(data, **options)
    except DataError:
        reject()


@settings(max_examples=60, deadline=None)
@given(labelled_rows(), strategies, st.integers(0, 5))
def test_a_split_is_a_partition_that_keeps_copies_together(data, strategy, seed):
    made = split_or_reject(data, strategy=strategy, seed=seed)
    assert_partition(made, data)
    copies = duplicate_groups(data.X)
    assert never_shared(copies, parts_of(made))
    for fold in made.folds:
        assert never_shared(copies, (fold.train, fold.validation))
    assert split(data, strategy=strategy, seed=seed).sha256 == made.sha256


@settings(max_examples=60, deadline=None)
@given(grouped_rows(), strategies, st.integers(0, 5))
def test_a_group_never_stands_in_two_parts(data, strategy, seed):
    made = split_or_reject(data, strategy=strategy, seed=seed, inner_count=2)
    assert made.kept == "groups"
    assert_partition(made, data)
    assert never_shared(units(data), (made.development, made.test))
    assert never_shared(data.groups, parts_of(made))
    for fold in made.folds:
        assert never_shared(data.groups, (fold.train, fold.validation))
        for inner in fold.inner:
            assert never_shared(data.groups, (inner.train, inner.validation))
            assert set(inner.train.tolist()) < set(fold.train.tolist())


@settings(max_examples=60, deadline=None)
@given(timed_rows(), strategies)
def test_what_is_judged_comes_after_what_is_learnt_from(data, strategy):
    made = split_or_reject(data, strategy=strategy)
    assert made.kept == "time"
    assert_partition(made, data)
    times = data.times
    assert times[made.train].max() < times[made.validation].min()
    assert times[made.validation].max() < times[made.test].min()
    for fold in made.folds:
        assert times[fold.train].max() < times[fold.validation].min()


@settings(max_examples=60, deadline=None)
@given(labelled_rows(), st.integers(0, 5))
def test_each_class_keeps_its_share(data, seed):
    made = split(data, seed=seed)
    copies = len(data) - len(np.unique(duplicate_groups(data.X)))
    for index, count in enumerate(data.class_counts):
        for part, fraction in zip(parts_of(made), (0.6, 0.2, 0.2), strict=True):
            assert abs(int((data.y[part] == index).sum()) - fraction * count) <= 1.5 + copies


def test_folds_validate_on_every_row_once_and_keep_shares():
    data = Dataset.load("sklearn:wine")
    made = folds(data, count=5, seed=3)
    assert sorted(np.concatenate([fold.validation for fold in made]).tolist()) == list(range(178))
    for fold in made:
        counts = np.bincount(data.y[fold.validation])
        assert np.abs(counts - np.asarray(data.class_counts) / 5).max() <= 1.5
        assert len(fold.train) + len(fold.validation) == 178


def test_groups_keep_class_shares_as_well_as_they_can():
    random = np.random.default_rng(0)
    groups = np.repeat(np.arange(60), 10)
    y = random.permutation(np.repeat([0, 1, 2], [300, 200, 100]))
    data = related(from_arrays(random.normal(size=(600, 2)), y), groups=groups)
    made = split(data)
    for part, fraction in zip(parts_of(made), (0.6, 0.2, 0.2), strict=True):
        np.testing.assert_allclose(
            np.bincount(data.y[part]), fraction * np.asarray([300, 200, 100]), atol=8
        )


def test_many_small_classes_leave_no_part_short():
    y = np.repeat(np.arange(300), 5)
    data = from_arrays(np.random.default_rng(0).normal(size=(1500, 2)), y, task="classification")
    made = split(data, strategy="80-20")
    assert abs(len(made.test) - 300) <= 15
    sizes = [len(fold.validation) for fold in made.folds]
    assert max(sizes) - min(sizes) <= 15


def test_groups_that_follow_each_other_keep_order_and_stay_whole():
    random = np.random.default_rng(0)
    groups = np.repeat(np.arange(10), 20)
    times = groups * 100.0 + random.integers(0, 50, 200)
    shuffled = random.permutation(200)
    data = from_arrays(random.normal(size=(200, 2)), np.arange(200) % 2)
    data = related(data.take(shuffled), groups=groups[shuffled], times=times[shuffled])
    made = split(data, strategy="80-20")
    assert made.kept == "time"
    assert never_shared(data.groups, parts_of(made))
    assert data.times[made.validation].max() < data.times[made.test].min()


def test_groups_that_overlap_in_time_stay_whole_and_the_split_says_so():
    data = from_arrays(np.random.default_rng(0).normal(size=(200, 2)), np.arange(200) % 2)
    data = related(data, groups=np.arange(200) % 10, times=np.arange(200))
    made = split(data)
    assert made.kept == "groups"
    assert "Groups overlap in time" in made.notes[0]


def test_windows_that_reach_over_a_cut_belong_to_no_part():
    data = from_arrays(np.random.default_rng(0).normal(size=(100, 2)), np.arange(100) % 2)
    data = replace(related(data, times=np.arange(100.0)), span=3.0)
    made = split(data)
    assert made.left_out.tolist() == [58, 59, 78, 79]
    assert data.times[made.train].max() + data.span <= data.times[made.validation].min()
    assert_partition(made, data)


def test_rows_of_unknown_time_come_last():
    data = from_arrays(np.random.default_rng(0).normal(size=(100, 2)), np.arange(100) % 2)
    times = np.arange(100.0)
    times[:20] = np.nan
    made = split(replace(data, times=times))
    assert made.test.tolist() == list(range(20))


def test_a_class_that_comes_too_late_is_named():
    y = np.asarray(["fine"] * 80 + ["worn"] * 20)
    data = related(
        from_arrays(np.random.default_rng(0).normal(size=(100, 2)), y), times=np.arange(100)
    )
    with pytest.raises(DataError, match=r"would lack 'worn', because what is judged must come"):
        split(data)


def test_another_seed_is_another_split():
    data = Dataset.load("sklearn:iris")
    assert split(data, seed=0).sha256 != split(data, seed=1).sha256


def test_the_smallest_class_is_in_every_part():
    y = np.asarray([0] * 40 + [1] * 5)
    data = from_arrays(np.random.default_rng(0).normal(size=(45, 2)), y)
    assert all((data.y[part] == 1).any() for part in parts_of(split(data)))


def test_a_regression_keeps_the_targets_range_in_every_part():
    data = Dataset.load("sklearn:diabetes")
    means = [data.y[part].mean() for part in parts_of(split(data))]
    assert max(means) - min(means) < 0.05 * np.ptp(data.y)


def test_zero_and_minus_zero_are_the_same_row():
    X = np.asarray([[0.0, 1.0], [-0.0, 1.0], [0.0, 2.0]], dtype=np.float32)
    first, second, third = duplicate_groups(X)
    assert first == second != third


def test_a_copy_joins_two_groups():
    X = np.arange(12.0)[:, np.newaxis]
    X[2] = X[1]
    data = related(from_arrays(X, np.arange(12) % 2), groups=np.arange(12) // 2)
    found = units(data)
    assert len(set(found[:4].tolist())) == 1
    assert len(set(found.tolist())) == 5


def test_a_reading_that_every_group_has_does_not_tie_them_together():
    random = np.random.default_rng(0)
    X = random.normal(size=(200, 2))
    X[::10] = 0.0  # once in each group: idle
    data = related(from_arrays(X, np.arange(200) % 2), groups=np.arange(200) // 10)
    made = split(data)
    assert never_shared(data.groups, parts_of(made))
    assert len(made.test) == 40


def test_too_many_copies_are_refused():
    X = np.repeat(np.asarray([[0.0], [1.0]]), 20, axis=0)
    with pytest.raises(DataError, match="copies of a row must stay together"):
        split(from_arrays(X, np.repeat([0, 1], 20)))


def test_too_few_groups_are_refused():
    data = from_arrays(np.random.default_rng(0).normal(size=(40, 2)), np.arange(40) % 2)
    with pytest.raises(DataError, match="rows of a group must stay together"):
        split(related(data, groups=np.arange(40) // 20))
    with pytest.raises(DataError, match="nothing to cross-validate"):
        folds(related(data, groups=np.zeros(40)))


def test_what_does_not_exist_is_refused():
    data = Dataset.load("sklearn:iris")
    with pytest.raises(ConfigError, match="no split '70-30'"):
        split(data, strategy="70-30")
    with pytest.raises(ConfigError, match="2 folds"):
        folds(data, count=1)
