"""Where a training stands: stopping, plateaus, divergence, parts of the rows. No TensorFlow."""

import dataclasses

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fieldloop.errors import DataError
from fieldloop_cloud.data.dataset import Dataset
from fieldloop_cloud.train.nets.checkpoint import load_checkpoint, save_checkpoint
from fieldloop_cloud.train.nets.course import Course, DivergedError
from fieldloop_cloud.train.nets.job import Epoch
from fieldloop_cloud.train.nets.parts import held_out
from fieldloop_cloud.train.nets.scaling import scaling_of


def epoch(number, held_out_loss, *, loss=1.0, norm=1.0):
    return Epoch(
        number=number,
        phase="all",
        loss=loss,
        held_out_loss=held_out_loss,
        held_out_score=0.5,
        learning_rate=0.1,
        gradient_norm=norm,
    )


def course_of(*losses):
    course = Course()
    best = [course.finish_epoch(epoch(n, loss)) for n, loss in enumerate(losses, 1)]
    return course, best


def test_the_best_epoch_is_kept_and_waiting_is_counted_from_it():
    course, best = course_of(3.0, 2.0, 2.5, 2.0)
    assert best == [True, True, False, False]
    assert (course.best_epoch, course.best_loss, course.waited) == (2, 2.0, 2)


def test_a_new_phase_waits_anew_but_must_beat_the_best_of_all():
    course, _ = course_of(3.0, 1.0, 2.0)
    course.next_phase()
    assert course.waited == 0
    assert not course.finish_epoch(epoch(4, 1.5))
    assert course.waited == 0
    assert course.finish_epoch(epoch(5, 0.5))


def test_a_plateau_cuts_the_rate_once_each_time():
    course, _ = course_of(1.0, 1.0, 1.0)
    course.cut_on_plateau(2, 0.5)
    course.cut_on_plateau(2, 0.5)
    assert course.rate_scale == 0.5


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (epoch(2, float("nan")), "became nan"),
        (epoch(2, float("inf")), "became inf"),
        (epoch(2, 1.0, norm=float("nan")), "gradient"),
        (epoch(2, 1.0, loss=1e9), "rose to"),
    ],
)
def test_a_training_that_diverges_says_how(bad, said):
    course, _ = course_of(1.0)
    with pytest.raises(DivergedError, match=f"{said}.*epoch 2"):
        course.finish_epoch(bad)


def test_a_checkpoint_gives_back_what_was_kept(tmp_path):
    assert load_checkpoint(tmp_path) is None
    course, _ = course_of(3.0, 2.0)
    parts = {"model": [np.arange(12.0).reshape(3, 4), np.float32(2)], "best": [np.ones(11)] * 11}
    save_checkpoint(tmp_path, course, parts)
    again, kept = load_checkpoint(tmp_path)
    assert msgspec.to_builtins(again) == msgspec.to_builtins(course)
    for name, arrays in parts.items():
        for wanted, found in zip(arrays, kept[name], strict=True):
            np.testing.assert_array_equal(wanted, found)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.npz"]


@given(st.lists(st.integers(1, 40), min_size=2, max_size=6), st.integers(0, 9))
def test_every_class_keeps_a_row_and_gives_its_share(counts, seed):
    y = np.repeat(np.arange(len(counts)), counts)
    data = table(y, labels=tuple(range(len(counts))))
    kept, held = held_out(data, 0.1, seed=seed)
    assert sorted([*kept, *held]) == list(range(len(y)))
    assert set(y[kept]) == set(y)
    given_up = np.bincount(y[held], minlength=len(counts))
    assert given_up.tolist() == [min(n - 1, max(1, round(n / 10))) for n in counts]


def test_groups_are_held_out_whole():
    groups = np.repeat(np.arange(10), 7)
    data = dataclasses.replace(table(np.arange(70) % 2, labels=("a", "b")), groups=groups)
    kept, held = held_out(data, 0.1, seed=3)
    assert not set(groups[kept]) & set(groups[held])
    assert len(held) == 7


def table(y, labels=(), X=None):
    return Dataset(
        name="t",
        kind="tabular",
        task="classification" if labels else "regression",
        X=np.zeros((len(y), 1), np.float32) if X is None else X,
        y=y.astype(np.int64 if labels else np.float32),
        labels=labels,
    )


def test_statistics_leave_out_what_is_missing_and_keep_their_digits():
    random = np.random.default_rng(0)
    X = (random.normal(size=(9000, 2)) * [0.01, 3.0] + [1e4, 0.0]).astype(np.float32)
    X[::3, 1] = np.nan
    rows = np.arange(0, 9000, 2)
    found = scaling_of(table(np.arange(9000) / 7, X=X), rows)
    np.testing.assert_allclose(found.mean, np.nanmean(X[rows].astype(float), axis=0), rtol=1e-6)
    np.testing.assert_allclose(found.std, np.nanstd(X[rows].astype(float), axis=0), rtol=1e-4)
    assert found.target_std == pytest.approx(np.std(rows / 7), rel=1e-5)


def test_a_constant_column_is_not_divided_by_nothing():
    found = scaling_of(table(np.ones(8), X=np.full((8, 1), 5.0, np.float32)), np.arange(8))
    assert (found.mean, found.std, found.target_std) == ((5.0,), (1.0,), 1.0)


def test_infinity_is_refused_with_its_row():
    X = np.zeros((50, 1), np.float32)
    X[31] = np.inf
    with pytest.raises(DataError, match="row 32"):
        scaling_of(table(np.arange(50), X=X), np.arange(50))
