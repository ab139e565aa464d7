"""The topic grammar: `fl/v1/{device}/{up|down}/{channel}`.

Device ids are lower-case letters, digits and hyphens only: an id with `+`, `#` or `/` could
subscribe to or speak for other devices.
"""

import re
from typing import Literal, NamedTuple, cast, get_args

from fieldloop.errors import ConfigError, DataError

PREFIX = "fl/v1"
"""Project and version of the grammar."""

DEVICE_ID = re.compile(r"[a-z0-9-]{1,64}")
"""What a device may be called; match it in full."""

UpChannel = Literal["tel", "evt", "smp", "rep", "status"]
"""From the device: windows, events, samples, reported state, birth and death."""

DownChannel = Literal["des", "ack"]
"""To the device: desired state, what is stored."""

Direction = Literal["up", "down"]

_CHANNELS: dict[str, tuple[str, ...]] = {"up": get_args(UpChannel), "down": get_args(DownChannel)}


class Address(NamedTuple):
    """A topic, taken apart."""

    device: str
    direction: Direction
    channel: UpChannel | DownChannel


def checked_device_id(device: str) -> str:
    """Return a device id that is safe in a topic, a path and a certificate.

    Raises:
        ConfigError: It has other characters than `[a-z0-9-]`, or not 1 to 64 of them.

    Example:
        >>> checked_device_id("pi-17")
        'pi-17'
    """
    if not DEVICE_ID.fullmatch(device):
        raise ConfigError(
            f"'{device[:80]}' cannot be a device id",
            advice="Use 1 to 64 lower-case letters, digits and hyphens.",
        )
    return device


def up(device: str, channel: UpChannel) -> str:
    """Return the topic on which a device speaks.

    Raises:
        ConfigError: The id or the channel is not one.

    Example:
        >>> up("pi-17", "tel")
        'fl/v1/pi-17/up/tel'
    """
    return _topic(checked_device_id(device), "up", channel)


def down(device: str, channel: DownChannel) -> str:
    """Return the topic on which a device is spoken to.

    Raises:
        ConfigError: The id or the channel is not one.

    Example:
        >>> down("pi-17", "des")
        'fl/v1/pi-17/down/des'
    """
    return _topic(checked_device_id(device), "down", channel)


def up_filter(channel: UpChannel | Literal["#"] = "#") -> str:
    """Return the filter for one channel of every device; `#` for all channels.

    Raises:
        ConfigError: The channel is not one.

    Example:
        >>> up_filter("tel")
        'fl/v1/+/up/tel'
    """
    if channel == "#":
        return f"{PREFIX}/+/up/#"
    return _topic("+", "up", channel)


def down_filter(device: str) -> str:
    """Return the filter for everything that is said to one device.

    Raises:
        ConfigError: The id is not one.

    Example:
        >>> down_filter("pi-17")
        'fl/v1/pi-17/down/+'
    """
    return f"{PREFIX}/{checked_device_id(device)}/down/+"


def parse(topic: str) -> Address:
    """Take a topic apart.

    Raises:
        DataError: It does not follow the grammar.

    Example:
        >>> parse("fl/v1/pi-17/up/tel").device
        'pi-17'
    """
    parts = topic.split("/")
    if len(parts) == 5 and "/".join(parts[:2]) == PREFIX:  # noqa: PLR2004 - as the grammar says
        device, direction, channel = parts[2:]
        if DEVICE_ID.fullmatch(device) and channel in _CHANNELS.get(direction, ()):
            return Address(
                device, cast("Direction", direction), cast("UpChannel | DownChannel", channel)
            )
    raise DataError(
        f"'{topic[:120]}' is not one of fieldloop's topics",
        advice=f"Topics look like {PREFIX}/DEVICE/up/tel.",
    )


def _topic(device: str, direction: Direction, channel: str) -> str:
    if channel not in _CHANNELS[direction]:
        raise ConfigError(
            f"there is no channel '{channel}' {direction}",
            advice=f"Use one of {', '.join(_CHANNELS[direction])}.",
        )
    return f"{PREFIX}/{device}/{direction}/{channel}"
