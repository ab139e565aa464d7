"""Versioned JSON on the wire, so that any MQTT tool can read along.

Field names are short (`telemetry` renames them), unknown fields are ignored so that a newer
device can talk to an older cloud, and every message carries its schema's version. What comes in
is measured before it is parsed and checked after, so a hostile payload costs little.
"""

import re
from typing import TypeVar

import msgspec

from fieldloop.errors import DataError

MAX_PAYLOAD_BYTES = 1 << 20
"""Largest payload that is parsed; brokers and clients are configured with it too."""

MAX_ITEMS = 100_000
"""Most elements that a payload may hold in lists and objects, counted before parsing."""

KNOWN_VERSION = 1
"""Newest schema version that this release can read."""

MessageT = TypeVar("MessageT", bound=msgspec.Struct)

_LONG_NUMBER = re.compile(rb"[0-9]{19}")
"""What an integer beyond 64 bits must contain; one with an exponent is no integer to msgspec."""

_INTEGER_BITS = 63

_encoder = msgspec.json.Encoder()


class _Versioned(msgspec.Struct):
    """Reads a message's version and nothing else; both spellings are in use."""

    v: int = 1
    version: int = 1


_version_decoder = msgspec.json.Decoder(_Versioned)


def encode(message: msgspec.Struct) -> bytes:
    """Write one message as JSON.

    Raises:
        DataError: It is larger than `MAX_PAYLOAD_BYTES` or holds what JSON cannot say, such as NaN
            in a field for numbers.

    Example:
        >>> from fieldloop.telemetry import Ack
        >>> encode(Ack(boot=1, ranges=((1, 4),)))
        b'{"v":1,"b":1,"r":[[1,4]]}'
    """
    try:
        payload = _encoder.encode(message)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise DataError(
            f"a {type(message).__name__} cannot be written as JSON: {error}",
            advice="Use numbers, text, lists and objects only.",
        ) from error
    _check_size(payload, type(message).__name__)
    if b"null" in payload:
        _check_nulls(payload, type(message))
    return payload


def decode(kind: type[MessageT], payload: bytes) -> MessageT:
    """Read one message.

    Raises:
        DataError: The payload is too large, not JSON, of a newer version than this release
            knows, holds an integer of more than 64 bits, or does not fit the schema.

    Example:
        >>> from fieldloop.telemetry import Ack
        >>> decode(Ack, b'{"b": 1, "r": [[1, 4]], "new": true}').ranges
        ((1, 4),)
    """
    name = kind.__name__
    _check_size(payload, name)
    if payload.count(b",") > MAX_ITEMS:
        raise DataError(
            f"a {name} holds more than {MAX_ITEMS} elements", advice="Send smaller messages."
        )
    try:
        # JSON has no limit for integers, our store has; honest payloads rarely get to the walk.
        if _LONG_NUMBER.search(payload):
            _check_integers(msgspec.json.decode(payload), name)
        message = msgspec.json.decode(payload, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        _check_version(_peek_version(payload), name)
        raise DataError(
            f"a {name} cannot be read: {error}",
            advice="Check that sender and receiver use the same release.",
        ) from error
    _check_version(getattr(message, "version", KNOWN_VERSION), name)
    return message


def _check_size(payload: bytes, name: str) -> None:
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise DataError(
            f"a {name} of {len(payload)} bytes is larger than {MAX_PAYLOAD_BYTES}",
            advice="Send smaller messages.",
        )


def _check_nulls(payload: bytes, kind: type[msgspec.Struct]) -> None:
    """Refuse to send NaN: JSON writes null for it, and the other side would refuse the message."""
    try:
        msgspec.json.decode(payload, type=kind)
    except msgspec.ValidationError as error:
        raise DataError(
            f"a {kind.__name__} holds NaN or infinity: {error}", advice="Send finite numbers only."
        ) from error


def _check_version(version: int, name: str) -> None:
    if version > KNOWN_VERSION:
        raise DataError(
            f"a {name} of version {version} came, version {KNOWN_VERSION} is the newest known",
            advice="Update fieldloop on this side.",
        )


def _peek_version(payload: bytes) -> int:
    """Return the version of a message that does not fit the schema, as far as it can be read."""
    try:
        versions = _version_decoder.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return KNOWN_VERSION
    return max(versions.v, versions.version)


def _check_integers(value: object, name: str) -> None:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            _check_integers(item, name)
    elif isinstance(value, int) and value.bit_length() > _INTEGER_BITS:
        raise DataError(
            f"a {name} holds an integer of more than 64 bits",
            advice="Check the sender: counters and times fit 64 bits.",
        )
