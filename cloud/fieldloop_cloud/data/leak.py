"""What a leakage check finds, and how it names rows and columns."""

from collections.abc import Sequence
from typing import Literal

import msgspec

LeakKind = Literal[
    "copy", "near copy", "group", "future", "disguise", "identifier", "constant in training"
]

SHOWN = 5
"""Rows or columns that a sentence names; the finding holds all."""


class Leak(msgspec.Struct, frozen=True, kw_only=True):
    """One finding.

    Attributes:
        kind: What was found.
        stops: Whether training stops for it.
        text: A sentence that names rows (counted from 1) or columns.
        advice: What to do about it.
        rows: Row numbers from 1: (held-out row, training row) for copies, single rows otherwise.
        columns: Names of the columns concerned.
    """

    kind: LeakKind
    stops: bool
    text: str
    advice: str
    rows: tuple[tuple[int, ...], ...] = ()
    columns: tuple[str, ...] = ()


def named_pairs(pairs: Sequence[tuple[int, int]]) -> str:
    """Name the first pairs of (held-out row, training row)."""
    named = ", ".join(f"{row} (as {twin})" for row, twin in pairs[:SHOWN])
    return named + (f" and {len(pairs) - SHOWN} more" if len(pairs) > SHOWN else "")


def named_columns(names: Sequence[str]) -> str:
    """Name the first columns."""
    named = ", ".join(f"'{name}'" for name in names[:SHOWN])
    return named + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
