"""Leakage: found where it was planted, silent where it was not, and recorded where allowed."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from fieldloop.errors import DataError
from fieldloop_cloud.data.dataset import Dataset
from fieldloop_cloud.data.leakage import check_leakage, leaks
from fieldloop_cloud.data.neighbors import near_pairs
from fieldloop_cloud.data.relations import related
from fieldloop_cloud.data.sources import BUNDLED, from_arrays
from fieldloop_cloud.data.split import Split, split
from fieldloop_cloud.data.tables import dataset_from_frame


def noise(count=300, columns=6, seed=0):
    random = np.random.default_rng(seed)
    return random, random.normal(size=(count, columns)), random.integers(0, 2, count)


def table(seed=0, count=300, **columns):
    _, X, y = noise(count, seed=seed)
    frame = pd.DataFrame({**{f"x{i}": X[:, i] for i in range(4)}, **columns})
    target = pd.Series(np.where(y == 1, "worn", "fine"), name="state")
    return dataset_from_frame(frame, target, name="t", where="t")


def kinds(data, parts=None, *, stops=None):
    found = leaks(data, parts or split(data))
    return {leak.kind for leak in found if stops is None or leak.stops == stops}


@pytest.mark.parametrize("name", BUNDLED)
@pytest.mark.parametrize("seed", [0, 1])
def test_real_data_without_leaks_pass(name, seed):
    data = Dataset.load(f"sklearn:{name}")
    assert check_leakage(data, split(data, seed=seed)) == ()


@pytest.mark.parametrize(("count", "columns"), [(400, 1), (3000, 2), (1500, 10), (600, 300)])
def test_rows_that_are_close_by_chance_are_no_copies(count, columns):
    for seed in range(3):
        _, X, y = noise(count, columns, seed)
        assert "near copy" not in kinds(from_arrays(X, y))
        curve = np.stack([np.sin(X[:, 0] * k) for k in range(1, 4)], axis=1)  # 1 dimension in 3
        assert "near copy" not in kinds(from_arrays(curve, y))


@pytest.mark.parametrize("columns", [3, 40, 600])
def test_near_copies_stop_with_both_rows_named(columns):
    random, X, y = noise(600, columns)
    parts = split(from_arrays(X, y))
    planted = list(zip(parts.test[:7].tolist(), parts.train[10:17].tolist(), strict=True))
    for row, twin in planted:
        X[row] = X[twin] + random.normal(size=columns) * 1e-4
    data = from_arrays(X, y)
    (leak,) = leaks(data, parts)
    assert sorted(leak.rows) == [(row + 1, twin + 1) for row, twin in planted]
    row, twin = leak.rows[0]
    with pytest.raises(DataError, match=rf"7 held-out rows are nearly .*{row} \(as {twin}\)"):
        check_leakage(data, parts)


def test_a_brighter_larger_noisier_picture_is_a_near_copy():
    random = np.random.default_rng(0)
    small = random.random((200, 8, 8))
    images = np.kron(small, np.ones((1, 4, 4))) * 150
    y = np.arange(200) % 2
    parts = split(from_arrays(images, y, max_value=255.0))
    row, twin = int(parts.test[3]), int(parts.train[5])
    images[row] = 0.8 * images[twin] + 40 + random.normal(size=(32, 32))
    data = from_arrays(images, y, max_value=255.0)
    (pair,) = near_pairs(data, parts.train, parts.test)
    assert (pair.row, pair.twin) == (row, twin)
    assert pair.ratio < 0.05


def test_copies_on_two_sides_stop():
    _, X, y = noise()
    X[250] = X[3]
    parts = Split(train=np.arange(200), validation=np.arange(200, 240), test=np.arange(240, 300))
    with pytest.raises(
        DataError, match=r"1 held-out rows are copies of training rows: 251 \(as 4\)"
    ):
        check_leakage(from_arrays(X, y), parts)
    assert "copy" not in kinds(from_arrays(X, y))  # `split` keeps them together


def test_in_time_order_repetition_is_reported_and_does_not_stop():
    _, X, y = noise()
    X[280:290] = X[3]
    data = related(from_arrays(X, y), times=np.arange(300))
    (leak,) = check_leakage(data, split(data))
    assert (leak.kind, leak.stops, len(leak.rows)) == ("copy", False, 10)


def test_idle_machines_that_look_alike_are_reported_and_do_not_stop():
    _, X, y = noise()
    X[::10] = 0.0
    data = related(from_arrays(X, y), groups=np.arange(300) // 10)
    (leak,) = check_leakage(data, split(data))
    assert (leak.kind, leak.stops) == ("copy", False)


def test_a_group_on_two_sides_stops():
    _, X, y = noise()
    data = from_arrays(X, y)
    grouped = related(data, groups=np.arange(300) // 10)
    with pytest.raises(DataError, match="belong to groups that are trained on"):
        check_leakage(grouped, split(data))
    assert check_leakage(grouped, split(grouped)) == ()


def test_rows_from_the_future_stop():
    _, X, y = noise()
    data = from_arrays(X, y)
    timed = related(data, times=np.arange(300))
    with pytest.raises(DataError, match="not later than the last training row"):
        check_leakage(timed, split(data))
    assert check_leakage(timed, split(timed)) == ()


def test_a_column_with_the_next_target_stops():
    random, X, y = noise(400)
    X[:-1, 2] = y[1:] + random.normal(size=399) * 0.01
    data = related(from_arrays(X, y), times=np.arange(400))
    with pytest.raises(DataError, match="'x2' tell the target of the next moment"):
        check_leakage(data, split(data))
    lagged = np.roll(y, 1).astype(float)  # the previous target is known in time
    X[:, 2] = lagged + random.normal(size=400) * 0.01
    data = related(from_arrays(X, y), times=np.arange(400))
    assert check_leakage(data, split(data)) == ()


@pytest.mark.parametrize("disguise", ["code", "gap", "shifted"])
def test_the_target_in_disguise_stops(disguise):
    random, _, y = noise()
    column = {
        "code": np.where(y == 1, "R", "K"),
        "gap": np.where(y == 1, np.nan, random.normal(size=300)),
        "shifted": y * 10 + random.normal(size=300),
    }[disguise]
    data = table(verdict=column)
    with pytest.raises(DataError, match=r"'verdict' (alone tells|corresponds one to one to)"):
        check_leakage(data, split(data))
    found = check_leakage(data, split(data), allowed="the sensor is that good")
    assert [leak.columns for leak in found] == [("verdict",)]


def test_an_easy_problem_is_no_disguise():
    random, _, y = noise()
    X = y[:, np.newaxis] * 10 + random.normal(size=(300, 5))
    data = from_arrays(X, y)
    found = check_leakage(data, split(data))
    assert {leak.kind for leak in found} == {"disguise"}
    assert not any(leak.stops for leak in found)


def test_a_number_that_is_the_target_in_other_units_stops():
    random, X, _ = noise()
    y = random.normal(size=300)
    X[:, 1] = np.exp(y)
    data = from_arrays(X, y, task="regression")
    with pytest.raises(DataError, match="'x1' alone tells the target"):
        check_leakage(data, split(data))


def test_row_numbers_stop_and_repeating_ones_point_to_groups():
    random = np.random.default_rng(0)
    data = table(number=random.permutation(300) + 17)
    with pytest.raises(DataError, match=r"column 'number' numbers the rows.*--drop 'number'"):
        check_leakage(data, split(data))
    data = table(patient_id=random.integers(0, 30, 300))
    (leak,) = check_leakage(data, split(data))
    assert (leak.kind, leak.stops) == ("identifier", False)
    assert "--group 'patient_id'" in leak.advice
    assert kinds(table(heat=random.integers(0, 4000, 300))) == set()


def test_a_column_that_only_varies_in_held_out_rows_is_reported():
    data = table()
    parts = split(data)
    X = data.X.copy()
    X[parts.train, 0] = 1.0
    (leak,) = check_leakage(replace(data, X=X), parts)
    assert (leak.kind, leak.columns, leak.stops) == ("constant in training", ("x0",), False)


def test_a_blank_reason_is_no_reason():
    data = table(verdict=np.where(noise()[2] == 1, "R", "K"))
    with pytest.raises(DataError, match="allow-leakage REASON"):
        check_leakage(data, split(data), allowed="  ")


def test_many_columns_are_looked_at_in_bounded_time_and_the_disguise_is_found():
    random, X, y = noise(200, 3000)
    X[:, 1234] = y * 10 + random.normal(size=200)
    data = from_arrays(X, y)
    assert [leak.columns for leak in leaks(data, split(data)) if leak.stops] == [("x1234",)]
