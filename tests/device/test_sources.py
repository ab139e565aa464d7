import json
import os
import threading

import numpy as np
import pytest

from fieldloop.errors import ConfigError, DataError, EnvironmentFaultError
from fieldloop_device.sources import DirectorySource, LineSource, open_source, parse_line

STOP = threading.Event


def lines(*chunks, stop=None):
    reader, writer = os.pipe()

    def write():
        for chunk in chunks:
            os.write(writer, chunk)
        os.close(writer)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        return list(LineSource(reader).items(stop or STOP()))
    finally:
        thread.join()
        os.close(reader)


def test_lines_are_items_however_they_arrive():
    items = lines(b'{"id": "a", "x"', b': [1, 2]}\n\n{"x": {"current"', b': 1}}\n{"id": 7, "x": 0}')
    assert [(item.id, item.raw, item.error) for item in items] == [
        ("a", [1, 2], None),
        (None, {"current": 1}, None),
        ("7", 0, None),
    ]


@pytest.mark.parametrize(
    "line", [b"nonsense", b"[1, 2]", b'{"y": 1}', b'"x"', b"\xff\xfe", b"[" * 100_000]
)
def test_a_bad_line_is_an_item_with_an_error(line):
    item = parse_line(line)
    assert isinstance(item.error, DataError)
    assert lines(line + b"\n" + b'{"x": 1}\n')[-1].raw == 1


def test_an_endless_line_does_not_fill_the_memory(monkeypatch):
    monkeypatch.setattr("fieldloop_device.sources._MAX_LINE_BYTES", 1000)
    items = lines(b"x" * 5_000, b"\n", b'{"x": 1}\n')
    assert items[0].error is not None
    assert items[-1].raw == 1


def test_a_stop_ends_the_wait_for_a_line():
    reader, writer = os.pipe()
    stop = STOP()
    threading.Timer(0.05, stop.set).start()
    assert list(LineSource(reader).items(stop)) == []
    os.close(reader)
    os.close(writer)


def serve(path):
    return list(DirectorySource(path, once=True).items(STOP()))


def test_files_are_served_in_order_and_moved_away(tmp_path):
    (tmp_path / "b.json").write_text("[1, 2]")
    (tmp_path / "a.json").write_text(json.dumps({"x": [3, 4]}))
    np.save(tmp_path / "c.npy", np.array([5.0, 6.0]))
    (tmp_path / "d.png").write_bytes(b"image bytes")
    (tmp_path / "notes.txt").write_text("not mine")
    items = serve(tmp_path)
    assert [item.id for item in items] == ["a.json", "b.json", "c.npy", "d.png"]
    assert items[0].raw == [3, 4]
    assert items[2].raw.tolist() == [5.0, 6.0]
    assert items[3].raw == b"image bytes"
    assert sorted(path.name for path in (tmp_path / "done").iterdir()) == [
        "a.json",
        "b.json",
        "c.npy",
        "d.png",
    ]
    assert (tmp_path / "notes.txt").exists()
    assert serve(tmp_path) == []


def test_a_bad_file_is_put_aside_and_the_next_one_served(tmp_path):
    (tmp_path / "a.json").write_text("{")
    (tmp_path / "b.npy").write_bytes(b"\x93NUMPY rubbish")
    (tmp_path / "c.json").write_text("[1]")
    items = serve(tmp_path)
    assert [item.error is None for item in items] == [False, False, True]
    assert {path.name for path in (tmp_path / "failed").iterdir()} == {"a.json", "b.npy"}


def test_a_file_is_served_again_if_its_answer_was_cut_off(tmp_path):
    (tmp_path / "a.json").write_text("[1]")
    cut = DirectorySource(tmp_path, once=True).items(STOP())
    assert next(cut).id == "a.json"
    cut.close()
    assert [item.id for item in serve(tmp_path)] == ["a.json"]


def test_a_growing_file_is_waited_for(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("[1")
    source = DirectorySource(tmp_path)
    assert source._look()[0] == []
    path.write_text("[1, 2]")
    assert source._look()[0] == []
    assert source._look()[0] == [path]


def test_a_file_that_cannot_be_moved_is_reported_once_and_kept(tmp_path, monkeypatch):
    (tmp_path / "a.json").write_text("[1]")
    (tmp_path / "done").write_text("a file where the directory should be")
    items = serve(tmp_path)
    assert [item.error is None for item in items] == [True, False]
    assert (tmp_path / "a.json").exists()


def test_sources_by_name(tmp_path):
    assert isinstance(open_source("stdin"), LineSource)
    assert isinstance(open_source(f"dir:{tmp_path}"), DirectorySource)
    for wrong in ("camera", "dir:", f"dir:{tmp_path}/missing"):
        with pytest.raises(ConfigError):
            open_source(wrong)


def test_a_descriptor_that_cannot_be_read_is_an_error_with_a_way_out(tmp_path):
    descriptor = os.open(tmp_path, os.O_RDONLY)
    try:
        with pytest.raises(EnvironmentFaultError, match=r"Is a directory.*dir:PATH"):
            list(LineSource(descriptor).items(threading.Event()))
    finally:
        os.close(descriptor)
