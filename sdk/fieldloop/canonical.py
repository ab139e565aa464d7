"""Canonical JSON: one spelling for one document, so that equal things have equal hashes."""

import math

import msgspec

from fieldloop.errors import DataError


def check_finite(document: object) -> None:
    """Refuse NaN and infinity: JSON writes null for them, and null means 'not known' here.

    Raises:
        DataError: A number is not finite; says where.
    """
    pending = [("", msgspec.to_builtins(document, enc_hook=_refuse))]
    while pending:
        place, value = pending.pop()
        if isinstance(value, dict):
            pending += [(f"{place}.{key}", item) for key, item in value.items()]
        elif isinstance(value, (list, tuple)):
            pending += [(f"{place}[{number}]", item) for number, item in enumerate(value)]
        elif isinstance(value, float) and not math.isfinite(value):
            raise DataError(
                f"a bundle cannot hold {value}",
                where=place.removeprefix("."),
                advice="Leave the value out or mend its source.",
            )


def _refuse(value: object) -> object:
    raise DataError(
        f"a bundle cannot hold a {type(value).__name__}", advice="Give plain numbers and text."
    )


def canonical(document: object) -> bytes:
    """Return the one spelling of a document.

    Raises:
        DataError: It holds what JSON cannot say.
    """
    try:
        return msgspec.json.encode(document, order="deterministic")
    except (TypeError, ValueError, OverflowError) as error:
        raise DataError(
            f"a {type(document).__name__} cannot be written: {error}",
            advice="Give plain numbers and text.",
        ) from error
