"""From the text of `--source` to a source."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

from fieldloop.errors import ConfigError
from fieldloop_device.sources.camera import CameraSource
from fieldloop_device.sources.directory import DirectorySource
from fieldloop_device.sources.lines import CsvParser, LineSource, Parser
from fieldloop_device.sources.python_function import PythonSource
from fieldloop_device.sources.serial_line import SerialSource
from fieldloop_device.sources.source import Source
from fieldloop_device.sources.topic import TopicSource, topic_settings

KINDS = (
    "stdin, stdin:csv, dir:PATH, camera:DEVICE[?every_s=1], serial:PORT[?baud=115200&format=csv], "
    "mqtt://HOST[:PORT]/TOPIC[?answers=TOPIC], python:MODULE:FUNCTION or none"
)

_MQTT_PORT = 1883


@dataclass(frozen=True, slots=True)
class _Wish:
    """What `--source` says: all of it, what stands behind the kind, and what else is known."""

    text: str
    rest: str
    once: bool
    name: str


def open_source(text: str, *, once: bool = False, name: str = "device") -> Source | None:
    """Open what `--source` names; None for `none`, where only the endpoint is served.

    Args:
        text: One of `KINDS`.
        once: End when a directory is empty instead of waiting for more.
        name: Of this device, for the name of its session at a local broker.

    Raises:
        ConfigError: It names something else, or something that is not there.
        EnvironmentFaultError: It needs a library that is not installed.
    """
    if text == "none":
        return None
    kind, _, rest = text.partition(":")
    wish = _Wish(text, rest, once, name)
    if kind == "stdin":
        return LineSource(parse=_parser(wish, rest or "json"))
    if not rest or kind not in _OPENERS:
        raise _wrong(wish)
    return _OPENERS[kind](wish)


def _directory(wish: _Wish) -> Source:
    return DirectorySource(Path(wish.rest), once=wish.once)


def _camera(wish: _Wish) -> Source:
    device, options = _options(wish, {"every_s"})
    return CameraSource(device, every_s=_number(wish, options.get("every_s", "1")))


def _serial(wish: _Wish) -> Source:
    path, options = _options(wish, {"baud", "format"})
    baud = int(_number(wish, options.get("baud", "115200")))
    return SerialSource(path, baud=baud, parse=_parser(wish, options.get("format", "json")))


def _python(wish: _Wish) -> Source:
    return PythonSource(wish.rest)


def _topic(wish: _Wish) -> Source:
    # Not for urllib alone: in a topic '#' is a wildcard and no fragment.
    address, query = _options(wish, {"answers"})
    url = urlsplit(f"mqtt:{address.replace('#', '%23')}")
    try:
        port = url.port or _MQTT_PORT
    except ValueError as error:
        raise _wrong(wish) from error
    topic = url.path[1:].replace("%23", "#")
    if not url.hostname or not topic:
        raise _wrong(wish)
    if url.username or url.password:
        raise ConfigError(
            "a password on the command line can be read by every user of this machine",
            where="--source mqtt",
            advice="Let the local broker take clients from this machine without one.",
        )
    settings = topic_settings(url.hostname, port, client_id=f"{wish.name}-source")
    return TopicSource(settings, topic, answers=query.get("answers"))


_OPENERS: dict[str, Callable[[_Wish], Source]] = {
    "dir": _directory,
    "camera": _camera,
    "serial": _serial,
    "mqtt": _topic,
    "python": _python,
}


def _options(wish: _Wish, known: set[str]) -> tuple[str, dict[str, str]]:
    target, _, query = wish.rest.partition("?")
    options = dict(parse_qsl(query, keep_blank_values=True))
    if not target or options.keys() - known:
        raise _wrong(wish)
    return target, options


def _number(wish: _Wish, value: str) -> float:
    try:
        number = float(value)
    except ValueError as error:
        raise _wrong(wish) from error
    if not 0 < number < float("inf"):
        raise _wrong(wish)
    return number


def _parser(wish: _Wish, name: str) -> Parser | None:
    if name not in {"json", "csv"}:
        raise _wrong(wish)
    return CsvParser() if name == "csv" else None


def _wrong(wish: _Wish) -> ConfigError:
    return ConfigError(f"'{wish.text}' is not a source", advice=f"Use {KINDS}.")
