"""Lines from a file descriptor: JSON objects, or CSV under a header."""

import csv
import json
import os
import select
import threading
from collections.abc import Callable, Iterator

from fieldloop.errors import DataError, EnvironmentFaultError
from fieldloop_device.inputs import cell
from fieldloop_device.sources.source import POLL_S, Item

MAX_LINE_BYTES = 64 * 1024 * 1024

Parser = Callable[[bytes], Item | None]
"""Makes an item of a line; None for a line that is none, such as a header."""


class LineSource:
    """Lines from a file descriptor.

    Args:
        descriptor: Where to read, for example 0 for standard input.
        parse: What a line means; JSON by default: `{"id": "…", "x": …}`, `id` may be left out.
        name: What is read, for messages.
    """

    def __init__(
        self, descriptor: int = 0, *, parse: Parser | None = None, name: str = "standard input"
    ) -> None:
        self._descriptor = descriptor
        self._parse = parse or parse_line
        self._name = name

    def items(self, stop: threading.Event) -> Iterator[Item]:
        """Give one item a line until the end of input."""
        buffer = b""
        while not stop.is_set():
            # Waiting here and not in `read` lets a signal end the wait.
            if not select.select([self._descriptor], [], [], POLL_S)[0]:
                continue
            chunk = self._read()
            if not chunk:
                break
            *lines, buffer = (buffer + chunk).split(b"\n")
            for line in lines:
                if stop.is_set():
                    return
                yield from self._items_of(line)
            if len(buffer) > MAX_LINE_BYTES:
                buffer = b""
                yield Item(None, error=_bad_line("it is longer than 64 MiB"))
        if not stop.is_set():
            yield from self._items_of(buffer)

    def _read(self) -> bytes:
        try:
            return os.read(self._descriptor, 1 << 16)
        except OSError as error:
            raise EnvironmentFaultError(
                f"{self._name} cannot be read: {error.strerror}",
                advice="Give it a file or a pipe, or use --source dir:PATH.",
            ) from error

    def _items_of(self, line: bytes) -> Iterator[Item]:
        if line.strip():
            item = self._parse(line)
            if item is not None:
                yield item


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


class CsvParser:
    """CSV lines: the first names the features, each other one is a row by these names.

    A column called `id` names the row. Quoted line breaks are not supported: a line is a row.

    Example:
        >>> parse = CsvParser()
        >>> parse(b"id,current,fuel")
        >>> parse(b"a,1.5,diesel").raw
        {'current': 1.5, 'fuel': 'diesel'}
    """

    def __init__(self) -> None:
        self._names: list[str] = []

    def __call__(self, line: bytes) -> Item | None:
        """Read one line; see `Parser`."""
        try:
            text = line.decode("utf-8-sig")
            cells = next(csv.reader([text.rstrip("\r")], strict=True))
        except (UnicodeDecodeError, csv.Error) as error:
            return Item(None, error=_bad_csv(f"it is not CSV: {error}"))
        if not self._names:
            self._names = [name.strip() for name in cells]
            return None
        if len(cells) != len(self._names):
            what = f"it has {len(cells)} cells under {len(self._names)} names"
            return Item(None, error=_bad_csv(what))
        row = dict(zip(self._names, cells, strict=True))
        name = row.pop("id", None)
        return Item(name or None, {key: cell(value) for key, value in row.items()})


def _bad_line(why: str) -> DataError:
    return DataError(f"a line cannot be used: {why}", advice='Write {"id": "…", "x": […]}.')


def _bad_csv(why: str) -> DataError:
    return DataError(
        f"a line cannot be used: {why}",
        advice="Write the columns' names first, then one cell for each.",
    )
