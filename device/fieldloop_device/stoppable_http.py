"""HTTP that stops when told, whatever it is waiting for: a connection, a header or the next byte.

The standard library waits until its timeout. Here every connection is made step by step, and a
small thread that asks whether to stop closes the socket under a waiting read.
"""

import contextlib
import http.client
import select
import socket
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any, cast

_POLL_S = 0.1


class _Line:
    """The connections of one request; a redirect makes another."""

    def __init__(self, is_stopped: Callable[[], bool]) -> None:
        self._is_stopped = is_stopped
        self._sockets: list[socket.socket] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def begin(self) -> None:
        self._thread.start()

    def end(self) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(_POLL_S):
            if self._is_stopped():
                for connection in list(self._sockets):
                    with contextlib.suppress(OSError):
                        connection.shutdown(socket.SHUT_RDWR)

    def connect(
        self, address: tuple[str, int], timeout: float, *_: object, **__: object
    ) -> socket.socket:
        """Like `socket.create_connection`, but looks up now and then."""
        problem: OSError = ConnectionError(f"{address[0]} has no address")
        for family, kind, protocol, _name, place in socket.getaddrinfo(
            *address, type=socket.SOCK_STREAM
        ):
            connection = socket.socket(family, kind, protocol)
            try:
                self._reach(connection, place, time.monotonic() + timeout)
            except OSError as error:
                connection.close()
                problem = error
                continue
            connection.settimeout(timeout)
            self._sockets.append(connection)
            return connection
        raise problem

    def _reach(self, connection: socket.socket, place: Any, deadline: float) -> None:
        connection.setblocking(False)
        connection.connect_ex(place)
        while not select.select([], [connection], [], _POLL_S)[1]:
            if self._is_stopped() or time.monotonic() > deadline:
                raise TimeoutError("timed out")
        code = connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            raise OSError(code, "the connection was refused or lost")

    def plain(self, host: str, **options: Any) -> http.client.HTTPConnection:
        return self._ours(http.client.HTTPConnection(host, **options))

    def secure(self, host: str, **options: Any) -> http.client.HTTPConnection:
        return self._ours(http.client.HTTPSConnection(host, **options))

    def _ours(self, connection: http.client.HTTPConnection) -> http.client.HTTPConnection:
        connection._create_connection = self.connect  # type: ignore[attr-defined] # noqa: SLF001 - its seam
        return connection


class _Http(urllib.request.HTTPHandler):
    def __init__(self, line: _Line) -> None:
        super().__init__()
        self._line = line

    def http_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(cast("Any", self._line.plain), request)


class _Https(urllib.request.HTTPSHandler):
    def __init__(self, line: _Line) -> None:
        super().__init__()
        self._line = line

    def https_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(cast("Any", self._line.secure), request)


@contextlib.contextmanager
def opened(
    request: urllib.request.Request, *, timeout_s: float, is_stopped: Callable[[], bool]
) -> Iterator[http.client.HTTPResponse]:
    """Open an http(s) request; redirects are followed and cannot leave http(s).

    Args:
        request: What to ask.
        timeout_s: Longest wait for anything.
        is_stopped: Asked ten times a second; when it says yes, the waiting ends.

    Raises:
        OSError: As `urllib.request.urlopen`; also when it was stopped.
        http.client.HTTPException: A broken answer.
    """
    line = _Line(is_stopped)
    # Its own opener: no file, ftp or data handler.
    opener = urllib.request.OpenerDirector()
    for handler in (
        _Http(line),
        _Https(line),
        urllib.request.HTTPRedirectHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
    ):
        opener.add_handler(handler)
    line.begin()
    try:
        with cast("http.client.HTTPResponse", opener.open(request, timeout=timeout_s)) as response:
            yield response
    finally:
        line.end()
