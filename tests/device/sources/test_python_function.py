import threading

import pytest

from fieldloop.errors import EnvironmentFaultError
from fieldloop_device.sources.python_function import PythonSource

MODULE = """
def readings():
    yield [1.0, 2.0]
    yield ("scan-7", {"current": 1.0})

def broken():
    yield [1.0]
    raise OSError("the bus is gone")
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    (tmp_path / "own_sensor.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    return "own_sensor"


def test_an_own_function_is_a_source(module):
    items = list(PythonSource(f"{module}:readings").items(threading.Event()))
    assert [(item.id, item.raw) for item in items] == [
        (None, [1.0, 2.0]),
        ("scan-7", {"current": 1.0}),
    ]


def test_it_ends_when_told(module):
    stop = threading.Event()
    items = PythonSource(f"{module}:readings").items(stop)
    next(items)
    stop.set()
    assert list(items) == []


def test_its_failure_is_an_error_that_names_it(module):
    items = PythonSource(f"{module}:broken").items(threading.Event())
    next(items)
    with pytest.raises(EnvironmentFaultError, match=r"OSError: the bus is gone.*own_sensor:broken"):
        next(items)
