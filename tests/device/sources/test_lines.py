import os
import threading

import pytest

from fieldloop.errors import DataError, EnvironmentFaultError
from fieldloop_device.sources.lines import CsvParser, LineSource, parse_line

STOP = threading.Event


def lines(*chunks, stop=None, parse=None):
    reader, writer = os.pipe()

    def write():
        for chunk in chunks:
            os.write(writer, chunk)
        os.close(writer)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        return list(LineSource(reader, parse=parse).items(stop or STOP()))
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
    monkeypatch.setattr("fieldloop_device.sources.lines.MAX_LINE_BYTES", 1000)
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


def test_a_descriptor_that_cannot_be_read_is_an_error_with_a_way_out(tmp_path):
    descriptor = os.open(tmp_path, os.O_RDONLY)
    try:
        with pytest.raises(EnvironmentFaultError, match=r"Is a directory.*dir:PATH"):
            list(LineSource(descriptor).items(threading.Event()))
    finally:
        os.close(descriptor)


def test_csv_lines_are_rows_by_the_names_of_the_first():
    items = lines(
        b"\xef\xbb\xbfid, current,fuel\r\na,1.5,diesel\r\n,,\r\n",
        b'b,2,"a, b"\nc,1\n\xff,1,2\n',
        parse=CsvParser(),
    )
    assert [(item.id, item.raw) for item in items[:3]] == [
        ("a", {"current": 1.5, "fuel": "diesel"}),
        (None, {"current": None, "fuel": None}),
        ("b", {"current": 2.0, "fuel": "a, b"}),
    ]
    assert "2 cells under 3 names" in items[3].error.what
    assert "not CSV" in items[4].error.what
    assert len(items) == 5
