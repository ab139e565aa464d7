"""Groups and times: read from tables and archives, no features, kept with their rows."""

import numpy as np
import pandas as pd
import pytest

from fieldloop.errors import ConfigError, DataError
from fieldloop_cloud.data.dataset import Dataset
from fieldloop_cloud.data.relations import related
from fieldloop_cloud.data.sources import from_arrays


@pytest.fixture
def table(tmp_path):
    random = np.random.default_rng(0)
    count = 40
    frame = pd.DataFrame(
        {
            "heat": random.normal(size=count),
            "machine": [f"m{index % 4}" for index in range(count)],
            "at": pd.date_range("2026-01-01", periods=count, freq="h").astype(str),
            "fault": ["yes", "no"] * (count // 2),
        }
    )
    path = tmp_path / "readings.csv"

    def write(change=None):
        made = frame.copy()
        if change is not None:
            change(made)
        made.to_csv(path, index=False)
        return path

    return write


def test_group_and_time_columns_are_no_features(table):
    data = Dataset.load(table(), target="fault", group="machine", time="at")
    assert [spec.name for spec in data.features] == ["heat"]
    assert data.groups.tolist() == [0, 1, 2, 3] * 10
    assert np.diff(data.times).tolist() == [3600.0] * 39


def test_numbers_are_times_as_they_are(table):
    path = table(lambda frame: frame.insert(0, "step", range(40)))
    data = Dataset.load(path, target="fault", time="step", drop=["machine", "at"])
    assert data.times.tolist() == list(range(40))


def test_they_follow_their_rows(table):
    data = Dataset.load(table(), target="fault", group="machine", time="at").take([5, 2])
    assert data.groups.tolist() == [1, 2]
    assert data.times[0] - data.times[1] == 3 * 3600


def test_archives_name_their_arrays(tmp_path):
    random = np.random.default_rng(0)
    path = tmp_path / "rows.npz"
    np.savez(
        path,
        X=random.normal(size=(30, 2)),
        y=np.arange(30) % 2,
        site=np.arange(30) // 10,
        t=np.arange(30),
    )
    data = Dataset.load(path, group="site", time="t")
    assert data.groups.tolist() == [0] * 10 + [1] * 10 + [2] * 10
    assert data.times.tolist() == list(range(30))
    with pytest.raises(DataError, match="arrays missing: plant"):
        Dataset.load(path, group="plant")


def test_bad_groups_and_times_name_their_row(table):
    def hole(frame):
        frame.loc[6, "machine"] = None

    def nonsense(frame):
        frame.loc[2, "at"] = "yesterday"

    with pytest.raises(DataError, match="group is missing in 1 of 40 rows, first in row 7"):
        Dataset.load(table(hole), target="fault", group="machine", drop=["at"])
    with pytest.raises(DataError, match="'yesterday' in row 3 is no time"):
        Dataset.load(table(nonsense), target="fault", time="at", drop=["machine"])
    with pytest.raises(DataError, match=r"no column 'machin'.*machine"):
        Dataset.load(table(), target="fault", group="machin", drop=["at"])
    with pytest.raises(DataError, match="is the target"):
        Dataset.load(table(), target="fault", group="fault", drop=["at"])
    with pytest.raises(ConfigError, match="does not take group"):
        Dataset.load("sklearn:iris", group="machine")


def test_one_value_a_row():
    data = from_arrays(np.eye(20), np.arange(20) % 2)
    with pytest.raises(DataError, match=r"groups have shape \(3,\) for 20 rows"):
        related(data, groups=np.arange(3))
