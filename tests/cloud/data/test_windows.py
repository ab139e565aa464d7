"""Readings cut into windows: none reaches over a group, a gap or two classes."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fieldloop.codec import Codec
from fieldloop.errors import ConfigError, DataError, SignatureError
from fieldloop_cloud.data.dataset import Dataset
from fieldloop_cloud.data.sources import from_arrays
from fieldloop_cloud.data.windows import Windowing, windows_from_frame


def readings(lengths, *, label_of=lambda group: "ab"[group % 2]):
    """One row a reading; channel `n` counts readings, so that every window shows where it is."""
    return pd.DataFrame(
        {
            "machine": [f"m{group}" for group, n in enumerate(lengths) for _ in range(n)],
            "at": [float(step) for n in lengths for step in range(n)],
            "n": np.arange(sum(lengths), dtype=float),
            "group": [float(group) for group, n in enumerate(lengths) for _ in range(n)],
            "state": [label_of(group) for group, n in enumerate(lengths) for _ in range(n)],
        }
    )


def cut(frame, window, stride=None, **options):
    given_options = {"group": "machine", "time": "at", **options}
    return windows_from_frame(
        frame, "state", Windowing(window, stride), name="t", where="t.csv", **given_options
    )


@given(st.lists(st.integers(1, 30), min_size=2, max_size=5), st.integers(2, 9), st.integers(1, 12))
def test_windows_are_whole_in_order_and_of_one_group(lengths, window, stride):
    frame = readings(lengths)
    expected = [max(0, (n - window) // stride + 1) for n in lengths]
    if sum(expected) == 0:
        with pytest.raises(DataError, match="no recording is as long as the window"):
            cut(frame, window, stride)
        return
    data = cut(frame, window, stride)
    assert data.X.shape == (sum(expected), window, 2)
    assert data.channels == ("n", "group")
    assert np.all(np.diff(data.X[:, :, 0], axis=1) == 1)
    assert np.all(np.ptp(data.X[:, :, 1], axis=1) == 0)
    assert np.bincount(data.groups, minlength=len(lengths)).tolist() == expected
    np.testing.assert_array_equal(data.groups, data.X[:, 0, 1])
    assert data.span == pytest.approx(window)


def test_the_rows_order_does_not_matter_where_times_are_given():
    frame = readings([20, 15])
    mixed = frame.sample(frac=1.0, random_state=0)
    a, b = cut(frame, 5), cut(mixed, 5)
    for data in (a, b):
        assert np.all(np.diff(data.X[:, :, 0], axis=1) == 1)
    assert sorted(a.X[:, 0, 0]) == sorted(b.X[:, 0, 0])


def test_no_window_reaches_over_a_gap():
    frame = readings([20])
    frame = pd.concat([frame, readings([1], label_of=lambda _: "b")])
    frame.loc[frame["n"] >= 10, "at"] += 100.0
    frame["state"] = ["a"] * 10 + ["b"] * 11
    data = cut(frame.iloc[:20], 4, 1)
    inside = (data.times < 10) == (data.times + 3 < 10)
    assert inside.all()
    assert len(data) == 14


def test_a_window_of_two_classes_is_left_out_and_said():
    frame = readings([12])
    frame["state"] = ["a"] * 5 + ["b"] * 7
    data = cut(frame, 3, 3)
    assert [data.label(index) for index in range(len(data))] == ["a", "b", "b"]
    assert any("1 windows held more than one class" in note for note in data.notes)
    with pytest.raises(DataError, match=r"every window .* more than one class"):
        cut(frame.assign(state=["a", "b"] * 6), 3)


def test_a_value_is_the_last_readings():
    frame = readings([9]).assign(state=np.arange(9) * 0.5)
    data = cut(frame, 3, task="regression")
    assert data.y.tolist() == [1.0, 2.5, 4.0]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"n": ["x"] * 20}, "a channel holds texts"),
        ({"n": [None] + [1.0] * 19}, "1 readings are missing, first in row 1"),
    ],
)
def test_a_channel_that_is_no_number_is_named(change, said):
    with pytest.raises(DataError, match=f"{said}.*column 'n'"):
        cut(readings([20]).assign(**change), 4)


@pytest.mark.parametrize(("window", "stride"), [(1, None), (4, 0)])
def test_a_window_without_length_or_step_is_refused(window, stride):
    with pytest.raises(ConfigError, match="is none"):
        cut(readings([20]), window, stride)


def test_a_file_of_readings_becomes_a_data_set_that_a_device_understands(tmp_path):
    path = tmp_path / "motors.csv"
    readings([40, 40, 40, 40]).to_csv(path, index=False)
    data = Dataset.load(path, "state", group="machine", time="at", window=8, stride=4)
    assert repr(data) == "Dataset('motors', series classification, 36 rows, 2 classes)"
    assert any("Windows overlap" in note for note in data.notes)
    codec = Codec(data.input_signature)
    np.testing.assert_array_equal(codec.encode_row(data.raw(3)), data.X[3:4])
    with pytest.raises(SignatureError, match="came where"):
        codec.encode_row(data.raw(3)[:-1])
    half = data.take(np.arange(18))
    joined = half.concat(data.take(np.arange(18, 36)))
    assert len(np.unique(joined.groups)) == 4
    np.testing.assert_array_equal(joined.times, data.times)
    with pytest.raises(DataError, match="no recording is as long"):
        Dataset.load(path, "state", group="machine", time="at", window=41)


def test_arrays_of_windows_say_that_they_are_windows(tmp_path):
    X = np.random.default_rng(0).normal(size=(30, 6, 2))
    y = np.arange(30) % 2
    np.savez(tmp_path / "w.npz", X=X, y=y, channel_names=["left", "right"])
    data = Dataset.load(tmp_path / "w.npz")
    assert (data.kind, data.channels) == ("series", ("left", "right"))
    assert from_arrays(X, y, kind="series").channels == ("c0", "c1")
    assert from_arrays(X[:, :, 0], y, kind="series").X.shape == (30, 6, 1)
    assert from_arrays(abs(X), y).kind == "image"
    X[7, 2, 1] = np.inf
    with pytest.raises(DataError, match="row 8"):
        from_arrays(X, y, kind="series")


@pytest.mark.parametrize(
    ("source", "options", "said"),
    [
        ("t.csv", {"target": "y", "stride": 3}, "does not take stride"),
        ("t.csv", {"target": "y", "kind": "series"}, "does not take kind"),
        ("t.csv", {"target": "y", "stream": True}, "only a folder of images"),
        ("t.npz", {"window": 3}, "does not take window"),
        ("folder", {"window": 3}, "does not take window"),
        ("sklearn:iris", {"stream": True}, "does not take stream"),
    ],
)
def test_an_option_of_another_source_is_refused(tmp_path, source, options, said):
    (tmp_path / "folder").mkdir()
    (tmp_path / "t.csv").write_text("x,y\n1,2\n")
    np.savez(tmp_path / "t.npz", X=np.zeros((2, 2)), y=np.zeros(2))
    path = source if ":" in source else tmp_path / source
    with pytest.raises(ConfigError, match=said):
        Dataset.load(path, **options)
