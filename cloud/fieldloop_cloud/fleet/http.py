"""Release files over HTTP, for devices to fetch.

Plain HTTP is enough: a device trusts a bundle by its signature and asks for it by its hash. Only
names that are a hash are served, so no path from outside reaches the disk. Ranges are supported,
so that a broken download goes on where it stopped.
"""

import re
import socket
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from fieldloop.errors import EnvironmentFaultError

SHA256_HEX = re.compile(r"[0-9a-f]{64}")

START_TIMEOUT_S = 20.0


def release_app(releases: Path, health: Callable[[], Mapping[str, object]]) -> Starlette:
    """Return the application.

    Args:
        releases: Directory of `<sha256>.flb`.
        health: What `/healthz` answers; with a true `ok` as 200, else as 503.
    """

    def release(request: Request) -> Response:
        sha256 = request.path_params["sha256"]
        file = releases / f"{sha256}.flb"
        if not SHA256_HEX.fullmatch(sha256) or not file.is_file():
            return JSONResponse({"error": "there is no such release"}, status_code=404)
        # A release never changes: its name is its hash.
        headers = {"ETag": f'"{sha256}"', "Cache-Control": "public, max-age=31536000, immutable"}
        return FileResponse(file, media_type="application/octet-stream", headers=headers)

    def healthz(_: Request) -> Response:
        answer = dict(health())
        return JSONResponse(answer, status_code=200 if answer.get("ok") else 503)

    return Starlette(routes=[Route("/releases/{sha256}.flb", release), Route("/healthz", healthz)])


class HttpServer:
    """Serves an application from a thread of its own.

    Args:
        app: What to serve.
        host: The address it listens on.
        port: The port; 0 takes a free one.
    """

    def __init__(self, app: Starlette, *, host: str, port: int) -> None:
        self._app = app
        self.host = host
        self.port = port
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        """Where it is reached on this machine."""
        return f"http://{self.host}:{self.port}"

    def start(self) -> None:
        """Listen and serve.

        Raises:
            EnvironmentFaultError: The port is taken or the server does not start.
        """
        try:
            listener = socket.create_server((self.host, self.port))
        except OSError as error:
            raise EnvironmentFaultError(
                f"the release server cannot listen: {error.strerror}",
                where=f"{self.host}:{self.port}",
                advice="End what holds the port, or choose another port.",
            ) from error
        self.port = int(listener.getsockname()[1])
        config = uvicorn.Config(
            self._app, log_level="warning", access_log=False, lifespan="off", ws="none"
        )
        started = threading.Event()
        self._server = _Announcing(config, started)
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [listener]}, name="http", daemon=True
        )
        self._thread.start()
        if not started.wait(START_TIMEOUT_S):
            self.stop()
            raise EnvironmentFaultError(
                "the release server does not start", where=self.url, advice="See the log."
            )

    def stop(self) -> None:
        """End; downloads under way are cut off after a moment and resume later."""
        if self._server is not None and self._thread is not None:
            self._server.should_exit = True
            self._server.force_exit = True
            self._thread.join()
        self._server, self._thread = None, None

    def __enter__(self) -> Self:
        """Start."""
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop."""
        self.stop()


class _Announcing(uvicorn.Server):
    """Tells when it is ready."""

    def __init__(self, config: uvicorn.Config, started: threading.Event) -> None:
        super().__init__(config)
        self._announced = started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, then tell."""
        await super().startup(sockets=sockets)
        self._announced.set()
