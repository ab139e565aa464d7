"""An own Python function as the source: any sensor that has a library.

The function takes nothing and returns an iterable of raw inputs, or of `(id, raw)` pairs:

    # pressure.py, beside device.toml or anywhere on PYTHONPATH
    def readings():
        bus = smbus2.SMBus(1)
        while True:
            yield {"pressure": read_pressure(bus)}
            time.sleep(1)

    fieldloop-device run --root DIR --source python:pressure:readings
"""

import importlib
import threading
from collections.abc import Callable, Iterable, Iterator

from fieldloop.errors import ConfigError, EnvironmentFaultError
from fieldloop_device.sources.source import Item

_PAIR = 2


class PythonSource:
    """What a function yields.

    Args:
        name: `module:function`.

    Raises:
        ConfigError: There is no such module or function, or it cannot be imported.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._function = _find(name)

    def items(self, stop: threading.Event) -> Iterator[Item]:
        """Give what the function yields; it is asked for the next one after each answer.

        Raises:
            EnvironmentFaultError: The function failed.
        """
        try:
            for thing in self._function():
                if stop.is_set():
                    return
                yield _item(thing)
        except Exception as error:
            raise EnvironmentFaultError(
                f"the source failed: {type(error).__name__}: {error}",
                where=self._name,
                advice="Mend the function; the agent ends, and its supervisor starts it again.",
            ) from error


def _item(thing: object) -> Item:
    if isinstance(thing, tuple) and len(thing) == _PAIR and isinstance(thing[0], str):
        return Item(thing[0], thing[1])
    return Item(None, thing)


def _find(name: str) -> Callable[[], Iterable[object]]:
    module, _, attribute = name.partition(":")
    try:
        function = getattr(importlib.import_module(module), attribute)
    except Exception as error:
        raise ConfigError(
            f"the source cannot be imported: {type(error).__name__}: {error}",
            where=f"python:{name}",
            advice="Write python:MODULE:FUNCTION, with the module on PYTHONPATH.",
        ) from error
    if not callable(function):
        raise ConfigError(
            "this is no function",
            where=f"python:{name}",
            advice="Name a function that yields raw inputs.",
        )
    found: Callable[[], Iterable[object]] = function
    return found
