"""Requests end when told, also those that wait for a connection or a header."""

import http.client
import socket
import threading
import time
import urllib.request

import pytest

from fieldloop_device.stoppable_http import opened

PATIENCE_S = 60.0


@pytest.fixture
def full():
    """A port whose queue is full: a further connection is neither made nor refused."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        waiting = []
        for _ in range(4):
            client = socket.socket()
            client.setblocking(False)
            client.connect_ex(server.getsockname())
            waiting.append(client)
        yield server.getsockname()[1]
        for client in waiting:
            client.close()


@pytest.fixture
def silent():
    """A port that takes a connection and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.mark.parametrize("kind", ["full", "silent"])
def test_whatever_is_waited_for_can_be_stopped(kind, request):
    port = request.getfixturevalue(kind)
    stop = threading.Event()
    timer = threading.Timer(0.3, stop.set)
    timer.start()
    begin = time.monotonic()
    asked = urllib.request.Request(f"http://127.0.0.1:{port}/")
    with (
        pytest.raises((OSError, http.client.HTTPException)),
        opened(asked, timeout_s=PATIENCE_S, is_stopped=stop.is_set),
    ):
        pass
    assert time.monotonic() - begin < PATIENCE_S / 2
    assert stop.is_set(), "it must have waited until it was told"
    timer.join()
