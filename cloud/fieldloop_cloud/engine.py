"""Opens models for the workstation's own measuring, without the runtime's announcements.

A runtime writes to the process's stderr, past Python, that it uses XNNPACK: once, at the first
model. A device keeps that line, as its log is where a crash is explained; a person who compiles
or trains should not wonder about it.
"""

import contextlib
import os
import tempfile
import threading
from collections.abc import Iterator

from fieldloop.interpreter import Engine
from fieldloop.interpreter import open_engine as open_aloud

_STDERR = 2
_ANNOUNCEMENT = b"INFO: "
_LOCK = threading.Lock()
_heard: set[str | None] = set()


def open_engine(model: bytes, *, backend: str | None = None) -> Engine:
    """Load a TFLite flatbuffer; see `fieldloop.interpreter.open_engine`."""
    with _LOCK:
        if backend not in _heard:
            with _without_announcements():
                engine = open_aloud(model, backend=backend)
            _heard.add(backend)
            return engine
    return open_aloud(model, backend=backend)


@contextlib.contextmanager
def _without_announcements() -> Iterator[None]:
    """Hold back what is written to stderr meanwhile, and pass on what is no announcement."""
    with contextlib.ExitStack() as stack:
        held = stack.enter_context(tempfile.TemporaryFile())
        try:
            real = os.dup(_STDERR)
        except OSError:  # stderr is closed: there is nobody to spare
            yield
            return
        os.dup2(held.fileno(), _STDERR)
        try:
            yield
        finally:
            os.dup2(real, _STDERR)
            os.close(real)
            held.seek(0)
            for line in held:
                if not line.startswith(_ANNOUNCEMENT):
                    with contextlib.suppress(OSError):
                        os.write(_STDERR, line)
