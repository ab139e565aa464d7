import numpy as np
import pytest

from fieldloop.errors import DataError
from fieldloop_device.inputs import read_many, read_npy


def written(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize(
    ("name", "content", "rows"),
    [
        (
            "a.csv",
            "current,fuel\n1.5,diesel\n,gas\n",
            [{"current": 1.5, "fuel": "diesel"}, {"current": None, "fuel": "gas"}],
        ),
        ("a.csv", "\ufeffcurrent\n1\n", [{"current": 1.0}]),
        ("a.csv", "current; fuel\n1.5;diesel\n", [{"current": 1.5, "fuel": "diesel"}]),
        ("a.csv", "current\tfuel\n1.5\tdiesel\n", [{"current": 1.5, "fuel": "diesel"}]),
        ("a.json", "[[1, 2], [3, 4]]", [[1, 2], [3, 4]]),
        ("a.json", "[1, 2]", [[1, 2]]),
        ("a.json", '{"current": 1}', [{"current": 1}]),
        ("a.json", '[{"x": [1]}, {"x": [2]}]', [[1], [2]]),
        ("a.jsonl", '{"x": [1]}\n\n[2]\n', [[1], [2]]),
        ("a.png", b"bytes", [b"bytes"]),
    ],
)
def test_rows_are_read_from_every_kind_of_file(tmp_path, name, content, rows):
    assert read_many(written(tmp_path, name, content)) == rows


def test_arrays_have_their_rows_first(tmp_path):
    np.save(tmp_path / "a.npy", np.arange(6.0).reshape(3, 2))
    assert [row.tolist() for row in read_many(tmp_path / "a.npy")] == [[0, 1], [2, 3], [4, 5]]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.txt", "1"),
        ("a.csv", "current\n"),
        ("a.csv", b"\xff\xfe\x00"),
        ("a.csv", 'current\n"open'),
        ("a.json", "{"),
        ("a.json", "[]"[:0]),
        ("a.jsonl", "\n"),
        ("a.npy", b"rubbish"),
        ("a.npy", b""),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path, name, content):
    with pytest.raises(DataError, match=name):
        read_many(written(tmp_path, name, content))


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.csv", "a,b\n1,2\n1\n", r"1 cells under 2 names \(.*a\.csv, line 3\)"),
        ("a.csv", "a,b\n1,2,3\n", "3 cells under 2 names"),
        ("a.csv", "a,a\n1,2\n", "the same name: a"),
        ("a.jsonl", "[1]\n\nnope\n", r"a\.jsonl, line 3"),
    ],
)
def test_a_row_that_does_not_fit_is_refused_with_its_line(tmp_path, name, content, said):
    with pytest.raises(DataError, match=said):
        read_many(written(tmp_path, name, content))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"nowhere\.csv"):
        read_many(tmp_path / "nowhere.csv")


def test_a_header_that_promises_terabytes_allocates_nothing(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros(4))
    data = (tmp_path / "a.npy").read_bytes().replace(b"(4,)", b"(99999999999999,)")
    with pytest.raises(DataError):
        read_npy(data, where="a.npy")


def test_pickled_objects_are_never_loaded(tmp_path):
    np.save(tmp_path / "a.npy", np.array([object()], dtype=object), allow_pickle=True)
    with pytest.raises(DataError):
        read_many(tmp_path / "a.npy")
