"""An HTTP server for one file that misbehaves on demand."""

import contextlib
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class FileServer:
    """What is served, and how.

    Attributes:
        content: The file.
        cut_after: Close the connection after so many bytes of a response; None sends all.
        ignores_range: Answer 200 with everything whatever was asked.
        wrong_range: Answer 206 with another range than asked for.
        status: Answer this instead.
        redirect: Send a Location header there.
        without_length: Send no Content-Length.
        pause_s: Sleep before each chunk of `chunk_bytes`.
        on_chunk: Called before each chunk.
        requests: The Range header of every request ("" without).
    """

    content: bytes
    cut_after: int | None = None
    ignores_range: bool = False
    wrong_range: bool = False
    status: int = 0
    redirect: str = ""
    without_length: bool = False
    pause_s: float = 0.0
    chunk_bytes: int = 1 << 16
    on_chunk: Callable[[], None] = lambda: None
    requests: list[str] = field(default_factory=list)
    url: str = ""

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        asked = request.headers.get("Range", "")
        self.requests.append(asked)
        if self.status or self.redirect:
            request.send_response(self.status or 302)
            if self.redirect:
                request.send_header("Location", self.redirect)
            request.send_header("Content-Length", "0")
            request.end_headers()
            return
        found = re.fullmatch(r"bytes=(\d+)-", asked)
        start = int(found[1]) if found and not self.ignores_range else 0
        request.send_response(206 if start else 200)
        if start:
            start -= self.wrong_range
            last = len(self.content) - 1
            request.send_header("Content-Range", f"bytes {start}-{last}/{len(self.content)}")
        body = self.content[start:]
        if not self.without_length:
            request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        with contextlib.suppress(OSError):
            self._send(request, body)

    def _send(self, request: BaseHTTPRequestHandler, body: bytes) -> None:
        request.close_connection = True
        for position in range(0, len(body), self.chunk_bytes):
            self.on_chunk()
            time.sleep(self.pause_s)
            chunk = body[position : position + self.chunk_bytes]
            if self.cut_after is not None:
                chunk = chunk[: max(self.cut_after - position, 0)]
                if not chunk:
                    return
            request.wfile.write(chunk)
            request.wfile.flush()


@contextlib.contextmanager
def serving(content: bytes, **options: object) -> Iterator[FileServer]:
    """Serve a file on a free port of this machine."""
    files = FileServer(content, **options)  # type: ignore[arg-type]

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            files.answer(self)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    files.url = f"http://127.0.0.1:{server.server_port}/model.flb"
    try:
        yield files
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
