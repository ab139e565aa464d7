"""Making room in the outbox: what is added up, what is dropped, and in which order.

Everything here changes the database in transactions of its own, or inside the caller's; a drop and
its count are one transaction.
"""

import itertools

from fieldloop import wire
from fieldloop.errors import DataError
from fieldloop.telemetry import TelemetryWindow
from fieldloop_device.outbox_database import OutboxDatabase
from fieldloop_device.stored_messages import Row
from fieldloop_device.windows import can_merge, merge

_MERGE_AT_ONCE = 64


def sent_mark(database: OutboxDatabase) -> tuple[int, int]:
    """Return the number up to which messages may have left this device."""
    return database.counter("sent_boot"), database.counter("sent_seq")


def delete(database: OutboxDatabase, condition: str, *values: int) -> tuple[int, int]:
    """Delete messages inside the caller's transaction; return their number and size."""
    freed = database.connection.execute(
        f"SELECT coalesce(sum(length(payload)), 0) FROM message WHERE {condition}",  # noqa: S608 - a constant of our own modules
        values,
    ).fetchone()[0]
    count = database.connection.execute(
        f"DELETE FROM message WHERE {condition}",  # noqa: S608 - the same
        values,
    ).rowcount
    return count, int(freed)


def drop_older(database: OutboxDatabase, wall_ms: int) -> tuple[int, int]:
    """Drop and count what was stored before this time; return its number and size.

    What was stored under an unsynchronised clock has no age and stays.
    """
    condition, newest_ms = "stored_ms BETWEEN 1 AND ?", wall_ms - 1
    query = f"SELECT 1 FROM message WHERE {condition} LIMIT 1"  # noqa: S608 - a constant
    if database.connection.execute(query, (newest_ms,)).fetchone() is None:
        return 0, 0
    with database.transaction():
        return _drop(database, condition, newest_ms)


def merge_oldest(database: OutboxDatabase) -> int | None:
    """Add up the two oldest windows that belong together and were never sent.

    Returns:
        The bytes that it freed; None if there are no such windows.
    """
    rows = [
        Row(*row)
        for row in database.connection.execute(
            "SELECT boot, seq, stream, payload FROM message "
            "WHERE stream = 'tel' AND (boot, seq) > (?, ?) ORDER BY boot, seq LIMIT ?",
            (*sent_mark(database), _MERGE_AT_ONCE),
        )
    ]
    for earlier, later in itertools.pairwise(rows):
        payload = _merged(earlier, later)
        if payload is None:
            continue
        with database.transaction() as connection:
            connection.execute("DELETE FROM message WHERE (boot, seq) = (?, ?)", earlier.number)
            connection.execute(
                "UPDATE message SET payload = ? WHERE (boot, seq) = (?, ?)",
                (payload, *later.number),
            )
        return len(earlier.payload) + len(later.payload) - len(payload)
    return None


def drop_oldest(database: OutboxDatabase) -> int | None:
    """Drop and count the oldest sample, without one the oldest event, at last a window.

    Returns:
        The bytes that it freed; None if there is nothing.
    """
    for stream in ("smp", "evt", "tel"):
        row = database.connection.execute(
            "SELECT boot, seq FROM message WHERE stream = ? ORDER BY boot, seq LIMIT 1",
            (stream,),
        ).fetchone()
        if row is not None:
            with database.transaction():
                return _drop(database, "boot = ? AND seq = ?", *row)[1]
    return None


def _drop(database: OutboxDatabase, condition: str, *values: int) -> tuple[int, int]:
    count, freed = delete(database, condition, *values)
    database.set_counter("dropped", database.counter("dropped") + count)
    return count, freed


def _merged(earlier: Row, later: Row) -> bytes | None:
    """Return the sum of two windows; None if they do not belong together or cannot be read."""
    try:
        first = wire.decode(TelemetryWindow, earlier.payload)
        second = wire.decode(TelemetryWindow, later.payload)
        return wire.encode(merge(first, second)) if can_merge(first, second) else None
    except DataError:
        return None
