"""How messages get into the tables: each once, and what cannot be stored as a dead letter."""

import sqlite3
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from fieldloop import topics, wire
from fieldloop.errors import DataError
from fieldloop.telemetry import Event, FieldSample, Stream, TelemetryWindow
from fieldloop_cloud.fleet.records import Incoming, Numbered, Outcome, event_clock, event_time_ms

KINDS: Final[Mapping[Stream, type[Numbered]]] = {
    "tel": TelemetryWindow,
    "evt": Event,
    "smp": FieldSample,
}
"""What each stream carries."""

MAX_DEAD_LETTERS: Final = 10_000
"""The newest are kept, so that a broken device cannot fill the disk; all are counted."""

DEAD_LETTER_BYTES: Final = 64 * 1024
"""So much of each is kept."""

_INSERT_MESSAGE = """
INSERT INTO messages (device, boot, seq, stream, model, at_ms, received_ms, payload)
VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (device, boot, seq) DO NOTHING
"""
_COUNT = """
INSERT INTO counters (device, {column}) VALUES (?, 1)
ON CONFLICT (device) DO UPDATE SET {column} = {column} + 1
"""
_COUNT_DUPLICATE = _COUNT.format(column="duplicates")
_COUNT_DEAD_LETTER = _COUNT.format(column="dead_letters")


def record_all(db: sqlite3.Connection, batch: Sequence[Incoming]) -> list[Outcome]:
    """Store messages in the transaction that is open; return what became of each.

    Raises:
        DataError: A number that cannot be.
    """
    for incoming in batch:
        _check_numbers(incoming.message)
    rows = [_row(incoming) for incoming in batch]
    db.execute("SAVEPOINT batch")
    stored = db.executemany(_INSERT_MESSAGE, rows).rowcount
    if stored == len(rows):
        outcomes: list[Outcome] = ["stored"] * len(rows)
    else:  # rare: find out which, one by one
        db.execute("ROLLBACK TO batch")
        outcomes = [
            _record_one(db, incoming, row) for incoming, row in zip(batch, rows, strict=True)
        ]
    db.execute("RELEASE batch")
    for incoming, outcome in zip(batch, outcomes, strict=True):
        if outcome == "stored" and isinstance(incoming.message, FieldSample):
            _index_sample(db, incoming.device, incoming.message)
    return outcomes


def _row(incoming: Incoming) -> tuple[object, ...]:
    message = incoming.message
    at_ms = event_time_ms(event_clock(message), message.sent, incoming.received_ms)
    return (
        incoming.device,
        message.boot,
        message.seq,
        incoming.stream,
        message.model,
        at_ms,
        incoming.received_ms,
        incoming.payload,
    )


def _record_one(db: sqlite3.Connection, incoming: Incoming, row: tuple[object, ...]) -> Outcome:
    """Store one message of a batch in which some were there before."""
    if db.execute(_INSERT_MESSAGE, row).rowcount:
        return "stored"
    device, message = incoming.device, incoming.message
    stream, payload = db.execute(
        "SELECT stream, payload FROM messages WHERE device = ? AND boot = ? AND seq = ?",
        (device, message.boot, message.seq),
    ).fetchone()
    # Sent again it differs in its sending time only. Anything else under the same number is a
    # device whose boot counter went back: to drop that silently would lose its data for good.
    if stream == incoming.stream:
        before = wire.decode(KINDS[incoming.stream], payload)
        if msgspec.structs.replace(before, sent=message.sent) == message:
            db.execute(_COUNT_DUPLICATE, (device,))
            return "duplicate"
    reason = (
        f"(boot {message.boot}, seq {message.seq}) was used before for something else; has the "
        "device's boot counter gone back?"
    )
    topic = topics.up(device, incoming.stream)
    bury(db, topic, incoming.payload, reason, incoming.received_ms)
    return "conflict"


def _index_sample(db: sqlite3.Connection, device: str, sample: FieldSample) -> None:
    """Make a sample known by its id; the first of one id stays."""
    db.execute(
        "INSERT INTO samples SELECT device, ?, id FROM messages "
        "WHERE device = ? AND boot = ? AND seq = ? ON CONFLICT DO NOTHING",
        (sample.sample_id, device, sample.boot, sample.seq),
    )


def bury(db: sqlite3.Connection, topic: str, payload: bytes, reason: str, received_ms: int) -> None:
    """Keep a dead letter, and count it for its device."""
    device = _device_of(topic)
    number = db.execute(
        "INSERT INTO dead_letters (device, topic, payload, size_bytes, reason, received_ms) "
        "VALUES (?, ?, ?, ?, ?, ?)",
        (device, topic, payload[:DEAD_LETTER_BYTES], len(payload), reason, received_ms),
    ).lastrowid
    db.execute("DELETE FROM dead_letters WHERE id <= ?", ((number or 0) - MAX_DEAD_LETTERS,))
    db.execute(_COUNT_DEAD_LETTER, (device,))


def _device_of(topic: str) -> str:
    try:
        return topics.parse(topic).device
    except DataError:
        return ""


def _check_numbers(message: Numbered) -> None:
    if message.boot < 0 or message.seq < 1:
        raise DataError(
            f"boot {message.boot} and seq {message.seq} cannot be",
            advice="Count boots from 0 and messages from 1.",
        )
