"""The local endpoint: programs in other languages ask over HTTP, on a Unix socket or loopback.

    POST /v1/predict    {"id": "scan-7", "x": [1.5, "diesel"]}, or the bytes of an image
    POST /v1/feedback   {"id": "scan-7", "truth": "good"}
    GET  /v1/status     what the agent says about itself
    GET  /v1/openapi.json   this interface as OpenAPI 3.1

Answers are those of `fieldloop-device run`. There is no password: who may open the socket may
ask, so it listens on this machine only. Web pages cannot ask: a browser sends none of the content
types that are taken without first asking for a permission, which it does not get (the CORS
protocol, https://fetch.spec.whatwg.org/#http-cors-protocol).
"""

import contextlib
import importlib.resources
import ipaddress
import json
import socket
import socketserver
import stat
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

import msgspec

from fieldloop.errors import (
    ConfigError,
    EnvironmentFaultError,
    FieldloopError,
)
from fieldloop_device.agent import Agent
from fieldloop_device.answering import answer
from fieldloop_device.sources.lines import parse_line
from fieldloop_device.sources.source import Item

MAX_BODY_BYTES = 64 * 1024 * 1024
_TIMEOUT_S = 30.0
_BINARY = ("image/", "application/octet-stream")


class Endpoint:
    """Serves one agent; a context manager.

    Args:
        agent: Who answers.
        address: `HOST:PORT` of this machine (port 0: any free one), or `unix:PATH`.

    Raises:
        ConfigError: The address is none, or not one of this machine alone.
        EnvironmentFaultError: It cannot be listened on.
    """

    def __init__(self, agent: Agent, address: str) -> None:
        self._path: Path | None = None
        try:
            if address.startswith("unix:"):
                self._path = Path(address[5:])
                _remove_stale(self._path)
                self._server: _Server = _UnixServer(str(self._path), agent)
                self._path.chmod(stat.S_IRUSR | stat.S_IWUSR | stat.S_IRGRP | stat.S_IWGRP)
            else:
                self._server = _Server(_loopback(address), agent)
        except OSError as error:
            raise EnvironmentFaultError(
                f"the endpoint cannot listen: {error.strerror or error}",
                where=address,
                advice="Choose another address, or end the program that uses it.",
            ) from error
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.2}, name="endpoint"
        )
        self._thread.start()

    @property
    def address(self) -> str:
        """Where it listens."""
        if self._path is not None:
            return f"unix:{self._path}"
        host, port = self._server.server_address[:2]
        return f"{host!s}:{port}"

    def close(self) -> None:
        """Answer what is being asked and stop listening."""
        self._server.shutdown()
        self._thread.join()
        self._server.hang_up()
        self._server.server_close()
        if self._path is not None:
            self._path.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Server(ThreadingHTTPServer):
    daemon_threads = False  # `server_close` waits for the answers that are on their way
    block_on_close = True

    def __init__(self, address: Any, agent: Agent) -> None:
        self.agent = agent
        self._connections: set[socket.socket] = set()
        super().__init__(address, _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Remember who is connected; see `hang_up`."""
        self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Forget a connection that has ended."""
        self._connections.discard(request)
        super().shutdown_request(request)

    def hang_up(self) -> None:
        """Hear no more questions; answers on their way are still sent."""
        for connection in list(self._connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RD)

    def server_bind(self) -> None:
        """Bind, and nothing else."""
        # Not HTTPServer's own: it looks the host's name up in the network.
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = "localhost", 0

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is its own business."""


class _UnixServer(_Server):
    address_family = socket.AF_UNIX


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = _TIMEOUT_S
    server: _Server

    def do_GET(self) -> None:
        """Serve the status and the description."""
        path = urlsplit(self.path).path
        if path == "/v1/status":
            self._send(HTTPStatus.OK, msgspec.to_builtins(self.server.agent.status))
        elif path == "/v1/openapi.json":
            self._send(HTTPStatus.OK, openapi())
        else:
            self._unknown(path)

    def do_POST(self) -> None:
        """Take an input or a truth."""
        url = urlsplit(self.path)
        body = self._body()
        if body is None:
            return
        if url.path == "/v1/predict":
            names = parse_qs(url.query).get("id", [None])
            self._predict(body, names[0])
        elif url.path == "/v1/feedback":
            self._feedback(body)
        else:
            self._unknown(url.path)

    def _predict(self, body: bytes, name: str | None) -> None:
        content_type = self.headers.get("Content-Type", "")
        if content_type.startswith("application/json"):
            item = parse_line(body)
        elif content_type.startswith(_BINARY):
            item = Item(name, body)
        else:
            self._refuse(
                HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
                f"'{content_type}' is not taken",
                "Send application/json, image/* or application/octet-stream.",
            )
            return
        said = answer(self.server.agent, item)
        self._send(_status_of(item), said)

    def _feedback(self, body: bytes) -> None:
        try:
            told = msgspec.json.decode(body, type=_Feedback)
            correct = self.server.agent.feedback(told.id, told.truth)
        except msgspec.MsgspecError as error:
            self._refuse(HTTPStatus.BAD_REQUEST, str(error), 'Send {"id": "…", "truth": …}.')
        except FieldloopError as error:
            self._send(HTTPStatus.NOT_FOUND, {"id": told.id, "error": error.as_dict()})
        else:
            self._send(HTTPStatus.OK, {"id": told.id, "correct": correct})

    def _body(self) -> bytes | None:
        length = self.headers.get("Content-Length", "")
        if not length.isdigit():
            self._refuse(HTTPStatus.LENGTH_REQUIRED, "the length is missing", "Send it.")
            return None
        if int(length) > MAX_BODY_BYTES:
            self.close_connection = True  # what follows is not read
            what = f"{length} bytes are more than the {MAX_BODY_BYTES} that are read"
            self._refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, what, "Send a smaller input.")
            return None
        return self.rfile.read(int(length))

    def _unknown(self, path: str) -> None:
        self._refuse(HTTPStatus.NOT_FOUND, f"there is no {path}", "See /v1/openapi.json.")

    def _refuse(self, status: HTTPStatus, what: str, advice: str) -> None:
        self._send(status, {"error": {"error": "InputError", "what": what, "advice": advice}})

    def _send(self, status: HTTPStatus, document: Any) -> None:
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Inputs are counted in telemetry, not logged."""


class _Feedback(msgspec.Struct, forbid_unknown_fields=True):
    id: str
    truth: bool | int | float | str | tuple[bool | int | float | str, ...]


def _status_of(item: Item) -> HTTPStatus:
    if item.error is None and not item.is_refused:
        failed = item.answer is not None and "error" in item.answer
        return HTTPStatus.SERVICE_UNAVAILABLE if failed else HTTPStatus.OK
    return HTTPStatus.BAD_REQUEST


def openapi() -> dict[str, Any]:
    """Return the description of the interface (OpenAPI 3.1)."""
    text = importlib.resources.files("fieldloop_device").joinpath("openapi.json").read_text("utf-8")
    document: dict[str, Any] = json.loads(text)
    return document


def _loopback(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    try:
        is_local = host == "localhost" or ipaddress.ip_address(host).is_loopback
        number = int(port)
    except ValueError:
        is_local, number = False, -1
    if not is_local or not 0 <= number < 1 << 16:
        raise ConfigError(
            f"'{address}' is no address of this machine alone",
            advice="Use 127.0.0.1:PORT or unix:PATH; for other machines put a proxy with a "
            "password in front.",
        )
    return host, number


def _remove_stale(path: Path) -> None:
    """Take away the socket of an agent that was killed; a live one and anything else stay."""
    if not path.is_socket():
        return
    with socket.socket(socket.AF_UNIX) as probe, contextlib.suppress(ConnectionRefusedError):
        probe.connect(str(path))
        return
    path.unlink(missing_ok=True)
