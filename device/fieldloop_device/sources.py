"""Where raw inputs come from: standard input or a watched directory.

A source is an iterator of items that ends when its `stop` event is set or when there is nothing
more to come. What cannot be read is an item too, with its error, so that one bad line or file is
counted and the next one is served.
"""

import json
import os
import select
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from fieldloop.errors import ConfigError, DataError, EnvironmentFaultError, FieldloopError
from fieldloop_device.inputs import IMAGE_SUFFIXES, read_one

_POLL_S = 0.2
_MAX_LINE_BYTES = 64 * 1024 * 1024
_SUFFIXES = {".json", ".npy", *IMAGE_SUFFIXES}


@dataclass(slots=True)
class Item:
    """One input.

    Attributes:
        id: As the source names it; None if it does not.
        raw: The input; meaningless with an error.
        error: Why it could not be read.
        is_refused: Set by who takes the item if the model does not take it.
    """

    id: str | None
    raw: object = None
    error: FieldloopError | None = None
    is_refused: bool = False


class Source(Protocol):
    """Something that gives inputs."""

    def items(self, stop: threading.Event) -> Iterator[Item]:
        """Give inputs until `stop` is set or no more can come."""


class LineSource:
    """JSON lines from a file descriptor: `{"id": "…", "x": …}`; `id` may be left out.

    Args:
        descriptor: Where to read, for example 0 for standard input.
    """

    def __init__(self, descriptor: int = 0) -> None:
        self._descriptor = descriptor

    def items(self, stop: threading.Event) -> Iterator[Item]:
        """Give one item a line until the end of input."""
        buffer = b""
        while not stop.is_set():
            # Waiting here and not in `read` lets a signal end the wait.
            if not select.select([self._descriptor], [], [], _POLL_S)[0]:
                continue
            try:
                chunk = os.read(self._descriptor, 1 << 16)
            except OSError as error:
                raise EnvironmentFaultError(
                    f"standard input cannot be read: {error.strerror}",
                    advice="Give it a file or a pipe, or use --source dir:PATH.",
                ) from error
            if not chunk:
                break
            *lines, buffer = (buffer + chunk).split(b"\n")
            for line in lines:
                if stop.is_set():
                    return
                if line.strip():
                    yield parse_line(line)
            if len(buffer) > _MAX_LINE_BYTES:
                buffer = b""
                yield Item(None, error=_bad_line("it is longer than 64 MiB"))
        if buffer.strip() and not stop.is_set():
            yield parse_line(buffer)


def parse_line(line: bytes) -> Item:
    """Read one JSON line.

    Example:
        >>> parse_line(b'{"id": "a", "x": [1, 2]}').raw
        [1, 2]
    """
    try:
        document = json.loads(line)
    except (ValueError, RecursionError) as error:
        return Item(None, error=_bad_line(f"it is not JSON: {error}"))
    if not isinstance(document, dict) or "x" not in document:
        return Item(None, error=_bad_line("it is not an object with 'x'"))
    name = document.get("id")
    return Item(str(name) if name is not None else None, document["x"])


def _bad_line(why: str) -> DataError:
    return DataError(f"a line cannot be used: {why}", advice='Write {"id": "…", "x": […]}.')


class DirectorySource:
    """Files that appear in a directory: `.json`, `.npy` and images.

    A file is taken when it has kept its size between two looks; write it under another name
    (`.tmp`) and rename it to be sure. Afterwards it lies in `done/`, or in `failed/` if it could
    not be read or the model does not take it.

    Args:
        path: The directory.
        once: End when every file was served instead of waiting for more.

    Raises:
        ConfigError: There is no such directory.
    """

    def __init__(self, path: Path, *, once: bool = False) -> None:
        if not path.is_dir():
            raise ConfigError(
                "there is no such directory",
                where=str(path),
                advice="Create it or correct --source.",
            )
        self._path = path
        self._once = once
        self._sizes: dict[Path, int] = {}
        self._stuck: set[Path] = set()

    def items(self, stop: threading.Event) -> Iterator[Item]:
        """Give one item a file, the oldest name first."""
        while not stop.is_set():
            ready, growing = self._look()
            for path in ready:
                if stop.is_set():
                    return
                item = self._read(path)
                yield item
                # Only now: a file whose answer was cut off is served again after a restart.
                problem = self._move_away(path, failed=item.error is not None or item.is_refused)
                if problem is not None:
                    yield problem
            if self._once and not ready and not growing:
                return
            if not ready:
                time.sleep(_POLL_S)  # in `stop.wait` a signal handler's `set` could hang

    def _look(self) -> tuple[list[Path], bool]:
        sizes = {
            path: path.stat().st_size
            for path in sorted(self._path.iterdir())
            if path.suffix.lower() in _SUFFIXES
            and path not in self._stuck
            and not path.name.startswith(".")
            and path.is_file()
        }
        ready = [path for path, size in sizes.items() if self._sizes.get(path) == size]
        self._sizes = sizes
        return ready, len(ready) < len(sizes)

    def _read(self, path: Path) -> Item:
        try:
            return Item(path.name, read_one(path))
        except FieldloopError as error:
            return Item(path.name, error=error)

    def _move_away(self, path: Path, *, failed: bool) -> Item | None:
        target = self._path / ("failed" if failed else "done")
        self._sizes.pop(path, None)
        try:
            target.mkdir(exist_ok=True)
            path.replace(target / path.name)
        except OSError as error:
            self._stuck.add(path)
            problem = EnvironmentFaultError(
                f"a served file cannot be moved away: {error.strerror}",
                where=str(path),
                advice="Give the agent write permission; the file is not served again until then.",
            )
            return Item(path.name, error=problem)
        return None


def open_source(text: str, *, once: bool = False) -> Source:
    """Open what `--source` names: `stdin` or `dir:PATH`.

    Raises:
        ConfigError: It names something else, or no directory.
    """
    if text == "stdin":
        return LineSource()
    kind, _, path = text.partition(":")
    if kind == "dir" and path:
        return DirectorySource(Path(path), once=once)
    raise ConfigError(f"'{text}' is not a source", advice="Use stdin or dir:PATH.")
