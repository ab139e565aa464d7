"""A watched directory: every file that appears in it is one input."""

import threading
from collections.abc import Iterator
from pathlib import Path

from fieldloop.errors import ConfigError, EnvironmentFaultError, FieldloopError
from fieldloop_device.inputs import IMAGE_SUFFIXES, read_one
from fieldloop_device.sources.source import POLL_S, Item, rest

_SUFFIXES = {".json", ".npy", *IMAGE_SUFFIXES}


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
                rest(stop, POLL_S)

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
