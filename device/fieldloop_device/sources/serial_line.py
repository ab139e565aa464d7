"""A serial line: a sensor or a microcontroller that writes one reading a line.

A GPIO pin, an I²C sensor or anything else that needs its own library is an own Python function
(`python_function`).
"""

import contextlib
import os
import termios
import threading
import tty
from collections.abc import Iterator

from fieldloop.errors import ConfigError, EnvironmentFaultError
from fieldloop_device.sources.lines import LineSource, Parser
from fieldloop_device.sources.source import Item, rest

_RETRY_S = 2.0


class SerialSource:
    """Lines from a serial port, which may be unplugged and come back.

    Args:
        path: The port, for example `/dev/ttyUSB0`.
        baud: Its speed.
        parse: What a line means, as in `LineSource`.

    Raises:
        ConfigError: The system knows no such speed.
    """

    def __init__(self, path: str, *, baud: int = 115_200, parse: Parser | None = None) -> None:
        speed = getattr(termios, f"B{baud}", None)
        if speed is None:
            raise ConfigError(
                f"{baud} baud is no speed of a serial port",
                where=path,
                advice="Use for example 9600, 57600 or 115200.",
            )
        self._path = path
        self._speed: int = speed
        self._parse = parse

    def items(self, stop: threading.Event) -> Iterator[Item]:
        """Give one item a line; each loss of the port is one item with its error."""
        is_lost = False
        while not stop.is_set():
            try:
                descriptor = self._open()
            except EnvironmentFaultError as error:
                if not is_lost:
                    yield Item(None, error=error)
                is_lost = True
                rest(stop, _RETRY_S)
                continue
            is_lost = False
            try:
                yield from LineSource(descriptor, parse=self._parse, name=self._path).items(stop)
            except EnvironmentFaultError as error:
                is_lost = True
                yield Item(None, error=error)
            finally:
                with contextlib.suppress(OSError):
                    os.close(descriptor)
            rest(stop, _RETRY_S)

    def _open(self) -> int:
        try:
            descriptor = os.open(self._path, os.O_RDONLY | os.O_NOCTTY | os.O_NONBLOCK)
        except OSError as error:
            raise self._fault(error.strerror or "it cannot be opened") from error
        try:
            os.set_blocking(descriptor, True)
            tty.setraw(descriptor, termios.TCSANOW)  # what came already is not thrown away
            settings = termios.tcgetattr(descriptor)
            settings[4] = settings[5] = self._speed  # input and output speed, see termios(3)
            termios.tcsetattr(descriptor, termios.TCSANOW, settings)
        except (termios.error, OSError) as error:
            os.close(descriptor)
            raise self._fault("it is not a serial port") from error
        return descriptor

    def _fault(self, why: str) -> EnvironmentFaultError:
        return EnvironmentFaultError(
            f"the serial port cannot be used: {why}",
            where=self._path,
            advice="Plug it in and give the agent's user access (group dialout); it is tried "
            "again every two seconds.",
        )
